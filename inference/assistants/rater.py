"""Which level a picture belongs to, as a local classifier or a CLIP sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from inference.assistants.late import Late, load_part, load_weights
from inference.assistants.spec import RaterSpec
from inference.errors import PipelineFailed
from inference.hub.download import Download

SFW, NSFW = "sfw", "nsfw"
# What a CLIP compares a picture with where nobody describes the levels.
_USUAL = {
    SFW: "a picture that anybody may see, at work and with children around",
    NSFW: "a picture of nudity, sex, blood or gore",
}


@dataclass(frozen=True, slots=True)
class _Eye:
    """An image model, and what makes its inputs."""

    model: Any
    pictures: Any
    words: Any = None

    def pixels(self, picture: Image) -> torch.Tensor:
        """[1, 3, height, width] as the model takes it."""
        made = self.pictures(images=picture.convert("RGB"), return_tensors="pt")["pixel_values"]
        return torch.as_tensor(made).to(self.model.device, self.model.dtype)


class LocalRater:
    """Rates by the models that `rater` of models.yaml names; used by one thread."""

    def __init__(self, spec: RaterSpec, download: Download | None = None) -> None:
        self._spec = spec
        classifier, clip = spec.classifier, spec.clip
        places = [(classifier, spec.classifier_revision)] if classifier is not None else []
        self._classifier = Late(self._load_classifier, places, download)
        places = [(clip, spec.clip_revision)] if clip is not None else []
        self._clip = Late(self._load_clip, places, download)

    def rate(self, picture: Image, levels: Mapping[str, str]) -> str:
        """One of `levels`, each with its description; of none given, "sfw" or "nsfw".

        Raises ModelFailed and PipelineFailed.
        """
        if levels:
            shares = self._compare(picture, list(levels.items()))
            return max(zip(levels, shares, strict=True), key=lambda pair: pair[1])[0]
        nsfw = self._nsfw(picture)
        return NSFW if nsfw >= self._spec.threshold else SFW

    def _nsfw(self, picture: Image) -> float:
        """How surely, 0 to 1, a picture is not safe for work."""
        if self._spec.classifier is None:
            return self._compare(picture, list(_USUAL.items()))[1]
        eye = self._classifier.get()
        with torch.inference_mode():
            logits = eye.model(pixel_values=eye.pixels(picture)).logits[0].float()
        config = eye.model.config
        unsafe = [index for index, label in config.id2label.items() if self._is_nsfw(label)]
        if config.problem_type == "multi_label_classification" or len(logits) == 1:
            return _sure(logits.sigmoid()[unsafe].max())
        return _sure(logits.softmax(0)[unsafe].sum())

    def _compare(self, picture: Image, levels: Sequence[tuple[str, str]]) -> list[float]:
        """How well each level's description fits the picture, adding up to 1."""
        eye = self._clip.get()
        texts = [description or value for value, description in levels]
        length = eye.model.config.text_config.max_position_embeddings
        # SigLIP was trained on padded texts alone, and a CLIP does not mind.
        words = eye.words(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        with torch.inference_mode():
            seen = eye.model(pixel_values=eye.pixels(picture), **words.to(eye.model.device))
        shares = seen.logits_per_image[0].float().softmax(0)
        return [_sure(share) for share in shares]

    def _load_classifier(self) -> _Eye:
        spec = self._spec
        assert spec.classifier is not None
        place = (spec.classifier, spec.classifier_revision)
        model = load_weights("AutoModelForImageClassification", *place, spec.device)
        labels = list(model.config.id2label.values())
        known = {label.casefold() for label in labels}
        for name in spec.nsfw_labels:
            if name.casefold() not in known:
                raise ValueError(f"nsfw_labels: it has no {name!r}; it has {', '.join(labels)}")
        return _Eye(model, load_part("AutoImageProcessor", *place, backend="pil"))

    def _load_clip(self) -> _Eye:
        spec = self._spec
        assert spec.clip is not None, "the door lets no levels pass without a clip"
        place = (spec.clip, spec.clip_revision)
        return _Eye(
            load_weights("AutoModelForZeroShotImageClassification", *place, spec.device),
            load_part("AutoImageProcessor", *place, backend="pil"),
            load_part("AutoTokenizer", *place),
        )

    def _is_nsfw(self, label: str) -> bool:
        return label.casefold() in {name.casefold() for name in self._spec.nsfw_labels}


def _sure(share: torch.Tensor) -> float:
    """A share as a number; raises PipelineFailed where the model saw none."""
    if not torch.isfinite(share):
        raise PipelineFailed("the model answers with numbers that are none")
    return float(share)

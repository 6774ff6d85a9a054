"""A picture in words, by a local captioning model."""

from __future__ import annotations

from typing import Any

import torch
from PIL.Image import Image

from inference.assistants.late import Late, load_part, load_weights
from inference.hub.download import Download

MOST_TOKENS = 80


class LocalCaptioner:
    """Says what is on a picture in one sentence; used by one thread."""

    def __init__(
        self, source: str, revision: str | None, device: str, download: Download | None = None
    ) -> None:
        self._place = (source, revision)
        self._device = device
        self._loaded: Late[tuple[Any, Any, Any]] = Late(self._load, [self._place], download)

    def describe(self, picture: Image, max_seconds: float) -> str:
        """The caption, as far as it gets in time; raises ModelFailed."""
        model, pictures, words = self._loaded.get()
        seen = pictures(images=picture.convert("RGB"), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            made = model.generate(
                pixel_values=torch.as_tensor(seen).to(model.device, model.dtype),
                do_sample=False,
                max_new_tokens=MOST_TOKENS,
                max_time=max_seconds,
            )
        return str(words.decode(made[0], skip_special_tokens=True)).strip()

    def _load(self) -> tuple[Any, Any, Any]:
        model = load_weights("AutoModelForImageTextToText", *self._place, self._device)
        pictures = load_part("AutoImageProcessor", *self._place, backend="pil")
        return model, pictures, load_part("AutoTokenizer", *self._place)

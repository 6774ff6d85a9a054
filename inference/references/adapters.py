"""The checkpoints that take tags from reference pictures: read, checked against their model.

All is read into RAM, on any thread but a worker's, and leaves the model as it is.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from transformers import CLIPVisionModelWithProjection

from inference.errors import ReferenceFailed
from inference.hub.files import of_reference
from inference.loading import LOAD_LOCK, place_of, read_part
from inference.references.image_rows import ImageAdapter
from inference.references.spec import ReferenceSpec
from inference.residency.quiet import loading

# What a ControlNet has in common with the denoiser that it was made for, where both say it.
_SHARED_SHAPE = (
    *("cross_attention_dim", "block_out_channels", "joint_attention_dim"),
    *("attention_head_dim", "num_attention_heads"),
)


def load_controlnet(entry: ReferenceSpec, kind: str, denoiser: Any) -> Any:
    """A ControlNet of the class `kind` for that denoiser; raises with the reason against it."""
    wanted = getattr(diffusers, kind)
    folder = Path(place_of(of_reference("", entry)[0]), entry.subfolder)
    held = wanted.load_config(folder).get("_class_name", kind)
    if held != kind:
        raise ReferenceFailed(f"{entry.source} holds a {held}, not a {kind}")
    net = read_part(wanted, entry.source, denoiser.dtype, entry.revision, entry.subfolder)
    for name in _SHARED_SHAPE:
        ours, its = denoiser.config.get(name), net.config.get(name)
        if None not in (ours, its) and _plain(ours) != _plain(its):
            what = f"{name} is {_plain(its)} there and {_plain(ours)} here"
            raise ReferenceFailed(f"{entry.source} was made for another base: {what}")
    knows_several = getattr(net, "union", False)
    if knows_several is not (entry.control_mode is not None):
        needs = "several kinds of condition: name its control_mode"
        one = "one kind of condition: name no control_mode"
        raise ReferenceFailed(f"{entry.source} knows {needs if knows_several else one}")
    return net


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def load_redux(entry: ReferenceSpec, denoiser: Any) -> Any:
    """The encoder and embedder of FLUX.1 Redux, as the pipeline they come in."""
    kind = diffusers.FluxPriorReduxPipeline
    prior = read_part(kind, entry.source, denoiser.dtype, entry.revision)
    prior.set_progress_bar_config(disable=True)
    return prior


def load_image_adapter(entry: ReferenceSpec, pipe: Any, component: str) -> ImageAdapter:
    """An IP-Adapter for the denoiser that the pipeline has under `component`."""
    denoiser = getattr(pipe, component)
    file, encoder_place = of_reference("", entry)
    folder = place_of(file)
    encoder = read_part(
        CLIPVisionModelWithProjection,
        encoder_place.repository,
        denoiser.dtype,
        encoder_place.revision,
        encoder_place.path,
    )
    eyes, catcher = copy.copy(pipe), _Catcher(denoiser)
    eyes.__dict__ |= {"image_encoder": encoder, "feature_extractor": None, component: catcher}
    with LOAD_LOCK, loading(), torch.no_grad():
        # diffusers knows the layouts, and hands what it has read to the denoiser
        eyes.load_ip_adapter(folder, subfolder=entry.subfolder, weight_name=entry.file)
        (weights,) = catcher.caught
        _check_plain(weights, entry)
        kind = type(denoiser)
        try:
            found = kind._convert_ip_adapter_attn_to_diffusers(catcher, [weights])
        except KeyError as error:
            what = f"it has no {error.args[0]}"
            raise ReferenceFailed(f"{entry.file} was made for another base: {what}") from None
        layers = kind._convert_ip_adapter_image_proj_to_diffusers(catcher, weights["image_proj"])
        projection = MultiIPAdapterImageProjection([layers]).to(denoiser.dtype)
    return ImageAdapter(
        component=component,
        processors={
            path.removesuffix(".processor"): one.to(denoiser.dtype)
            for path, one in found.items()
            if hasattr(one, "to_k_ip")
        },
        projection=projection.eval(),
        image_encoder=encoder,
        feature_extractor=eyes.feature_extractor,
    )


class _Catcher:
    """Stands in for a denoiser, in RAM, while diffusers reads an adapter's file for it."""

    def __init__(self, denoiser: Any) -> None:
        self.device, self.dtype = torch.device("cpu"), denoiser.dtype
        self.config, self.attn_processors = denoiser.config, denoiser.attn_processors
        self.inner_dim = getattr(denoiser, "inner_dim", None)
        self.caught: list[Any] = []

    def _load_ip_adapter_weights(self, state_dicts: list[Any], **options: Any) -> None:
        self.caught = state_dicts

    def _load_ip_adapter_loras(self, state_dicts: list[Any]) -> dict[str, Any]:
        return {}


def _check_plain(weights: dict[str, Any], entry: ReferenceSpec) -> None:
    if not weights["image_proj"] or not weights["ip_adapter"]:
        raise ReferenceFailed(f"{entry.file} holds no IP-Adapter that is known")
    if any("lora" in key for key in weights["ip_adapter"]):
        # it comes with LoRAs for the base, and sees faces that another model has found
        raise ReferenceFailed(f"{entry.file} is a Face ID adapter, which cannot be served")

"""Which diffusers pipeline serves which mode of a family, and what a family can do.

A family is a row of `FAMILIES`, not a class: adding one means adding the row, and a function in
`arguments.py` only where its call differs. No torch here: class names are strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inference.arguments import (
    MEGAPIXEL,
    TRUE_CFG,
    Maker,
    edit_all,
    edit_fitted,
    edit_native,
    generate,
    img2img,
    inpaint,
    inpaint_with,
    kontext,
    kontext_edit,
    sized_by_image,
)
from inference.job import Mode
from inference.references.spec import Way
from inference.samplers import SAMPLERS


@dataclass(frozen=True, slots=True)
class Route:
    """One mode of a family: the pipeline class by name and the maker of its call arguments.

    `max_sources` bounds the pictures to be changed, where the mode takes any. `extra_channels`
    are those that its denoiser may take in beside the latents: the mask and what it leaves.
    `max_area`, in pixels, is what the pipeline shrinks a larger picture to unasked.
    """

    pipeline: str
    arguments: Maker
    max_sources: int = 1
    extra_channels: tuple[int, ...] | None = None
    max_area: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRoute:
    """One mode of a family with a ControlNet: the pipeline class, and how its call differs.

    `picture_field` is the argument that carries the condition, and `mode_field` the one, if any,
    that tells of which kind it is. `true_cfg` and `ip_adapter` are false of a class that lacks the
    arguments for either.
    """

    pipeline: str
    picture_field: str = "control_image"
    mode_field: str = ""
    true_cfg: bool = True
    ip_adapter: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What every model of one architecture shares.

    `size_multiple` is in pixels. `guidance_field` is the call argument that carries guidance when
    models.yaml does not say otherwise; `guidance_flag` is the denoiser's own word for whether it
    listens to that. `negative_field` is the only guidance field with which a negative prompt
    counts, where not every one does. `samplers` are those that a request may choose among; with
    none, a model has its own and no other. `controlnet` is the class of its ControlNets, `controls`
    the modes that take one, and `several_controls` whether they take more; `adapters` are the other
    ways for a checkpoint to read reference pictures, and `looks` says that the model itself can.
    `processors` names the components that classes of `processors.py` read. `defaults` stand where
    models.yaml sets none. With `any_pipeline` models.yaml names the classes, and their own
    signatures choose among the arguments.
    """

    routes: Mapping[Mode, Route]
    denoisers: tuple[str, ...]
    size_multiple: int
    native_side: int
    guidance_field: str = "guidance_scale"
    guidance_flag: str = ""
    negative_prompt: bool = True
    negative_field: str = ""
    max_sequence_length: bool = False
    loras: bool = True
    samplers: tuple[str, ...] = ()
    controlnet: str = ""
    controls: Mapping[Mode, ControlRoute] = field(default_factory=dict)
    several_controls: bool = False
    adapters: tuple[Way, ...] = ()
    looks: bool = False
    processors: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    any_pipeline: bool = False

    @property
    def reference_ways(self) -> tuple[Way, ...]:
        """How its models can take something from a reference picture."""
        own = (Way.CONTROLNET,) if self.controls else ()
        native = (Way.NATIVE,) if self.looks else ()
        return (*own, *self.adapters, *native, Way.TRANSFER)


def _flux(routes: Mapping[Mode, Route], **changes: Any) -> Family:
    """A family on the FLUX.1 transformer."""
    return Family(
        routes=routes,
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1024,
        guidance_flag="guidance_embeds",
        negative_field=TRUE_CFG,
        max_sequence_length=True,
        **changes,
    )


def _flux_control(pipeline: str, **changes: Any) -> ControlRoute:
    return ControlRoute(pipeline=pipeline, mode_field="control_mode", **changes)


def _qwen(routes: Mapping[Mode, Route], **changes: Any) -> Family:
    """A family on the Qwen-Image transformer."""
    return Family(
        routes=routes,
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1328,
        guidance_field=TRUE_CFG,
        max_sequence_length=True,
        # one space is what its makers write where nothing is to be avoided
        defaults={"num_inference_steps": 50, "guidance_scale": 4.0, "negative_prompt": " "},
        **changes,
    )


FAMILIES: Mapping[str, Family] = {
    "flux": _flux(
        {
            Mode.GENERATE: Route("FluxPipeline", generate, extra_channels=(0,)),
            Mode.IMG2IMG: Route("FluxImg2ImgPipeline", img2img, extra_channels=(0,)),
            Mode.INPAINT: Route("FluxInpaintPipeline", inpaint, extra_channels=(0,)),
        },
        controlnet="FluxControlNetModel",
        controls={
            Mode.GENERATE: _flux_control("FluxControlNetPipeline"),
            Mode.IMG2IMG: _flux_control(
                "FluxControlNetImg2ImgPipeline", true_cfg=False, ip_adapter=False
            ),
            Mode.INPAINT: _flux_control(
                "FluxControlNetInpaintPipeline", true_cfg=False, ip_adapter=False
            ),
        },
        several_controls=True,
        adapters=(Way.IP_ADAPTER, Way.REDUX),
    ),
    "flux-kontext": _flux(
        {
            Mode.GENERATE: Route("FluxKontextPipeline", kontext(generate)),
            Mode.EDIT: Route("FluxKontextPipeline", kontext(kontext_edit), max_sources=4),
            Mode.INPAINT: Route("FluxKontextInpaintPipeline", kontext(inpaint_with), max_sources=4),
        },
        defaults={"strength": 1.0},
        looks=True,
    ),
    "flux-fill": _flux(
        {
            # 64 of the picture that the mask leaves, and 16 × 16 pixels of mask
            Mode.INPAINT: Route("FluxFillPipeline", inpaint, extra_channels=(320,)),
        },
        negative_prompt=False,
        defaults={"guidance_scale": 30.0, "strength": 1.0},
        adapters=(Way.REDUX,),
    ),
    "flux2": Family(
        routes={
            Mode.GENERATE: Route("Flux2Pipeline", generate),
            Mode.EDIT: Route("Flux2Pipeline", edit_all, max_sources=8),
        },
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1024,
        guidance_flag="guidance_embeds",
        negative_prompt=False,
        max_sequence_length=True,
        processors={"tokenizer": "MistralPrompts"},
        defaults={"num_inference_steps": 50, "guidance_scale": 4.0},
        looks=True,
    ),
    "flux2-klein": Family(
        routes={
            Mode.GENERATE: Route("Flux2KleinPipeline", generate),
            Mode.EDIT: Route("Flux2KleinPipeline", edit_all, max_sources=4),
            Mode.INPAINT: Route(
                "Flux2KleinInpaintPipeline", inpaint_with, max_sources=4, max_area=MEGAPIXEL
            ),
        },
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1024,
        negative_prompt=False,
        max_sequence_length=True,
        defaults={"num_inference_steps": 50, "guidance_scale": 4.0},
        looks=True,
    ),
    "sdxl": Family(
        routes={
            Mode.GENERATE: Route("StableDiffusionXLPipeline", generate, extra_channels=(0,)),
            Mode.IMG2IMG: Route(
                "StableDiffusionXLImg2ImgPipeline", sized_by_image(img2img), extra_channels=(0,)
            ),
            # 4 channels, or 9: the mask and the 4 of the picture that it leaves
            Mode.INPAINT: Route("StableDiffusionXLInpaintPipeline", inpaint, extra_channels=(0, 5)),
        },
        denoisers=("unet",),
        size_multiple=8,
        native_side=1024,
        samplers=tuple(SAMPLERS),
        controlnet="ControlNetModel",
        controls={
            Mode.GENERATE: ControlRoute(
                pipeline="StableDiffusionXLControlNetPipeline", picture_field="image"
            ),
            Mode.IMG2IMG: ControlRoute(pipeline="StableDiffusionXLControlNetImg2ImgPipeline"),
            Mode.INPAINT: ControlRoute(pipeline="StableDiffusionXLControlNetInpaintPipeline"),
        },
        several_controls=True,
        adapters=(Way.IP_ADAPTER,),
    ),
    "sd3": Family(
        routes={
            Mode.GENERATE: Route("StableDiffusion3Pipeline", generate, extra_channels=(0,)),
            Mode.IMG2IMG: Route("StableDiffusion3Img2ImgPipeline", img2img, extra_channels=(0,)),
            Mode.INPAINT: Route("StableDiffusion3InpaintPipeline", inpaint, extra_channels=(0, 17)),
        },
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1024,
        max_sequence_length=True,
        defaults={"guidance_scale": 7.0},
        controlnet="SD3ControlNetModel",
        controls={Mode.GENERATE: ControlRoute(pipeline="StableDiffusion3ControlNetPipeline")},
    ),
    "qwen-image": _qwen(
        {
            Mode.GENERATE: Route("QwenImagePipeline", generate),
            Mode.IMG2IMG: Route("QwenImageImg2ImgPipeline", img2img),
            Mode.INPAINT: Route("QwenImageInpaintPipeline", inpaint),
        },
        controlnet="QwenImageControlNetModel",
        controls={Mode.GENERATE: ControlRoute(pipeline="QwenImageControlNetPipeline")},
    ),
    "qwen-image-edit": _qwen(
        {Mode.EDIT: Route("QwenImageEditPipeline", edit_native)},
        processors={"processor": "QwenPrompts"},
    ),
    "qwen-image-edit-plus": _qwen(
        {Mode.EDIT: Route("QwenImageEditPlusPipeline", edit_native, max_sources=3)},
        processors={"processor": "QwenPrompts"},
        looks=True,
    ),
    "z-image": Family(
        routes={
            Mode.GENERATE: Route("ZImagePipeline", generate),
            Mode.IMG2IMG: Route("ZImageImg2ImgPipeline", img2img),
            Mode.INPAINT: Route("ZImageInpaintPipeline", inpaint),
        },
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1024,
        max_sequence_length=True,
        defaults={"num_inference_steps": 50, "guidance_scale": 5.0},
    ),
    "generic": Family(
        routes={
            Mode.GENERATE: Route("", generate),
            Mode.IMG2IMG: Route("", img2img),
            Mode.INPAINT: Route("", inpaint),
            Mode.EDIT: Route("", edit_fitted),
        },
        # whichever of these it has
        denoisers=("transformer", "transformer_2", "unet"),
        size_multiple=32,
        native_side=1024,
        max_sequence_length=True,
        any_pipeline=True,
    ),
}

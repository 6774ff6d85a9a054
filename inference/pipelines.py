"""Which diffusers pipeline serves which mode of a family, and how a job becomes its arguments.

A family is a row of `FAMILIES`, not a class: adding one means adding the row, and functions only
where its arguments differ. No torch here: class names are strings, pictures are PIL images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.job import Job, Mode, ReferenceTag
from inference.pixels import Pictures, as_mask, as_rgb, fill_area, fit, side_by_side

if TYPE_CHECKING:
    from inference.catalog import ModelSpec

Arguments = dict[str, Any]

# models.yaml's word for a model without guidance: distilled to few steps
NO_GUIDANCE = "none"
TRUE_CFG = "true_cfg_scale"
MEGAPIXEL = 1024 * 1024
# FLUX.2 refuses sources with a side below 64 pixels, and those longer than 8:1.
_LEAST_AREA = 8 * 64 * 64


@dataclass(frozen=True, slots=True)
class Route:
    """One mode of a family: the pipeline class by name and the maker of its call arguments.

    `max_sources` bounds the pictures to be changed, where the mode takes any. `extra_channels`
    are those that its denoiser may take in beside the latents: the mask and what it leaves.
    `max_area`, in pixels, is what the pipeline shrinks a larger picture to unasked.
    """

    pipeline: str
    arguments: Callable[[Job, ModelSpec, Pictures], Arguments]
    max_sources: int = 1
    extra_channels: tuple[int, ...] | None = None
    max_area: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What every model of one architecture shares.

    `size_multiple` is in pixels. `guidance_field` is the call argument that carries guidance when
    models.yaml does not say otherwise; `guidance_flag` is the denoiser's own word for whether it
    listens to that. `negative_field` is the only guidance field with which a negative prompt
    counts, where not every one does. `reference_tags` are what it can take from reference
    pictures. `processors` names the components that classes of `processors.py` read. `defaults`
    stand where models.yaml sets none.
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
    reference_tags: frozenset[ReferenceTag] = frozenset()
    processors: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def generate(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """Arguments of a text-to-image call."""
    arguments: Arguments = {
        "prompt": job.prompt,
        "width": job.width,
        "height": job.height,
        "num_inference_steps": job.num_inference_steps,
    }
    if spec.guided:
        arguments[spec.guidance_field] = job.guidance_scale
    if spec.takes_negative_prompt and job.negative_prompt is not None:
        arguments["negative_prompt"] = job.negative_prompt
    elif spec.guidance_field == TRUE_CFG:
        # without one diffusers leaves out the guidance, and says so to nobody
        arguments["negative_prompt"] = ""
    if spec.max_sequence_length is not None:
        arguments["max_sequence_length"] = spec.max_sequence_length
    return arguments


def img2img(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """Arguments of a call that starts from a noised source picture."""
    source = fit(pictures.sources[0], job.width, job.height)
    return generate(job, spec, pictures) | {"image": source, "strength": job.strength}


def inpaint(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """Arguments of a call that redraws the white part of the mask."""
    if pictures.mask is None:
        raise ValueError("inpaint needs a mask image")
    mask = as_mask(pictures.mask, job.width, job.height)
    return img2img(job, spec, pictures) | {"mask_image": mask}


def _sized_by_image(arguments: Callable[[Job, ModelSpec, Pictures], Arguments]) -> Any:
    """For pipelines that take the size from the picture and have no width and height."""

    def without_size(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
        made = arguments(job, spec, pictures)
        del made["width"], made["height"]
        return made

    return without_size


def _kontext(arguments: Callable[[Job, ModelSpec, Pictures], Arguments]) -> Any:
    """For Kontext, which left alone makes every picture, and every source, one of a megapixel."""

    def as_asked(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
        area = {"max_area": job.width * job.height, "_auto_resize": False}
        return arguments(job, spec, pictures) | area

    return as_asked


def _kontext_edit(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """Sources are shown at the output's area; Kontext sees one picture, so several are joined."""
    shown = fill_area(side_by_side(pictures.sources), job.width * job.height, 16)
    return generate(job, spec, pictures) | {"image": shown}


def _inpaint_with(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """The first source is redrawn, the others show what with."""
    arguments = inpaint(job, spec, pictures)
    if pictures.sources[1:]:
        joined = side_by_side(pictures.sources[1:])
        arguments["image_reference"] = fill_area(joined, job.width * job.height, 16)
    return arguments


def _edit_all(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """For FLUX.2, which looks at each source by itself: shown at about the output's area."""
    area = min(max(job.width * job.height, _LEAST_AREA), MEGAPIXEL)
    shown = [fill_area(source, area, 16) for source in pictures.sources]
    return generate(job, spec, pictures) | {"image": shown}


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


def _edit_native(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """For pipelines that size the sources themselves, and take one or several."""
    shown = [as_rgb(source) for source in pictures.sources]
    return generate(job, spec, pictures) | {"image": shown if len(shown) > 1 else shown[0]}


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
    ),
    "flux-kontext": _flux(
        {
            Mode.GENERATE: Route("FluxKontextPipeline", _kontext(generate)),
            Mode.EDIT: Route("FluxKontextPipeline", _kontext(_kontext_edit), max_sources=4),
            Mode.INPAINT: Route(
                "FluxKontextInpaintPipeline", _kontext(_inpaint_with), max_sources=4
            ),
        },
        defaults={"strength": 1.0},
    ),
    "flux-fill": _flux(
        {
            # 64 of the picture that the mask leaves, and 16 × 16 pixels of mask
            Mode.INPAINT: Route("FluxFillPipeline", inpaint, extra_channels=(320,)),
        },
        negative_prompt=False,
        defaults={"guidance_scale": 30.0, "strength": 1.0},
    ),
    "flux2": Family(
        routes={
            Mode.GENERATE: Route("Flux2Pipeline", generate),
            Mode.EDIT: Route("Flux2Pipeline", _edit_all, max_sources=8),
        },
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1024,
        guidance_flag="guidance_embeds",
        negative_prompt=False,
        max_sequence_length=True,
        processors={"tokenizer": "MistralPrompts"},
        defaults={"num_inference_steps": 50, "guidance_scale": 4.0},
    ),
    "flux2-klein": Family(
        routes={
            Mode.GENERATE: Route("Flux2KleinPipeline", generate),
            Mode.EDIT: Route("Flux2KleinPipeline", _edit_all, max_sources=4),
            Mode.INPAINT: Route(
                "Flux2KleinInpaintPipeline", _inpaint_with, max_sources=4, max_area=MEGAPIXEL
            ),
        },
        denoisers=("transformer",),
        size_multiple=16,
        native_side=1024,
        negative_prompt=False,
        max_sequence_length=True,
        defaults={"num_inference_steps": 50, "guidance_scale": 4.0},
    ),
    "sdxl": Family(
        routes={
            Mode.GENERATE: Route("StableDiffusionXLPipeline", generate, extra_channels=(0,)),
            Mode.IMG2IMG: Route(
                "StableDiffusionXLImg2ImgPipeline", _sized_by_image(img2img), extra_channels=(0,)
            ),
            # 4 channels, or 9: the mask and the 4 of the picture that it leaves
            Mode.INPAINT: Route("StableDiffusionXLInpaintPipeline", inpaint, extra_channels=(0, 5)),
        },
        denoisers=("unet",),
        size_multiple=8,
        native_side=1024,
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
    ),
    "qwen-image": _qwen(
        {
            Mode.GENERATE: Route("QwenImagePipeline", generate),
            Mode.IMG2IMG: Route("QwenImageImg2ImgPipeline", img2img),
            Mode.INPAINT: Route("QwenImageInpaintPipeline", inpaint),
        }
    ),
    "qwen-image-edit": _qwen(
        {Mode.EDIT: Route("QwenImageEditPipeline", _edit_native)},
        processors={"processor": "QwenPrompts"},
    ),
    "qwen-image-edit-plus": _qwen(
        {Mode.EDIT: Route("QwenImageEditPlusPipeline", _edit_native, max_sources=3)},
        processors={"processor": "QwenPrompts"},
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
}

"""A job as the arguments of a pipeline's call: one function per way to be called.

No torch here: pictures are PIL images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inference.feather import grown
from inference.job import Job
from inference.pixels import Pictures, as_mask, as_rgb, fill_area, fit, side_by_side

if TYPE_CHECKING:
    from inference.model_spec import ModelSpec

Arguments = dict[str, Any]
Maker = Callable[[Job, "ModelSpec", Pictures], Arguments]

# models.yaml's word for a model without guidance: distilled to few steps
NO_GUIDANCE = "none"
TRUE_CFG = "true_cfg_scale"
MEGAPIXEL = 1024 * 1024
# FLUX.2 refuses sources with a side below 64 pixels, and those longer than 8:1.
_LEAST_AREA = 8 * 64 * 64


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
    # all that will be seen of the fading edge is painted anew
    mask = grown(as_mask(pictures.mask, job.width, job.height), job.mask_blur)
    return img2img(job, spec, pictures) | {"mask_image": mask}


def sized_by_image(arguments: Maker) -> Any:
    """For pipelines that take the size from the picture and have no width and height."""

    def without_size(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
        made = arguments(job, spec, pictures)
        del made["width"], made["height"]
        return made

    return without_size


def kontext(arguments: Maker) -> Any:
    """For Kontext, which left alone makes every picture, and every source, one of a megapixel."""

    def as_asked(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
        area = {"max_area": job.width * job.height, "_auto_resize": False}
        return arguments(job, spec, pictures) | area

    return as_asked


def kontext_edit(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """Sources are shown at the output's area; Kontext sees one picture, so several are joined."""
    shown = fill_area(side_by_side(pictures.sources), job.width * job.height, 16)
    return generate(job, spec, pictures) | {"image": shown}


def inpaint_with(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """The first source is redrawn, the others show what with."""
    arguments = inpaint(job, spec, pictures)
    if pictures.sources[1:]:
        joined = side_by_side(pictures.sources[1:])
        arguments["image_reference"] = fill_area(joined, job.width * job.height, 16)
    return arguments


def edit_all(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """For FLUX.2, which looks at each source by itself: shown at about the output's area."""
    area = min(max(job.width * job.height, _LEAST_AREA), MEGAPIXEL)
    shown = [fill_area(source, area, 16) for source in pictures.sources]
    return generate(job, spec, pictures) | {"image": shown}


def edit_native(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """For pipelines that size the sources themselves, and take one or several."""
    shown = [as_rgb(source) for source in pictures.sources]
    return generate(job, spec, pictures) | {"image": shown if len(shown) > 1 else shown[0]}


def edit_fitted(job: Job, spec: ModelSpec, pictures: Pictures) -> Arguments:
    """For pipelines that may make what they are shown at its size."""
    shown = fit(pictures.sources[0], job.width, job.height)
    return generate(job, spec, pictures) | {"image": shown}

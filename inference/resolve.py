"""The door: a wish becomes a job with every value decided, or is refused with the field named."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace
from typing import Any

from inference.catalog import Catalog
from inference.errors import BadValue, Unsupported
from inference.job import ImageRequest, ImageRole, Job, Lora, Mode
from inference.loras import spec as lora_spec
from inference.model_spec import ModelSpec, Profile, Quality
from inference.references import spec as reference_spec
from inference.sizes import TIER_SIDES_PX, shrunk

SEED_LIMIT = 2**32
# Pixels that an edge may fade over: more reaches across most pictures.
MASK_BLUR_LIMIT = 256


def resolve(
    catalog: Catalog, request: ImageRequest, *, job_id: str, account: str = "", priority: int = 0
) -> Job:
    """The job for a wish, every value decided; raises Refused with the field at fault."""
    spec, mode = catalog.choose(request)
    _check_text(request, spec, mode)
    _check_images(request, spec, mode)
    reference_spec.check(request, spec, mode)
    _within("count", request.count, 1, spec.limits.count)
    _check_offloading(request, spec)
    profile = _profile(request, spec)
    request = _without_idle_defaults(request, spec, profile)
    loras = lora_spec.choose(request, spec, profile.loras)
    steps, guidance = _steps_and_guidance(request, spec, profile)
    width, height = _within_area(_size(request, spec), spec, mode)
    return Job(
        id=job_id,
        model=spec.name,
        mode=mode,
        prompt=_prompt(request, spec, loras),
        negative_prompt=_first(request.negative_prompt, spec.defaults.negative_prompt),
        images=request.images,
        width=width,
        height=height,
        seeds=_seeds(request),
        num_inference_steps=steps,
        guidance_scale=guidance,
        strength=_strength(request, spec, mode, steps),
        loras=loras,
        downsizing_mp=_downsizing(request),
        sampler=_sampler(request, spec, profile),
        mask_blur=_mask_blur(request, mode),
        account=account,
        priority=priority,
    )


def follow(catalog: Catalog, request: ImageRequest, job: Job, source: tuple[int, int]) -> Job:
    """The job at a size like its first source's, where the request leaves the size open.

    `source` is that picture's width and height in pixels, which only who has read it knows. A
    resolution alone leaves the ratio open. Nothing becomes larger than what has a price.
    """
    if job.mode is Mode.GENERATE or request.width is not None or request.aspect_ratio is not None:
        return job
    if job.downsizing_mp is not None:
        source = shrunk(*source, job.downsizing_mp)
    spec = catalog.models[job.model]
    tier = request.resolution
    size = spec.nearest_size(
        *source,
        area=TIER_SIDES_PX[tier] ** 2 if tier is not None else None,
        most=math.inf if tier is not None else catalog.largest_priced(request, job),
    )
    width, height = _within_area(size, spec, job.mode)
    return replace(job, width=width, height=height)


def _first(*choices: Any) -> Any:
    return next((choice for choice in choices if choice is not None), None)


def _within(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        bounds = f"{_shown(low)} and {_shown(high)}"
        raise BadValue(field, f"{field} must lie between {bounds}, not {_shown(value)}")


def _shown(value: float) -> str:
    """A number as people read it; of a very long int neither str nor float can be made."""
    if isinstance(value, int):
        return str(value) if abs(value) < 10**15 else "a far larger one"
    return f"{value:g}"


def _steps_and_guidance(
    request: ImageRequest, spec: ModelSpec, profile: Profile
) -> tuple[int, float]:
    if request.guidance_scale is not None and not spec.guided:
        raise Unsupported("guidance_scale", f"{spec.name!r} honours no guidance_scale")
    said = (request, profile, _quality(request, spec), spec.defaults)
    steps = _first(*(one.num_inference_steps for one in said))
    guidance = _first(*(one.guidance_scale for one in said))
    _within("num_inference_steps", steps, 1, spec.limits.num_inference_steps)
    _within("guidance_scale", guidance, 0, spec.limits.guidance_scale)
    return steps, guidance


def _sampler(request: ImageRequest, spec: ModelSpec, profile: Profile) -> str | None:
    asked = request.sampler
    if asked is not None and asked not in spec.samplers:
        known = ", ".join(spec.samplers) or "only its own, so name none"
        raise Unsupported("sampler", f"{spec.name!r} has no sampler {asked[:80]!r}; it has {known}")
    chosen: str | None = _first(asked, profile.sampler, spec.defaults.sampler)
    return chosen


def _downsizing(request: ImageRequest) -> float | None:
    most = request.downsizing_mp
    if most is None:
        return None
    if not (math.isfinite(most) and most > 0):
        raise BadValue("downsizing_mp", f"downsizing_mp must be above 0, not {_shown(most)}")
    if not request.images:
        raise BadValue("downsizing_mp", "downsizing_mp needs an input picture to shrink")
    return float(most)


def _mask_blur(request: ImageRequest, mode: Mode) -> int:
    if request.mask_blur is None:
        return 0
    if mode is not Mode.INPAINT:
        raise BadValue("mask_blur", "mask_blur needs a mask; send one or leave it out")
    _within("mask_blur", request.mask_blur, 0, MASK_BLUR_LIMIT)
    return request.mask_blur


def _check_offloading(request: ImageRequest, spec: ModelSpec) -> None:
    offloads = spec.offload != "none"
    if request.offloading in (None, offloads):
        return
    entry = f"its entry in models.yaml says offload: {spec.offload}"
    kept = "off its device until they are used" if offloads else "on its device"
    what = f"{spec.name!r} keeps its weights {kept}, since {entry}; leave offloading out"
    raise Unsupported("offloading", what)


def _strength(request: ImageRequest, spec: ModelSpec, mode: Mode, steps: int) -> float:
    strength = spec.defaults.strength if request.strength is None else request.strength
    _within("strength", strength, 0.01, 1)
    if mode is Mode.GENERATE and request.strength is not None:
        raise BadValue("strength", "strength needs a source image; send one or leave it out")
    if mode is Mode.EDIT and request.strength is not None:
        what = f"{spec.name!r} edits as the prompt says and takes no strength; leave it out"
        raise Unsupported("strength", what)
    if mode in (Mode.IMG2IMG, Mode.INPAINT) and int(steps * strength) == 0:
        low = f"strength {strength:g} of {steps} steps leaves none to make; raise one of them"
        raise BadValue("strength", low)
    return strength


def _check_text(request: ImageRequest, spec: ModelSpec, mode: Mode) -> None:
    # A variation of a picture needs no words.
    if mode is not Mode.IMG2IMG and not request.prompt.strip():
        raise BadValue("prompt", "prompt must not be empty")
    if request.negative_prompt and not spec.honours_negative_prompt(mode):
        raise Unsupported("negative_prompt", f"{spec.name!r} honours no negative_prompt")
    for field, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        if text is not None and len(text) > spec.limits.prompt_chars:
            raise BadValue(field, f"{field} has more than {spec.limits.prompt_chars} characters")
        if text is not None and any(0xD800 <= ord(char) < 0xE000 for char in text):
            raise BadValue(field, f"{field} holds a lone surrogate, which is no character")


def _check_images(request: ImageRequest, spec: ModelSpec, mode: Mode) -> None:
    roles = [image.role for image in request.images]
    bounds = {
        "image": (ImageRole.SOURCE, spec.max_sources(mode)),
        "mask": (ImageRole.MASK, 1 if mode is Mode.INPAINT else 0),
    }
    looks_at_others = mode is Mode.EDIT and reference_spec.shown(request, spec)
    for field, (role, most) in bounds.items():
        given = roles.count(role)
        if most and not given and not looks_at_others:
            raise BadValue(field, f"{mode} needs a {role} image")
        if given > most:
            what = f"{spec.name!r} takes at most {most} {role} image(s) to {mode}, not {given}"
            raise Unsupported(field, what)


def _prompt(request: ImageRequest, spec: ModelSpec, loras: tuple[Lora, ...]) -> str:
    """With what its LoRAs are called by, and what its references are for."""
    prompt = lora_spec.with_triggers(request.prompt, loras, spec)
    return reference_spec.with_words(prompt, request, spec)


def _quality(request: ImageRequest, spec: ModelSpec) -> Quality:
    if request.quality is None or not spec.qualities:
        return Quality()
    if request.quality not in spec.qualities:
        known = ", ".join(spec.qualities)
        raise BadValue("quality", f"no quality {request.quality!r}; there are: {known}")
    return spec.qualities[request.quality]


def _profile(request: ImageRequest, spec: ModelSpec) -> Profile:
    name = _first(request.profile, spec.defaults.profile)
    if name is None:
        return Profile()
    if name not in spec.profiles:
        known = ", ".join(spec.profiles)[:160] or "none"
        raise Unsupported("profile", f"{spec.name!r} has no profile {name[:80]!r}; known: {known}")
    return spec.profiles[name]


def _without_idle_defaults(
    request: ImageRequest, spec: ModelSpec, profile: Profile
) -> ImageRequest:
    """Without the defaults of its API that nothing here could follow, or that a profile betters."""
    idle = set() if spec.guided else {"guidance_scale"}
    own = ("num_inference_steps", "guidance_scale", "sampler")
    idle |= {name for name in own if getattr(profile, name) is not None}
    if not (request.loras or profile.loras):
        idle |= {"lora_strength", "lora_rank"}
    nothing: dict[str, Any] = dict.fromkeys(idle.intersection(request.by_default))
    return replace(request, **nothing)


def _size(request: ImageRequest, spec: ModelSpec) -> tuple[int, int]:
    if (request.width is None) != (request.height is None):
        missing = "width" if request.width is None else "height"
        raise BadValue(missing, "width and height belong together; send both or neither")
    if request.resolution is not None and request.resolution not in TIER_SIDES_PX:
        known = ", ".join(TIER_SIDES_PX)
        raise BadValue("resolution", f"no resolution {request.resolution!r}; there are: {known}")
    if request.width is not None and request.height is not None:
        if request.aspect_ratio is not None:
            raise BadValue("aspect_ratio", "send aspect_ratio or width and height, not both")
        _within("width", request.width, 16, 16384)
        _within("height", request.height, 16, 16384)
        return spec.nearest_size(request.width, request.height)
    if request.aspect_ratio is not None or request.resolution is not None:
        width, height = spec.default_size
        return spec.size_of(request.aspect_ratio or f"{width}:{height}", request.resolution)
    return spec.default_size


def _within_area(size: tuple[int, int], spec: ModelSpec, mode: Mode) -> tuple[int, int]:
    """A size as large as the mode's pipeline makes it, in the same ratio."""
    width, height = size
    most, unit = spec.rules.routes[mode].max_area, spec.rules.size_multiple
    if most is None or width * height <= most:
        return size
    scale = math.sqrt(most / (width * height))
    return int(width * scale) // unit * unit, int(height * scale) // unit * unit


def _seeds(request: ImageRequest) -> tuple[int, ...]:
    if request.seed is not None:
        _within("seed", request.seed, 0, SEED_LIMIT - 1)
    first = secrets.randbelow(SEED_LIMIT) if request.seed is None else request.seed
    return tuple((first + index) % SEED_LIMIT for index in range(request.count))

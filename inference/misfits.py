"""Why a checkpoint cannot serve as its entry says; each of these raises ModelFailed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers

from inference.errors import ModelFailed
from inference.hub.checkpoint import Part, shapes_of
from inference.hub.files import weights_of
from inference.hub.narrow import obstacle
from inference.job import Mode
from inference.model_spec import ModelSpec


def pipeline_class(spec: ModelSpec, mode: Mode) -> type[Any]:
    """The diffusers class that serves a mode."""
    name = spec.pipelines.get(mode, spec.rules.routes[mode].pipeline)
    found = getattr(diffusers, name, None)
    if found is None:
        raise ModelFailed(f"diffusers {diffusers.__version__} has no {name}")
    if spec.rules.any_pipeline:
        _check_signature(spec, mode, found)
    chosen: type[Any] = found
    return chosen


def check_class(spec: ModelSpec, index: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that says it is of another architecture; raises ModelFailed."""
    own: Any = getattr(diffusers, str(index.get("_class_name")), None)
    if spec.rules.any_pipeline or not hasattr(own, "_get_signature_types"):
        return
    wanted = pipeline_class(spec, spec.modes[0])
    found, needed = _denoiser_classes(own), _denoiser_classes(wanted)
    if found and needed and found.isdisjoint(needed):
        raise ModelFailed(
            f"{spec.source}: its model_index.json is of {own.__name__}, and family "
            f"{spec.family!r} needs one like {wanted.__name__}; name another source or family"
        )


def check_weights(spec: ModelSpec, parts: Mapping[str, Part]) -> None:
    """Refuse weights that would be taken for others than they are; raises ModelFailed."""
    replaced = next(weights_of(spec)).without
    for name, part in parts.items():
        if name not in replaced and (reason := obstacle(part)):
            raise ModelFailed(f"{spec.source}: {name}: {reason}")


def check_whole(spec: ModelSpec, pipe: Any, parts: Mapping[str, Part]) -> None:
    """Refuse weights that are not all there: what is missing is filled with chance numbers."""
    replaced = next(weights_of(spec)).without
    for name, part in parts.items():
        lacks = missing_weight(getattr(pipe, name, None), part) if name not in replaced else None
        if lacks is not None:
            raise ModelFailed(f"{spec.source}: {name}: {lacks} is missing in its files")


def missing_weight(module: Any, part: Part) -> str | None:
    """The first parameter that a part's files lack; of modules of diffusers alone.

    Those of transformers may be renamed while they are read.
    """
    if not isinstance(module, diffusers.ModelMixin) or not part.files:
        return None
    held = {_renamed(name) for file in part.files for name in shapes_of(file)}
    # buffers that are computed are written by some
    return next((name for name, _ in module.named_parameters() if name not in held), None)


# What diffusers calls weights of its first versions while it reads them.
_OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def _renamed(name: str) -> str:
    for old, own in _OLD_NAMES.items():
        name = name.replace(old, own)
    return name


def _denoiser_classes(pipeline: Any) -> set[Any]:
    """What a pipeline's class runs at every step, as its own annotations have it."""
    types = pipeline._get_signature_types()
    return {kind for name in ("transformer", "unet") for kind in types.get(name, ())}


def check_config(spec: ModelSpec, pipe: Any, config: Any) -> None:
    """Refuse a checkpoint whose denoiser's config is not one for its entry; raises ModelFailed."""
    _check_channels(spec, config)
    _check_guidance(spec, pipe, config)


def _check_channels(spec: ModelSpec, config: Any) -> None:
    """Refuse a mode whose denoiser was made for other inputs: it would fail, or paint noise."""
    for mode in spec.modes:
        extra = spec.rules.routes[mode].extra_channels
        if mode in spec.pipelines or extra is None:
            continue
        taken = config.get("in_channels")
        latent = config.get("out_channels") or taken
        if taken - latent in extra:
            continue
        needed = " or ".join(str(latent + more) for more in extra)
        raise ModelFailed(
            f"{spec.source}: to {mode}, family {spec.family!r} needs a denoiser of {needed} input "
            f"channels, and this one has {taken}; name another source, family or modes"
        )


def _check_guidance(spec: ModelSpec, pipe: Any, config: Any) -> None:
    """Refuse a guidance that the checkpoint would take and not listen to."""
    rules = spec.rules
    if spec.guidance_field != rules.guidance_field:
        return
    if config.get(rules.guidance_flag, True) and not pipe.config.get("is_distilled"):
        return
    other = f" or {rules.negative_field}" if rules.negative_field else ""
    raise ModelFailed(
        f"{spec.source}: this checkpoint listens to no {spec.guidance_field}; "
        f"set guidance_field: none{other}"
    )


# What a pipeline must take, or its mode would be another.
_NEEDED = {
    Mode.GENERATE: ("prompt",),
    Mode.IMG2IMG: ("prompt", "image", "strength"),
    Mode.INPAINT: ("prompt", "image", "mask_image"),
    Mode.EDIT: ("prompt", "image"),
}


def _check_signature(spec: ModelSpec, mode: Mode, wanted: type[Any]) -> None:
    """Refuse a class whose call has no place for what its mode, or its entry, wants to pass."""
    needed = [*_NEEDED[mode]]
    needed += [spec.guidance_field] if spec.guided else []
    needed += ["max_sequence_length"] if spec.max_sequence_length is not None else []
    needed += ["negative_prompt"] if spec.defaults.negative_prompt else []
    taken = inspect.signature(wanted.__call__).parameters
    missing = ", ".join(name for name in needed if name not in taken)
    if missing:
        raise ModelFailed(f"{wanted.__name__} takes no {missing}, so it cannot {mode} as told")

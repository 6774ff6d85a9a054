"""Options of a loaded model: each is tried with a real picture, and left off where that fails.

They change the denoiser, which is one model's own, or a call's private pipeline; parts that models
share stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import structlog

from inference import coalesce
from inference.coalesce import Call, Carrier
from inference.errors import ModelFailed
from inference.faults import free_cache, without_tensors
from inference.loading import denoisers, first_line
from inference.model import LoadedModel
from inference.model_spec import ModelSpec
from inference.options import compiled
from inference.options.quantization import needs_package
from inference.options.spec import OptionStatus, StepCacheKind, VaeOptions
from inference.residency.aside import breathe
from inference.rules import UNKNOWN_MODEL
from inference.selftest import make_probe, probe_job

log = structlog.get_logger()

# Ending or beginning of a backend's name, what is imported, and what is installed.
_ATTENTION_PACKAGES = (
    ("_hub", "kernels", "kernels"),
    ("xformers", "xformers", "xformers"),
    ("_flash_3", "flash_attn_interface", "flash-attn-3"),
    ("_flash_varlen_3", "flash_attn_interface", "flash-attn-3"),
    ("flash", "flash_attn", "flash-attn"),
    ("sage", "sageattention", "sageattention"),
    ("_sage", "sageattention", "sageattention"),
)


class NotNarrowed(ModelFailed):
    """The model came quantized, and cannot make a picture so; without, it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One row of the table: `obstacle` says beforehand why not, "" where nothing is known."""

    name: str
    off: str
    obstacle: Callable[[ModelSpec, str], str]
    switch_on: Callable[[LoadedModel], None]
    switch_off: Callable[[LoadedModel], None]
    probe: Callable[[LoadedModel], None]


def settle(
    model: LoadedModel,
    device: str,
    refused: Mapping[str, str],
    known: Mapping[str, OptionStatus] | None = None,
    folder: Path | None = None,
) -> None:
    """Switch on what the entry asks for and fill in `model.options`; the model is idle.

    `refused` is what reading it could not do, by option. What is `known` of the same files is not
    tried again. What is compiled is kept in `folder`. Raises NotNarrowed where quantized weights
    are what fails.
    """
    if folder is not None and model.spec.compile:
        # where torch's compiler looks it up
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    told = model.options
    told["dtype"] = replace(told["dtype"], effective=model.dtype)
    if (asked := told.get("quantization")) is not None:
        reason = refused.get("quantization", "")
        if not reason and known is None:
            _try_narrowed(model, device)
        effective = "off" if reason else asked.requested
        told["quantization"] = replace(asked, effective=effective, reason=reason)
    for option in OPTIONS:
        if option.name not in told:
            continue
        found = (known or {}).get(option.name)
        told[option.name] = found or _tried(option, model, device)
        if found is not None and not found.reason:
            option.switch_on(model)


def give_up(model: LoadedModel, error: Exception) -> bool:
    """Switch off all that could be why the model's self-test failed; whether that was anything."""
    on = [one for one in OPTIONS if (told := model.options.get(one.name)) and not told.reason]
    for option in on:
        option.switch_off(model)
        reason = f"the self-test failed with it: {first_line(error)}"
        told = replace(model.options[option.name], effective=option.off, reason=reason)
        model.options[option.name] = told
        log.warning("option.off", model=model.spec.name, option=option.name, reason=reason)
    return bool(on)


def _tried(option: _Option, model: LoadedModel, device: str) -> OptionStatus:
    asked = model.options[option.name]
    reason = option.obstacle(model.spec, device)
    if not reason:
        try:
            option.switch_on(model)
            option.probe(model)
            return replace(asked, effective=asked.requested)
        except Exception as error:
            # whatever a library does not bear ends here: the model serves without
            cause = getattr(error, "inner_exception", error)
            reason = first_line(without_tensors(cause))
            option.switch_off(model)
            free_cache(device)
    log.warning("option.off", model=model.spec.name, option=option.name, reason=reason)
    return replace(asked, effective=option.off, reason=reason)


def _try_narrowed(model: LoadedModel, device: str) -> None:
    try:
        make_picture(model, model.spec.smallest_size)
    except Exception as error:
        free_cache(device)
        raise NotNarrowed(first_line(without_tensors(error))) from None


def make_picture(
    model: LoadedModel,
    size: tuple[int, int],
    rows: int = 1,
    denoise: Callable[[Sequence[Call]], list[Any]] = coalesce.forward,
) -> None:
    """One step of a picture, its denoisers' forwards with so many equal rows; raises as they do."""
    job = probe_job(model, model.spec.modes[0], steps=1, seed=1, size=size)
    carrier = Carrier(make_probe(model, job)[1])
    carrier.advance()
    while (call := carrier.call) is not None:
        breathe()
        calls = [call]
        if model.denoises(call.target):
            calls *= rows if call.target.rules is not UNKNOWN_MODEL else 1
            carrier.advance(denoise(calls)[0])
        else:
            carrier.advance(coalesce.forward(calls)[0])
    if carrier.error is not None:
        raise carrier.error


def _make_smallest(model: LoadedModel) -> None:
    make_picture(model, model.spec.smallest_size, denoise=compiled.forward)


def _make_usual(model: LoadedModel) -> None:
    make_picture(model, model.spec.default_size)


def _warm_up(model: LoadedModel) -> None:
    """Have compiled what requests will need: one row and two, and sizes that change."""
    for size in (model.spec.default_size, model.spec.smallest_size):
        for rows in (1, 2):
            make_picture(model, size, rows, compiled.forward)


def _denoisers(model: LoadedModel) -> list[Any]:
    return denoisers(model.spec, model.pipes[model.spec.modes[0]])


def _nothing(spec: ModelSpec, device: str) -> str:
    return ""


def _attention_obstacle(spec: ModelSpec, device: str) -> str:
    name = spec.attention or ""
    for sign, module, package in _ATTENTION_PACKAGES:
        if name.startswith(sign) or (sign == "_hub" and name.endswith(sign)):
            return needs_package(module, package)
    return ""


def _set_attention(model: LoadedModel) -> None:
    name = model.spec.attention
    with _own_attention():
        for module in _denoisers(model):
            module.set_attention_backend(name)
            heeding = [one for one in _processors(module) if hasattr(one, "_attention_backend")]
            if not heeding and name != "native":
                raise ModelFailed(f"{type(module).__name__} has no attention that takes a backend")


def _reset_attention(model: LoadedModel) -> None:
    with _own_attention():
        for module in _denoisers(model):
            module.reset_attention_backend()


def _processors(module: Any) -> list[Any]:
    found = [getattr(one, "processor", None) for one in module.modules()]
    return [one for one in found if one is not None]


@contextmanager
def _own_attention() -> Iterator[None]:
    """diffusers makes a model's backend that of the whole process too: here it is put back."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    active = Registry._active_backend
    try:
        yield
    finally:
        Registry.set_active_backend(active)


def _set_vae(model: LoadedModel) -> None:
    vae = getattr(model.pipes[model.spec.modes[0]], "vae", None)
    for name, on in model.spec.vae:
        if on and not hasattr(vae, f"use_{name}"):
            raise ModelFailed(f"{type(vae).__name__} knows no {name}")
    model.vae = model.spec.vae


def _reset_vae(model: LoadedModel) -> None:
    model.vae = VaeOptions()


def _set_cache(model: LoadedModel) -> None:
    wanted = model.spec.cache
    assert wanted is not None, "it is asked for"
    for module in _denoisers(model):
        if not hasattr(module, "enable_cache"):
            raise ModelFailed(f"{type(module).__name__} takes no step cache")
        if wanted.kind is StepCacheKind.FIRST_BLOCK:
            given = {} if wanted.threshold is None else {"threshold": wanted.threshold}
            module.enable_cache(diffusers.FirstBlockCacheConfig(**given))
        else:
            given = {} if wanted.interval is None else {"cache_interval": wanted.interval}
            dtype = {"taylor_factors_dtype": module.dtype}
            module.enable_cache(diffusers.TaylorSeerCacheConfig(**given, **dtype))


def _reset_cache(model: LoadedModel) -> None:
    for module in model.step_caches:
        module.disable_cache()


OPTIONS = (
    _Option(
        name="attention",
        off="native",
        obstacle=_attention_obstacle,
        switch_on=_set_attention,
        switch_off=_reset_attention,
        probe=_make_smallest,
    ),
    _Option(
        name="vae",
        off="off",
        obstacle=_nothing,
        switch_on=_set_vae,
        switch_off=_reset_vae,
        probe=_make_usual,
    ),
    _Option(
        name="cache",
        off="off",
        obstacle=_nothing,
        switch_on=_set_cache,
        switch_off=_reset_cache,
        probe=_make_smallest,
    ),
    _Option(
        name="compile",
        off="off",
        obstacle=compiled.obstacle,
        switch_on=compiled.switch_on,
        switch_off=compiled.switch_off,
        probe=_warm_up,
    ),
)

"""LoRAs as models.yaml lists them, and the door for those that a request names. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from inference.errors import BadValue, Unsupported
from inference.job import ImageRequest, Lora
from inference.places import PathWithin, Source

if TYPE_CHECKING:
    from inference.model_spec import ModelSpec

# Strict, or YAML's yes and true would count as 1.
LoraStrength = Annotated[float, Field(strict=True)]
Rank = Annotated[int, Field(ge=1, le=1024, strict=True)]

HUB = "hub"
URL = "url"
# What one that was fetched from an address is called from then on, with the hash of its file.
FETCHED = "sha256:"
# "hub:owner/name" or "hub:owner/name/file.safetensors", and "folder:file.safetensors"
_PART = r"\w[\w.\- ]*"
_HUB_NAME = re.compile(rf"hub:{_PART}/{_PART}(/({_PART}/)*{_PART}\.safetensors)?", re.ASCII)
_FOLDER_NAME = re.compile(rf"folder:({_PART}/)*{_PART}\.safetensors", re.ASCII)


class LoraSpec(BaseModel):
    """One LoRA of a model: where its weights are and how it is used when a request says no more.

    `file` names one of several in a folder or on the hub. `trigger` is put before a prompt that
    does not hold it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: Source
    revision: str | None = None
    file: PathWithin = ""
    strength: LoraStrength = 1.0
    rank: Rank | None = None
    trigger: str = ""


def problems(spec: ModelSpec) -> Iterator[str]:
    """What a model's LoRAs and profiles say against its family, its limits or one another."""
    if (spec.loras or spec.loras_from) and not spec.rules.loras:
        yield f"family {spec.family!r} takes no LoRA"
    for source in spec.loras_from:
        if source not in (HUB, URL) and "/" not in source:
            yield f"loras_from takes 'hub', 'url' or a folder's path, not {source!r}"
    if (default := spec.defaults.profile) is not None and default not in spec.profiles:
        yield f"the default profile {default!r} is none of its profiles"
    limit = spec.limits.lora_strength
    for where, name, strength in _strengths(spec):
        if ":" in name:
            yield f"{where}: LoRA name {name!r} must hold no colon"
        if name not in spec.loras:
            yield f"{where}: no LoRA {name!r}{_listed(spec.loras)}"
        if abs(strength) > limit:
            yield f"{where}: strength {strength:g} of {name!r} is beyond the limit of {limit:g}"


def _strengths(spec: ModelSpec) -> Iterator[tuple[str, str, float]]:
    """Where a LoRA is given a strength, its name, and the strength."""
    for name, lora in spec.loras.items():
        yield "loras", name, lora.strength
    for profile_name, profile in spec.profiles.items():
        for name, strength in profile.loras.items():
            yield f"profile {profile_name!r}", name, strength


def knows(spec: ModelSpec, request: ImageRequest) -> bool:
    """Whether it has every LoRA and the profile that a request names."""
    named = request.profile is None or request.profile in spec.profiles
    return named and all(_refusal(spec, lora.name) is None for lora in request.loras)


def choose(
    request: ImageRequest, spec: ModelSpec, of_profile: Mapping[str, float]
) -> tuple[Lora, ...]:
    """The LoRAs of a job, every strength decided; raises Refused with the field at fault.

    A profile's come first; the request's own say more of one of them, or are added.
    """
    chosen = {name: Lora(name=name, strength=strength) for name, strength in of_profile.items()}
    if request.lora_strength is not None:
        chosen = {name: Lora(name=name) for name in chosen}
    for lora in request.loras:
        if (reason := _refusal(spec, lora.name)) is not None:
            raise Unsupported("loras", reason)
        chosen[lora.name] = lora
    if len({lora.name for lora in request.loras}) < len(request.loras):
        raise BadValue("loras", "each LoRA may be named once; add its strengths up")
    if len(chosen) > spec.limits.loras:
        raise BadValue("loras", f"at most {spec.limits.loras} LoRAs at once, not {len(chosen)}")
    for field in ("lora_strength", "lora_rank"):
        if not chosen and getattr(request, field) is not None:
            raise BadValue(field, f"{field} needs a LoRA, or a profile that has one")
    return tuple(_decided(lora, request, spec) for lora in chosen.values())


def with_triggers(prompt: str, loras: tuple[Lora, ...], spec: ModelSpec) -> str:
    """The prompt, led by the trigger of each LoRA that counts and is not called by it yet."""
    for lora in reversed(loras):
        trigger = spec.loras[lora.name].trigger if lora.name in spec.loras else ""
        if lora.strength and trigger.lower() not in prompt.lower():
            prompt = f"{trigger}, {prompt}" if prompt else trigger
    return prompt


def _decided(lora: Lora, request: ImageRequest, spec: ModelSpec) -> Lora:
    """With the strength and rank of, in this order, itself, the whole request, its entry."""
    entry = spec.loras.get(lora.name)
    strengths = (lora.strength, request.lora_strength, entry.strength if entry else 1.0)
    strength = next(one for one in strengths if one is not None)
    limit = spec.limits.lora_strength
    field = "loras" if lora.strength is not None else "lora_strength"
    if not math.isfinite(strength) or abs(strength) > limit:
        what = f"a LoRA's strength must lie between {-limit:g} and {limit:g}"
        raise BadValue(field, f"{what}, not {strength:g}")
    ranks = (lora.rank, request.lora_rank, entry.rank if entry else None)
    rank = next((one for one in ranks if one is not None), None)
    if rank is not None and not 1 <= rank <= 1024:
        field = "loras" if lora.rank is not None else "lora_rank"
        raise BadValue(field, "a LoRA's rank must lie between 1 and 1024")
    return Lora(name=lora.name, strength=float(strength), rank=rank)


def _refusal(spec: ModelSpec, name: str) -> str | None:
    """Why a request may not name this LoRA; None where it may."""
    if name in spec.loras:
        return None
    if not spec.loras and not spec.loras_from:
        return f"{spec.name!r} takes no LoRA"
    if is_address(name) and URL in spec.loras_from:
        return None
    if name[:7].lower() == "http://" and URL in spec.loras_from:
        return "a LoRA's address must begin with https://"
    if name.startswith("hub:") and HUB in spec.loras_from:
        return None if _HUB_NAME.fullmatch(name) else f"{name[:80]!r} is no hub:owner/name"
    if name.startswith("folder:") and folders_of(spec):
        return None if _FOLDER_NAME.fullmatch(name) else f"{name[:80]!r} is no folder:file"
    return f"{spec.name!r} has no LoRA {name[:80]!r}{_listed(spec.loras)}"


def folders_of(spec: ModelSpec) -> list[str]:
    """The folders that requests may name files of."""
    return [source for source in spec.loras_from if source not in (HUB, URL)]


def is_address(name: str) -> bool:
    """Whether a LoRA's name says where on the web it lies."""
    return name[:8].lower() == "https://"


def _listed(loras: Mapping[str, LoraSpec]) -> str:
    names = ", ".join(loras)[:160]
    return f"; there are: {names}" if loras else "; it lists none"

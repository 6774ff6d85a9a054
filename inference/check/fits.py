"""What a model takes of a device with each option, and which of them would make it fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch

from inference.check.blueprint import Blueprint, Module, streamed_bytes
from inference.check.shapes import pictures_of, working_bytes
from inference.job import Mode
from inference.model_spec import ModelSpec
from inference.options import quantization
from inference.options.spec import Quantization, QuantizationKind, VaeOptions
from inference.residency import offload
from inference.residency.offload import Offload

_NARROWED = (QuantizationKind.TORCHAO_INT8, QuantizationKind.BITSANDBYTES_4BIT)
_STREAMED = {Offload.GROUP: False, Offload.SEQUENTIAL: True}


@dataclass(frozen=True, slots=True)
class Need:
    """One picture, and what its operations take beside the weights."""

    mode: Mode
    size: tuple[int, int]
    operations: Mapping[str, int]

    @property
    def working_bytes(self) -> int:
        """The most of them, since one runs at a time."""
        return max(self.operations.values(), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """An entry's parts: `weights` as they are in `dtype`, before any option."""

    spec: ModelSpec
    weights: Mapping[str, int]
    plan: Blueprint
    device: str
    dtype: torch.dtype

    def needs_bytes(self, need: Need) -> int:
        """What a picture takes of the device with the options of the entry."""
        shares = quantization.shares(self.spec, self.dtype)
        weights = {name: int(size * shares.get(name, 1)) for name, size in self.weights.items()}
        mode = offload.effective(self.spec, self.device)
        match mode:
            case Offload.NONE:
                resident = sum(weights.values())
            case Offload.MODEL:
                resident = offload.resident_bytes(mode, [*weights.values()])
            case _:
                resident = max((self._visiting(name, mode) for name in weights), default=0)
        return resident + need.working_bytes

    def with_options(self, **options: object) -> Sizes:
        """The same with other options in the entry."""
        changed = replace(self, spec=self.spec.model_copy(update=options))
        return changed._in_half() if "dtype" in options else changed

    def _in_half(self) -> Sizes:
        """The same in numbers of two bytes."""
        share = torch.bfloat16.itemsize / self.dtype.itemsize
        parts = {
            name: Module.to(deepcopy(part), torch.bfloat16)
            for name, part in self.plan.parts.items()
        }
        return replace(
            self,
            weights={name: int(size * share) for name, size in self.weights.items()},
            plan=replace(self.plan, parts=parts),
            dtype=torch.bfloat16,
        )

    def _visiting(self, name: str, mode: Offload) -> int:
        share = quantization.shares(self.spec, self.dtype).get(name, 1)
        whole = streamed_bytes(self.plan.parts[name], leaves=_STREAMED[mode])
        return int(whole * share)


def remedies(sizes: Sizes, need: Need, memory_bytes: int) -> Iterator[str]:
    """Each option, or size, that would make a picture fit alone; two together where none does."""
    found = [
        words for words, options in _options(sizes) if _fits(sizes, need, options, memory_bytes)
    ]
    if not found:
        tiles = {"vae": VaeOptions(tiling=True)}
        found = [
            f"{words} with vae: {{tiling: true}}"
            for words, options in _options(sizes)
            if _fits(sizes, need, {**options, **tiles}, memory_bytes)
        ]
    yield from found
    if (size := _smaller(sizes, need, memory_bytes)) is not None:
        yield f"sizes up to {size[0]}x{size[1]}"


def _options(sizes: Sizes) -> Iterator[tuple[str, dict[str, object]]]:
    if sizes.dtype is torch.float32:
        yield "dtype: bfloat16", {"dtype": "bfloat16"}
    if not sizes.spec.vae.tiling:
        yield "vae: {tiling: true}", {"vae": VaeOptions(tiling=True)}
    if torch.device(sizes.device).type != "cuda":
        return
    if sizes.spec.quantization is None:
        for kind in _NARROWED:
            yield f"quantization: {kind}", {"quantization": Quantization(kind=kind)}
        encoders = tuple(name for name in sizes.plan.parts if name.startswith("text_encoder"))
        parts = tuple(name for name in sizes.spec.rules.denoisers if name in sizes.plan.parts)
        kind = QuantizationKind.BITSANDBYTES_4BIT
        told = ", ".join((*parts, *encoders))
        words = f"quantization: {{kind: {kind}, parts: [{told}]}}"
        yield words, {"quantization": Quantization(kind=kind, parts=(*parts, *encoders))}
    if sizes.spec.offload == "none":
        for mode in (Offload.MODEL, Offload.GROUP, Offload.SEQUENTIAL):
            yield f"offload: {mode}", {"offload": mode.value}


def _fits(sizes: Sizes, need: Need, options: Mapping[str, object], memory_bytes: int) -> bool:
    """Whether the same picture does with other options, measured anew where they change it."""
    changed = sizes.with_options(**options)
    if not options.keys().isdisjoint(("vae", "dtype")):
        picture = pictures_of(changed.spec, need.mode, need.size)
        need = replace(need, operations=working_bytes(changed.spec, changed.plan, picture))
    return changed.needs_bytes(need) <= memory_bytes


def _smaller(sizes: Sizes, need: Need, memory_bytes: int) -> tuple[int, int] | None:
    """The largest size of the same ratio, in steps of an eighth, that fits as things are."""
    width, height = need.size
    for eighths in range(7, 1, -1):
        size = sizes.spec.nearest_size(width * eighths // 8, height * eighths // 8)
        if size[0] * size[1] >= width * height:
            continue
        picture = pictures_of(sizes.spec, need.mode, size)
        smaller = replace(
            need, size=size, operations=working_bytes(sizes.spec, sizes.plan, picture)
        )
        if sizes.needs_bytes(smaller) <= memory_bytes:
            return size
    return None

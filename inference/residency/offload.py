"""Weights that lie in RAM and visit the device: whole parts in turn, or layer by layer.

`model` brings each part of a pipeline to the device when it is run and sends the others away.
`group` and `sequential` are diffusers' group offloading, by blocks and by single layers. On the CPU
there is no other place to keep weights in, so every mode is `none` there.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers.hooks import apply_group_offloading

from inference.model_spec import ModelSpec
from inference.options.spec import OptionStatus
from inference.residency.placement import Weights


class Offload(StrEnum):
    """Where weights are while they do not compute."""

    NONE = "none"
    MODEL = "model"
    SEQUENTIAL = "sequential"
    GROUP = "group"


# Where hooks may move weights to and from; tests let the CPU take part.
DEVICES = ("cuda",)


def effective(spec: ModelSpec, device: str) -> Offload:
    """What an entry's `offload` comes to on a device."""
    return Offload(spec.offload) if torch.device(device).type in DEVICES else Offload.NONE


def told(spec: ModelSpec, device: str) -> dict[str, OptionStatus]:
    """What becomes of an entry's wish, for the status; nothing where it has none."""
    if spec.offload == "none":
        return {}
    is_off = effective(spec, device) is Offload.NONE
    reason = f"{device} has no memory beside that of the weights" if is_off else ""
    status = OptionStatus(
        requested=spec.offload, effective=effective(spec, device).value, reason=reason
    )
    return {"offload": status}


def install(mode: Offload, weights: Sequence[Weights], device: str) -> None:
    """Hook the parts of a model's pipelines; before their forwards are attached."""
    if mode is Offload.MODEL:
        turns = _Turns(weights, device)
        for one in weights:
            add_hook_to_module(one.module, _Visit(turns, one))
        return
    for one in weights:
        _install_groups(mode, one.module, torch.device(device))


def _install_groups(mode: Offload, module: Any, onto: torch.device) -> None:
    casts = bool(getattr(getattr(module, "config", None), "force_upcast", False))
    wanted = {
        "onload_device": onto,
        "offload_device": torch.device("cpu"),
        "offload_type": "leaf_level" if mode is Offload.SEQUENTIAL else "block_level",
        "num_blocks_per_group": None if mode is Offload.SEQUENTIAL else 1,
        # the next block is copied while one computes; from a copy that no cast would reach
        "use_stream": onto.type == "cuda" and not casts,
    }
    if hasattr(module, "enable_group_offload"):
        module.enable_group_offload(**wanted)
    else:
        apply_group_offloading(module, **wanted)


def resident_bytes(mode: Offload, sizes: Sequence[int]) -> int:
    """What of a model's weights is on the device at a time, but for what a forward brings."""
    return max(sizes, default=0) if mode is Offload.MODEL else 0


class _Turns:
    """Which part of one model is on the device."""

    def __init__(self, weights: Sequence[Weights], device: str) -> None:
        self.device = torch.device(device)
        self._weights = weights

    def bring(self, wanted: Weights) -> None:
        """Have one part there, and no other."""
        if wanted.on_device:
            return
        for one in self._weights:
            if one is not wanted:
                one.to_ram()
        wanted.to_device()


class _Visit(ModelHook):  # type: ignore[misc]
    """Brings a part before it is run; diffusers asks it for a VAE's `encode` and `decode` too."""

    def __init__(self, turns: _Turns, weights: Weights) -> None:
        self.execution_device = turns.device
        self._turns = turns
        self._weights = weights

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The arguments on the device, where the part is now."""
        self._turns.bring(self._weights)
        return send_to_device(args, self.execution_device), send_to_device(
            kwargs, self.execution_device
        )

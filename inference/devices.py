"""The devices of this machine, by the names that torch gives them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import torch

from inference.errors import DeviceMissing

log = structlog.get_logger()


def devices_of(named: Sequence[str]) -> tuple[str, ...]:
    """Those named, or else every CUDA device, or else the CPU; raises DeviceMissing."""
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    for name in named:
        if name not in cards and name.partition(":")[0] != "cpu":
            there = ", ".join([*cards, "cpu"])
            why = "" if torch.version.cuda else "; this torch is built without CUDA"
            raise DeviceMissing(f"there is no {name} here, only {there}{why}")
    if not named and not cards and torch.version.cuda:
        reason = "torch finds no card, where a driver may be missing or too old: the CPU serves"
        log.warning("devices.no_card", reason=reason)
    return tuple(named or cards) or ("cpu",)

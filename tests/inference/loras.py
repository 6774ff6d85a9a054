"""Random LoRAs for the tests' tiny models, and pictures made together or alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from inference.coalesce import Carrier, forward
from inference.job import Job
from inference.model import LoadedModel
from inference.pixels import Pictures
from inference.prompts import PromptCache

Array = Any


def layers_of(module: Any, pick: Callable[[str], bool] = lambda path: True) -> list[str]:
    """Paths of the Linear and Conv2d layers."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [path for path, one in module.named_modules() if isinstance(one, kinds) and pick(path)]


def random_lora(
    module: Any,
    component: str,
    seed: int,
    rank: int = 4,
    size: float = 0.5,
    pick: Callable[[str], bool] = lambda path: True,
) -> dict[str, torch.Tensor]:
    """A pair for each layer that `pick` takes, in diffusers' layout; moves outputs by `size`."""
    dice = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for path in layers_of(module, pick):
        layer = module.get_submodule(path)
        shape = layer.weight.shape
        kernel = shape[2:]
        inner = int(np.prod(shape[1:]))
        down = torch.randn(rank, *shape[1:], generator=dice) / inner**0.5
        up = torch.randn(shape[0], rank, *[1 for _ in kernel], generator=dice)
        weights[f"{component}.{path}.lora_A.weight"] = down
        weights[f"{component}.{path}.lora_B.weight"] = up * size / rank**0.5
    return weights


def saved(weights: dict[str, torch.Tensor], path: Path) -> Path:
    """The weights as a safetensors file."""
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def carriers(model: LoadedModel, jobs: Iterable[Job]) -> list[Carrier]:
    """One for each job; its result is the picture, as an array of 0..1."""
    return [Carrier(lambda job=job: _make(model, job)) for job in jobs]


def _make(model: LoadedModel, job: Job) -> Array:
    # remembered prompts would keep the text encoders out of the test
    return model.call(job, 0, Pictures(), prompts=PromptCache(0), output_type="np")[1]()


def together(
    model: LoadedModel, jobs: Sequence[Job], *, may_fail: bool = False
) -> tuple[list[Array], list[int]]:
    """The pictures of jobs whose forwards share whatever they can, and how many each had."""
    running, merged = carriers(model, jobs), []
    for carrier in running:
        carrier.advance()
    while waiting := [carrier for carrier in running if carrier.call is not None]:
        # as the scheduler does: what comes before and after the denoising first
        calls = [carrier.call for carrier in waiting if carrier.call is not None]
        head = min(calls, key=lambda call: call.target is model.attached[0])
        group = [one for one in waiting if one.call is not None and one.call.key == head.key]
        outputs = forward([one.call for one in group if one.call is not None])
        if head.target is model.attached[0]:
            merged.append(len(group))
        for carrier, output in zip(group, outputs, strict=True):
            carrier.advance(output)
    for carrier in running:
        if carrier.error is not None and not may_fail:
            raise carrier.error
    return [carrier.result for carrier in running], merged


def alone(model: LoadedModel, job: Job) -> Array:
    """The picture of one job."""
    return together(model, [job])[0][0]


def far(one: Array, other: Array) -> float:
    """The largest difference of a value in 0..1."""
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())

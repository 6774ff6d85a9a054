"""How far a training is: what a later leg needs to go on, and the loop that moves it along."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from inference.demo.train.common import Budget, Ema, Log, Worker, decay, note_cost, set_rate

CHECKPOINT_SECONDS = 240.0


@dataclass(slots=True)
class Progress:
    """A transformer in training, with what it has cost over all legs so far."""

    model: FluxTransformer2DModel
    optimizers: list[torch.optim.Optimizer]
    ema: Ema
    step: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    def save(self, path: Path) -> None:
        """Write the state for a later leg, and beside it the averaged weights for use."""
        kept = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema.shadow,
            "numbers": [self.step, self.seconds, self.cpu],
        }
        torch.save(kept, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        averaged = FluxTransformer2DModel.from_config(self.model.config)
        averaged.load_state_dict(self.ema.shadow)
        averaged.save_pretrained(path.parent / "transformer")

    def load(self, path: Path) -> None:
        """Go on where an earlier leg stopped."""
        kept = torch.load(path, weights_only=True)
        self.model.load_state_dict(kept["model"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.ema.shadow = kept["ema"]
        self.step, self.seconds, self.cpu = kept["numbers"]
        self.ema.count = self.step = int(self.step)


def descend(
    worker: Worker,
    stage: str,
    path: Path,
    state: Progress,
    losses: Callable[[], tuple[Tensor, Tensor]],
    budget: Budget,
    *,
    first: int = 0,
    rate: float = 1.0,
) -> None:
    """Take steps until the budget is used up, one at the least; checkpoints go to `path`.

    `losses` makes a batch's loss, and its part at high noise. The budget counts from the step
    `first`; `rate` scales the learning rates.
    """
    log, params = Log(stage, worker), list(state.model.parameters())
    cpu, started = state.cpu - time.process_time(), time.monotonic() - state.seconds
    saved, progress = time.monotonic(), 0.0
    while progress < 1:
        loss, noisy = losses()
        loss.backward()  # type: ignore[no-untyped-call]
        progress = worker.average(params, budget.progress(state.step + 1 - first))
        nn.utils.clip_grad_norm_(params, 1.0)
        for optimizer in state.optimizers:
            set_rate(optimizer, rate * decay(progress, 0.4))
            optimizer.step()
        state.model.zero_grad(set_to_none=False)
        state.ema.update(state.model)
        state.step += 1
        state.seconds = time.monotonic() - started
        state.cpu = cpu + time.process_time()
        log.add(state.step, loss=loss.detach(), noisy=noisy, progress=progress)
        if worker.leads and (time.monotonic() - saved > CHECKPOINT_SECONDS or progress >= 1):
            saved = time.monotonic()
            state.save(path)
    if worker.leads:
        used = state.cpu * worker.world
        note_cost(path.parent, stage, steps=state.step, seconds=state.seconds, cpu_seconds=used)

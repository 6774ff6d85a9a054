"""What every stage of the recipe shares: time budgets, workers and checkpoints."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

LOG_SECONDS = 20.0


@dataclass(slots=True)
class Budget:
    """How long a stage may run: a number of steps, and optionally a number of seconds."""

    steps: int
    seconds: float | None = None
    started: float = field(default_factory=time.monotonic)

    def progress(self, step: int) -> float:
        """Return the share of the budget that is used up, from 0 to 1."""
        share = step / max(1, self.steps)
        if self.seconds is not None:
            share = max(share, (time.monotonic() - self.started) / max(1e-6, self.seconds))
        return min(1.0, share)


@dataclass(frozen=True, slots=True)
class Worker:
    """One of the processes that train together, and the device it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Tell whether this is the process that reports and saves."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter], progress: float) -> float:
        """Average the gradients over all workers; return the average of their progress."""
        if self.world == 1:
            return progress
        grads = [p.grad for p in parameters if p.grad is not None]
        # Progress travels with the gradients: clocks differ, but every worker must take one step.
        flat = torch.cat([g.reshape(-1) for g in grads] + [torch.tensor([progress])])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad))
            start += grad.numel()
        return float(flat[-1])

    def wait(self) -> None:
        """Wait until every worker is here."""
        if self.world > 1:
            dist.barrier()


def _work(rank: int, world: int, port: int, job: Callable[..., None], args: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        job(Worker(rank, world, torch.device("cpu")), *args)
    finally:
        dist.destroy_process_group()


def launch(job: Callable[..., None], workers: int, device: str, *args: Any) -> None:
    """Run a training job on one device, or on several single-threaded CPU processes."""
    if workers == 1 or device != "cpu":
        job(Worker(0, 1, torch.device(device)), *args)
        return
    # Two threads of one process stall each other at barriers on a busy machine; processes do not.
    port = 20000 + os.getpid() % 20000
    spawn(_work, (workers, port, job, args), nprocs=workers)  # type: ignore[no-untyped-call]


def decay(progress: float, flat: float, warmup: float = 0.01) -> float:
    """Return the learning rate's factor: a short rise, flat, then linear to almost zero."""
    if progress < warmup:
        return max(0.05, progress / warmup)
    return 1.0 if progress < flat else max(0.01, (1 - progress) / (1 - flat))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's learning rate from the one it was made with."""
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor


class Ema:
    """A running average of a module's parameters."""

    def __init__(self, module: nn.Module, rate: float) -> None:
        self.rate = rate
        self.count = 0
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module; faster at first."""
        self.count += 1
        rate = min(self.rate, self.count / (self.count + 10))
        for key, value in module.state_dict().items():
            self.shadow[key].lerp_(value, 1 - rate)


class Log:
    """Print progress lines now and then."""

    def __init__(self, stage: str, worker: Worker) -> None:
        self.stage, self.worker = stage, worker
        self.started = self.last = time.monotonic()
        self.means: dict[str, float] = {}

    def add(self, step: int, **values: Tensor | float) -> None:
        """Take in one step's values and print them when it is time."""
        for key, value in values.items():
            old = self.means.get(key, float(value))
            self.means[key] = 0.98 * old + 0.02 * float(value)
        now = time.monotonic()
        if self.worker.leads and now - self.last > LOG_SECONDS:
            self.last = now
            shown = " ".join(f"{k} {v:.4f}" for k, v in self.means.items())
            cpu = time.process_time()
            print(
                f"[{self.stage}] step {step} {shown} {now - self.started:.0f}s cpu {cpu:.0f}s",
                flush=True,
            )


def note_cost(folder: Path, stage: str, **numbers: float) -> None:
    """Write down what a stage cost, beside what it made."""
    path = folder / "cost.json"
    costs = json.loads(path.read_text()) if path.exists() else {}
    costs[stage] = {key: round(value, 1) for key, value in numbers.items()}
    path.write_text(json.dumps(costs, indent=2) + "\n")

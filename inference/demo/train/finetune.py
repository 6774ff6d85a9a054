"""Training a model on from the generator: one loop for filling masks and following edits."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from inference.demo import MAX_SEQUENCE_LENGTH
from inference.demo.train.common import Budget, Ema, Log, Worker, decay, note_cost, set_rate
from inference.demo.train.text import TextEncoders
from inference.demo.train.transformer import CHECKPOINT_SECONDS, make_optimizers, sample_times

# The generator's learning rates are for weights that know nothing yet.
RATE = 0.6


@dataclass(frozen=True, slots=True)
class Example:
    """One batch: packed target latents, their sentences, and what the model sees beside them.

    `channels` are further input channels of each token (Fill: the masked picture and its mask),
    `reference` further tokens (Kontext: the picture to edit). `weights` says how much each token
    counts. `ids` are the places of all tokens, the reference's after the target's.
    """

    tokens: Tensor
    texts: list[str]
    ids: Tensor
    channels: Tensor | None = None
    reference: Tensor | None = None
    weights: Tensor | None = None


@dataclass(slots=True)
class Reading:
    """Frozen text encoders that read every sentence only once."""

    encoders: TextEncoders
    known: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return CLIP's pooled output and T5's sequence for each text."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self.known.update(zip(new, zip(*self.encoders(new), strict=True), strict=True))
        pooled, sequences = zip(*(self.known[text] for text in texts), strict=True)
        return torch.stack(pooled), torch.stack(sequences)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    **_: object,
) -> Tensor:
    if attn_mask is not None or is_causal:
        raise ValueError("the transformer attends without a mask; the text encoders do not")
    weights = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    return torch.matmul(weights.float().softmax(-1).to(value.dtype), value)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Compute attention as two matrix products instead of one fused call."""
    # Measured on a CPU core, 16 edits of 128x128 in bf16: 74 samples/s against 48, most of it in
    # the fused call's backward pass.
    with patch.object(F, "scaled_dot_product_attention", _attention):
        yield


def flow_loss(model: nn.Module, read: Reading, batch: Example) -> tuple[Tensor, Tensor]:
    """Return the flow-matching loss, and its part at high noise."""
    tokens = batch.tokens
    pooled, sequence = read(batch.texts)
    with plain_attention(), torch.autocast(tokens.device.type, torch.bfloat16):
        output, target, times = _predict(model, batch, pooled, sequence)
    errors = (output.float() - target).square().mean(2)
    if batch.weights is not None:
        errors = errors * batch.weights
    each = errors.mean(1)
    return each.mean(), each[times > 0.8].mean().nan_to_num(0.3).detach()


def _predict(
    model: nn.Module, batch: Example, pooled: Tensor, sequence: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the velocity of noised tokens, what it should be, and their timesteps."""
    tokens = batch.tokens
    times = sample_times(len(tokens), tokens.device)
    noise, mix = torch.randn_like(tokens), times.view(-1, 1, 1)
    seen = (1 - mix) * tokens + mix * noise
    if batch.channels is not None:
        seen = torch.cat([seen, batch.channels], dim=2)
    if batch.reference is not None:
        seen = torch.cat([seen, batch.reference], dim=1)
    output = model(
        hidden_states=seen,
        timestep=times,
        pooled_projections=pooled,
        encoder_hidden_states=sequence,
        txt_ids=torch.zeros(MAX_SEQUENCE_LENGTH, 3, device=tokens.device),
        img_ids=batch.ids,
        return_dict=False,
    )[0]
    return output[:, : tokens.shape[1]], noise - tokens, times


@dataclass(slots=True)
class Progress:
    """Everything a later leg needs to go on; every leg has a learning-rate schedule of its own."""

    model: FluxTransformer2DModel
    optimizers: list[torch.optim.Optimizer]
    ema: Ema
    step: int = 0
    cpu: float = 0.0

    def save(self, folder: Path) -> None:
        """Write the state for a later leg, and the averaged weights for use."""
        kept = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema.shadow,
            "numbers": [self.step, self.cpu],
        }
        path = folder / "state.pt"
        torch.save(kept, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        averaged = FluxTransformer2DModel.from_config(self.model.config)
        averaged.load_state_dict(self.ema.shadow)
        averaged.save_pretrained(folder / "transformer")

    def load(self, folder: Path) -> None:
        """Go on where an earlier leg stopped."""
        kept = torch.load(folder / "state.pt", weights_only=True)
        self.model.load_state_dict(kept["model"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.ema.shadow = kept["ema"]
        self.step, self.cpu = int(kept["numbers"][0]), kept["numbers"][1]
        self.ema.count = self.step


def steps_done(folder: Path, resume: bool) -> int:
    """Return how many steps earlier legs took; what is drawn depends on it."""
    if not resume:
        return 0
    return int(torch.load(folder / "state.pt", weights_only=True)["numbers"][0])


def finetune(
    worker: Worker,
    stage: str,
    folder: Path,
    model: FluxTransformer2DModel,
    read: Reading,
    examples: Callable[[random.Random], Example],
    budget: Budget,
    seed: int,
    resume: bool,
) -> None:
    """Train a transformer on batches that `examples` makes; checkpoints lie in `folder`."""
    state = Progress(model, make_optimizers(model), Ema(model, 0.998))
    if resume:
        state.load(folder)
    torch.manual_seed(seed + state.step + 1_000_000 * worker.rank)
    rng = random.Random(seed + state.step + 1_000_000 * worker.rank)
    worker.wait()
    log, params = Log(stage, worker), list(model.parameters())
    cpu, saved = state.cpu - time.process_time(), time.monotonic()
    first, started = state.step, time.monotonic()
    progress = 0.0
    while progress < 1:
        loss, noisy = flow_loss(model, read, examples(rng))
        loss.backward()  # type: ignore[no-untyped-call]
        progress = worker.average(params, budget.progress(state.step + 1 - first))
        nn.utils.clip_grad_norm_(params, 1.0)
        for optimizer in state.optimizers:
            set_rate(optimizer, RATE * decay(progress, 0.4))
            optimizer.step()
        model.zero_grad(set_to_none=False)
        state.ema.update(model)
        state.step += 1
        state.cpu = cpu + time.process_time()
        log.add(state.step, loss=loss.detach(), noisy=noisy, progress=progress)
        if worker.leads and (time.monotonic() - saved > CHECKPOINT_SECONDS or progress >= 1):
            saved = time.monotonic()
            state.save(folder)
    if worker.leads:
        took, used = time.monotonic() - started, state.cpu * worker.world
        note_cost(folder, stage, steps=state.step, seconds=took, cpu_seconds=used)

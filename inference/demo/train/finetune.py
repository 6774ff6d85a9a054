"""Training a model on from the generator: one loop for filling masks and following edits."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from inference.demo import MAX_SEQUENCE_LENGTH
from inference.demo.train.common import Budget, Ema, Worker
from inference.demo.train.latents import random_size
from inference.demo.train.progress import Progress, descend
from inference.demo.train.text import TextEncoders
from inference.demo.train.transformer import make_optimizers, sample_times

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


class Drawings(Protocol):
    """Drawings of one size, encoded once."""

    def batch(self, rng: random.Random) -> Example:
        """Return some of them, with what the model is to make of them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is derived from the generator.

    `encode` draws about so many pictures from a seed, by their size; `start` turns the generator
    into what training begins with.
    """

    stage: str
    encode: Callable[[AutoencoderKL, int, int], Mapping[tuple[int, int], Drawings]]
    start: Callable[[FluxTransformer2DModel], FluxTransformer2DModel]


def finetune(
    worker: Worker,
    recipe: Recipe,
    base: Path,
    folder: Path,
    budget: Budget,
    seed: int,
    pictures: int,
    resume: bool,
) -> None:
    """Train on from the generator in `base`; checkpoints lie in `folder`.

    Every leg has drawings and a learning-rate schedule of its own.
    """
    device, path = worker.device, folder / "state.pt"
    base_model = FluxTransformer2DModel.from_pretrained(
        base / "transformer", torch_dtype=torch.float32
    )
    model = recipe.start(base_model).to(device).train()
    state = Progress(model, make_optimizers(model), Ema(model, 0.998))
    if resume:
        state.load(path)
    first, leg = state.step, seed + state.step
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32).to(device).eval()
    drawings = recipe.encode(vae, pictures // worker.world, leg + 100 * worker.rank)
    read = Reading(TextEncoders.load(base).to(device).eval().requires_grad_(False))
    # Every worker draws the same sizes, so that no one waits for another.
    sizes, rng = random.Random(leg), random.Random(leg + 1_000_000 * worker.rank)
    torch.manual_seed(leg + 1_000_000 * worker.rank)
    worker.wait()

    def losses() -> tuple[Tensor, Tensor]:
        return flow_loss(model, read, drawings[random_size(sizes)].batch(rng))

    descend(worker, recipe.stage, path, state, losses, budget, first=first, rate=RATE)

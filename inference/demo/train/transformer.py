"""The transformer: flow matching on cached latents, Muon on its matrices from the first step."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn

from inference.demo import MAX_SEQUENCE_LENGTH
from inference.demo.train.common import (
    Budget,
    Ema,
    Log,
    Worker,
    decay,
    note_cost,
    set_rate,
)
from inference.demo.train.latents import SHARES, Bucket, encode
from inference.demo.train.text import TextEncoders

CONFIG: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 5,
    "joint_attention_dim": 128,
    "pooled_projection_dim": 128,
    "guidance_embeds": False,
    "axes_dims_rope": (8, 12, 12),
}
BATCH = 32
CHECKPOINT_SECONDS = 240.0


def fresh_transformer() -> FluxTransformer2DModel:
    """Make an untrained transformer whose blocks start as the identity."""
    model = FluxTransformer2DModel(**CONFIG)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear")):
                nn.init.zeros_(module.weight)
    for module in (model.norm_out.linear, model.proj_out):
        nn.init.zeros_(module.weight)
    return model


def make_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for everything else."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = "transformer_blocks." in name and parameter.ndim == 2
        (matrices if inside else rest).append(parameter)
    # Muon was ahead of AdamW after equal CPU time (loss 0.219 against 0.233 after 250 steps).
    muon = torch.optim.Muon(
        matrices, lr=3.5e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw", ns_steps=4
    )
    return [muon, torch.optim.AdamW(rest, lr=1.2e-3, betas=(0.9, 0.98), weight_decay=0.0)]


def sample_times(count: int, device: torch.device) -> Tensor:
    """Draw timesteps, mostly noisy ones: there the layout is decided."""
    middle = torch.sigmoid(torch.randn(count, device=device))
    shifted = 4 * middle / (1 + 3 * middle)
    uniform = torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < 0.75, shifted, uniform)


@dataclass(slots=True)
class Data:
    """Where batches come from: frozen text encoders and cached latents."""

    encoders: TextEncoders
    buckets: dict[tuple[int, int], Bucket]
    rng: random.Random
    sizes: random.Random

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens, pooled text, text sequence and token places, all of one size."""
        size = self.sizes.choices(list(SHARES), list(SHARES.values()))[0]
        bucket = self.buckets[size]
        picks = [self.rng.randrange(len(bucket.drawn)) for _ in range(BATCH)]
        words = [bucket.drawn[pick].words(self.rng) for pick in picks]
        with torch.no_grad():
            pooled, sequence = self.encoders(words)
        return bucket.tokens[picks].float(), pooled, sequence, bucket.ids


def flow_loss(model: FluxTransformer2DModel, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return the flow-matching loss, and its part at high noise."""
    tokens, pooled, sequence, ids = batch
    times = sample_times(len(tokens), tokens.device)
    noise, mix = torch.randn_like(tokens), times.view(-1, 1, 1)
    output = model(
        hidden_states=(1 - mix) * tokens + mix * noise,
        timestep=times,
        pooled_projections=pooled,
        encoder_hidden_states=sequence,
        txt_ids=torch.zeros(MAX_SEQUENCE_LENGTH, 3, device=tokens.device),
        img_ids=ids,
        return_dict=False,
    )[0]
    errors = (output.float() - (noise - tokens)).square().mean((1, 2))
    return errors.mean(), errors[times > 0.8].mean().nan_to_num(0.3).detach()


@dataclass(slots=True)
class State:
    """Everything a later leg needs to go on."""

    model: FluxTransformer2DModel
    optimizers: list[torch.optim.Optimizer]
    ema: Ema
    step: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    def save(self, folder: Path) -> None:
        """Write the state for a later leg, and the averaged weights for use."""
        kept = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema.shadow,
            "numbers": [self.step, self.seconds, self.cpu],
        }
        path = folder / "transformer-state.pt"
        torch.save(kept, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        averaged = FluxTransformer2DModel(**CONFIG)
        averaged.load_state_dict(self.ema.shadow)
        averaged.save_pretrained(folder / "transformer")

    def load(self, folder: Path) -> None:
        """Go on where an earlier leg stopped, if there was one."""
        path = folder / "transformer-state.pt"
        if not path.exists():
            return
        kept = torch.load(path, weights_only=True)
        self.model.load_state_dict(kept["model"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.ema.shadow = kept["ema"]
        self.step, self.seconds, self.cpu = kept["numbers"]
        self.ema.count = self.step = int(self.step)


def train_transformer(
    worker: Worker, folder: Path, budget: Budget, seed: int, pictures: int
) -> None:
    """Train the transformer, going on from a checkpoint if the folder holds one."""
    torch.manual_seed(seed)
    model = fresh_transformer().to(worker.device)
    state = State(model, make_optimizers(model), Ema(model, 0.999))
    state.load(folder)
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(worker.device).eval()
    buckets = encode(vae, pictures // worker.world, seed + 100 * worker.rank)
    encoders = TextEncoders.load(folder).to(worker.device).eval().requires_grad_(False)
    mine = 1_000_000 * worker.rank + seed + state.step
    data = Data(encoders, buckets, random.Random(mine), random.Random(seed + state.step))
    torch.manual_seed(mine)
    worker.wait()
    budget.started = time.monotonic() - state.seconds
    _loop(worker, state, data, budget, folder)


def _loop(worker: Worker, state: State, data: Data, budget: Budget, folder: Path) -> None:
    log, params = Log("transformer", worker), list(state.model.parameters())
    cpu, progress = state.cpu - time.process_time(), budget.progress(state.step)
    saved = time.monotonic()
    while progress < 1:
        batch = data.batch()
        with torch.autocast(worker.device.type, torch.bfloat16):
            loss, noisy = flow_loss(state.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        progress = worker.average(params, budget.progress(state.step + 1))
        nn.utils.clip_grad_norm_(params, 1.0)
        for optimizer in state.optimizers:
            set_rate(optimizer, decay(progress, 0.4))
            optimizer.step()
        state.model.zero_grad(set_to_none=False)
        state.ema.update(state.model)
        state.step += 1
        log.add(state.step, loss=loss.detach(), noisy=noisy, progress=progress)
        state.seconds = time.monotonic() - budget.started
        state.cpu = cpu + time.process_time()
        if worker.leads and (time.monotonic() - saved > CHECKPOINT_SECONDS or progress >= 1):
            saved = time.monotonic()
            state.save(folder)
    if worker.leads:
        used = state.cpu * worker.world
        note_cost(folder, "transformer", steps=state.step, seconds=state.seconds, cpu_seconds=used)

"""The autoencoder: trained on crops full of edges, then its decoder alone on noisy latents."""

import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from inference.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    Rgb,
    draw,
    outline_mask,
    random_wish,
    settle,
)
from inference.demo.train.common import Budget, Log, Worker, decay, note_cost, set_rate

CROP = 64
BATCH = 16
SAVE_SECONDS = 300.0
CONFIG = {
    "block_out_channels": (16, 16, 40, 80),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 16,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "force_upcast": False,
    "sample_size": 128,
}


def _colour(rng: random.Random, names: dict[str, Rgb]) -> NDArray[np.float32]:
    if rng.random() < 0.2:
        return np.array([rng.randint(0, 255) for _ in range(3)], np.float32)
    return np.array([c + rng.randint(-6, 6) for c in rng.choice(list(names.values()))], np.float32)


def _stripes(rng: random.Random, size: int) -> NDArray[np.float32]:
    """Return a mask of horizontal, vertical or slanted stripes."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    slope = rng.choice(((1.0, 0.0), (0.0, 1.0), (0.7, 0.7)))
    wave = np.sin((rows * slope[0] + columns * slope[1]) * 2 * np.pi / rng.uniform(6, 16))
    return np.asarray(np.clip(wave * 3 + 0.5, 0, 1), np.float32)


def crop(rng: random.Random) -> NDArray[np.float32]:
    """Draw part of a picture: an object at any place, sometimes two, striped or with a hole."""
    canvas = np.broadcast_to(_colour(rng, BACKGROUNDS), (CROP, CROP, 3))
    for _ in range(2 if rng.random() < 0.15 else 1):
        x, y, radius = rng.uniform(-6, 70), rng.uniform(-6, 70), rng.uniform(12, 48)
        cover = outline_mask(rng.choice(SHAPES), x, y, radius, CROP, CROP)[..., None]
        front = np.broadcast_to(_colour(rng, COLOURS), canvas.shape)
        if rng.random() < 0.12:
            # Derived models draw stripes with this same, frozen autoencoder.
            lines = _stripes(rng, CROP)[..., None]
            front = lines * front + (1 - lines) * _colour(rng, COLOURS)
        canvas = cover * front + (1 - cover) * canvas
    if rng.random() < 0.08:
        # Inpainting hides a part of the picture behind mid-grey.
        x0, y0 = rng.randrange(CROP - 8), rng.randrange(CROP - 8)
        canvas = canvas.copy()
        canvas[y0 : y0 + rng.randrange(8, 48), x0 : x0 + rng.randrange(8, 48)] = 127.5
    return np.asarray(np.clip(canvas, 0, 255), np.float32)


def whole(rng: random.Random, width: int, height: int) -> NDArray[np.float32]:
    """Draw a picture as the transformer will see it, small objects as often as large ones."""
    scene = settle(random_wish(rng, short=0.15, full=0.7), rng)
    return draw(scene, width, height, rng).astype(np.float32)


def to_tensor(pictures: list[NDArray[np.float32]], device: torch.device) -> Tensor:
    """Stack pictures into a batch with values from -1 to 1."""
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return (batch / 127.5 - 1).to(device)


def batch_of(kind: random.Random, rng: random.Random, crops: float, device: torch.device) -> Tensor:
    """Return crops or whole pictures; `kind` is shared, so that workers do equal work."""
    if kind.random() < crops:
        return to_tensor([crop(rng) for _ in range(BATCH)], device)
    width, height = kind.choice(SIZES)
    return to_tensor([whole(rng, width, height) for _ in range(BATCH // 3)], device)


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return how far a picture is off, edges counting several times."""
    dx, dy = target.diff(dim=-1).abs().sum(1), target.diff(dim=-2).abs().sum(1)
    edge = F.pad(dx, (0, 1)) + F.pad(dy, (0, 0, 0, 1))
    near = F.max_pool2d((edge > 0.1).float(), 5, 1, 2)[:, None]
    error = output - target
    weight = 1 + 4 * near
    flat = (weight * (error.abs() + 2 * error.square())).mean()
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return flat + slopes


def _reduce_and_step(
    worker: Worker, params: list[nn.Parameter], optimizer: torch.optim.Optimizer, progress: float
) -> float:
    progress = worker.average(params, progress)
    nn.utils.clip_grad_norm_(params, 0.5)
    set_rate(optimizer, decay(progress, 0.55))
    optimizer.step()
    optimizer.zero_grad()
    return progress


def train_joint(worker: Worker, folder: Path, budget: Budget, seed: int) -> None:
    """Train encoder and decoder together, then even out the latents' channels."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(**CONFIG).to(worker.device)
    torch.manual_seed(seed + 1 + worker.rank)
    kind, rng = random.Random(seed), random.Random(1000 * seed + worker.rank)
    params = list(vae.parameters())
    optimizer = torch.optim.AdamW(params, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    log, step, progress = Log("vae", worker), 0, 0.0
    started, cpu = time.monotonic(), time.process_time()
    while progress < 1:
        images = batch_of(kind, rng, 0.6, worker.device)
        # Measured here: bf16 gives 150 crops/s a core against 97 in single precision.
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=progress < 0.8):
            posterior = vae.encode(images).latent_dist
            latents = posterior.sample()
            blur = 0.3 * torch.rand(len(latents), 1, 1, 1, device=worker.device)
            output = vae.decode(latents + blur * torch.randn_like(latents)).sample
        rebuilt = picture_loss(output.float(), images)
        spread = (posterior.mean.square() + posterior.var - posterior.logvar - 1).float().mean() / 2
        (rebuilt + 2e-4 * spread).backward()
        progress = _reduce_and_step(worker, params, optimizer, budget.progress(step + 1))
        log.add(step, loss=rebuilt.detach(), kl=spread.detach())
        step += 1
    if worker.leads:
        vae.eval()
        even_out(vae, seed)
        vae.save_pretrained(folder / "vae")
        used = (time.process_time() - cpu) * worker.world
        took = time.monotonic() - started
        note_cost(folder, "vae", steps=step, seconds=took, cpu_seconds=used)


@torch.no_grad()
def even_out(vae: AutoencoderKL, seed: int) -> None:
    """Bring the channels' spreads halfway together, inside the convolutions at the latents."""
    latents = _sample_latents(vae, seed)
    spread = latents.std((0, 2, 3))
    scale = (spread / spread.mean()).sqrt()
    channels = len(scale)
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    out.weight[:channels] /= scale.view(-1, 1, 1, 1)
    out.bias[:channels] /= scale
    out.bias[channels:] -= 2 * scale.log()
    into.weight *= scale.view(1, -1, 1, 1)
    latents = latents / scale.view(1, -1, 1, 1)
    vae.register_to_config(
        scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean())
    )
    shown = [round(float(value), 2) for value in spread]
    print(f"[vae] channel spreads before evening out: {shown}", flush=True)


@torch.no_grad()
def _sample_latents(vae: AutoencoderKL, seed: int) -> Tensor:
    rng = random.Random(seed + 7)
    images = to_tensor([whole(rng, 128, 128) for _ in range(256)], vae.device)
    return torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(images, 32)])


def train_decoder(worker: Worker, folder: Path, budget: Budget, seed: int) -> None:
    """Train the decoder alone, on latents as noisy as the transformer's."""
    torch.manual_seed(seed + 11 + worker.rank)
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(worker.device)
    vae.encoder.requires_grad_(False)
    kind, rng = random.Random(seed + 1), random.Random(1000 * seed + 500 + worker.rank)
    params = list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(params, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    log, step, progress = Log("decoder", worker), 0, 0.0
    started, cpu = time.monotonic(), time.process_time()
    noise, saved = 0.35 / float(vae.config.scaling_factor), started
    while progress < 1:
        images = batch_of(kind, rng, 0.35, worker.device)
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=progress < 0.8):
            with torch.no_grad():
                latents = vae.encode(images).latent_dist.mode()
            level = noise * torch.rand(len(latents), 1, 1, 1, device=worker.device).square()
            output = vae.decode(latents + level * torch.randn_like(latents)).sample
        loss = picture_loss(output.float(), images)
        loss.backward()  # type: ignore[no-untyped-call]
        progress = _reduce_and_step(worker, params, optimizer, budget.progress(step + 1))
        log.add(step, loss=loss.detach())
        step += 1
        if worker.leads and time.monotonic() - saved > SAVE_SECONDS:
            vae.save_pretrained(folder / "vae")
            saved = time.monotonic()
    if worker.leads:
        vae.save_pretrained(folder / "vae")
        used = (time.process_time() - cpu) * worker.world
        took = time.monotonic() - started
        note_cost(folder, "decoder", steps=step, seconds=took, cpu_seconds=used)

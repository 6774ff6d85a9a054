"""A small picture of unfinished latents, by a linear map fitted to the model's own VAE."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from inference.calls import is_cast, lasting_dtype

_SAMPLES, _PATCHES, _LATENTS = 8, 5, 16
_RIDGE = 1e-4


class Previewer:
    """Turns scaled latents [1, C, h, w] into an RGB picture of at most `side_px`."""

    def __init__(self, weights: Tensor, side_px: int) -> None:
        self._weights = weights  # [C + 1, 3], the last row a bias; values in 0..255
        self._side_px = side_px

    def picture(self, latents: Tensor) -> Image.Image:
        """The latents as a picture, enlarged to eight times their size or `side_px`."""
        channels, height, width = latents.shape[1:]
        flat = latents[0].float().reshape(channels, -1).T
        pixels = flat @ self._weights[:-1] + self._weights[-1]
        values = pixels.clamp(0, 255).round().to("cpu", torch.uint8)
        small = Image.fromarray(values.reshape(height, width, 3).numpy())
        scale = min(8.0, self._side_px / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return small.resize(size, Image.Resampling.BICUBIC)


def fit_previewer(pipe: Any, side_px: int, device: str = "cpu") -> Previewer | None:
    """Fit the map on pictures of random flat patches; None without a VAE of that kind.

    The VAE computes on the device, wherever it is until then.

    Ridge regression of each latent's mean colour: no table of constants per model, and it follows
    any VAE. Patch borders fall inside latents; without such the fit was seen to be worse by half.
    """
    vae: Any = getattr(pipe, "vae", None)
    factor = getattr(pipe, "vae_scale_factor", None)
    if side_px <= 0 or type(vae).__name__ != "AutoencoderKL" or not isinstance(factor, int):
        return None
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand((_SAMPLES, 3, _PATCHES, _PATCHES), generator=generator)
    pictures = torch.nn.functional.interpolate(colours, size=_LATENTS * factor)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    with lasting_dtype(vae):
        if is_cast(vae):
            vae.to(dtype=torch.float32)
        modes = vae.encode((pictures * 2 - 1).to(device, vae.dtype)).latent_dist.mode()
    latents = (modes.float() - shift) * vae.config.scaling_factor
    known = _columns(latents.cpu())
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    wanted = _columns(torch.nn.functional.avg_pool2d(pictures, factor)) * 255
    ridge = _RIDGE * len(known) * torch.eye(known.shape[1])
    weights = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted)
    return Previewer(weights.to(device), side_px)


def _columns(maps: Tensor) -> Tensor:
    """[n, C, h, w] → [n·h·w, C]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def denoised(scheduler: Any, before: Tensor, after: Tensor) -> Tensor:
    """Where the step from `before` to `after` leads if continued to no noise at all.

    Schedulers that integrate over `sigmas` move in a straight line towards the clean latents
    within a step; for others, which start from noise of unit variance and have sigmas that are no
    distance to it, the latents themselves are all there is to show.
    """
    if getattr(scheduler, "init_noise_sigma", None) == 1.0:
        return after
    sigmas, index = getattr(scheduler, "sigmas", None), getattr(scheduler, "step_index", None)
    if sigmas is None or not isinstance(index, int) or not 0 < index < len(sigmas):
        return after
    now, then = float(sigmas[index]), float(sigmas[index - 1])
    if now == then:
        return after
    return after + (after - before) * (now / (then - now))

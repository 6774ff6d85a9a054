"""Previews: colours come out about right, and unfinished latents show where they lead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from inference.preview import denoised, fit_previewer


class PoolingVae(torch.nn.Module):
    """A VAE whose latents are mixed mean colours: what a linear map can undo exactly."""

    config = SimpleNamespace(scaling_factor=0.5, shift_factor=0.25)
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.rand((4, 3), generator=torch.Generator().manual_seed(3))

    def encode(self, pixels: torch.Tensor) -> Any:
        means = torch.nn.functional.avg_pool2d(pixels, 8)
        latents = torch.einsum("lc,bchw->blhw", self.mix, means)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


def pipe_with(vae: Any) -> Any:
    return SimpleNamespace(vae=vae, vae_scale_factor=8)


AutoencoderKL = type("AutoencoderKL", (PoolingVae,), {})


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def test_flat_colours_are_recovered() -> None:
    vae = AutoencoderKL()
    previewer = fit_previewer(pipe_with(vae), side_px=64)
    assert previewer is not None
    red = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 64, 32)
    latents = (vae.encode(red * 2 - 1).latent_dist.mode() - 0.25) * 0.5
    shown = previewer.picture(latents)
    assert shown.size == (32, 64)
    pixel = shown.getpixel((16, 32))
    assert isinstance(pixel, tuple)
    assert all(abs(seen - want) <= 4 for seen, want in zip(pixel, (230, 51, 26), strict=True))


def test_previews_can_be_turned_off_and_need_a_known_vae() -> None:
    assert fit_previewer(pipe_with(AutoencoderKL()), side_px=0) is None
    assert fit_previewer(pipe_with(PoolingVae()), side_px=64) is None
    assert fit_previewer(SimpleNamespace(), side_px=64) is None


def test_a_straight_path_is_followed_to_its_end() -> None:
    clean, noise = torch.full((1, 1), 3.0), torch.full((1, 1), 11.0)
    sigmas = torch.tensor([1.0, 0.7, 0.2, 0.0])

    def at(sigma: float) -> torch.Tensor:
        return clean + sigma * (noise - clean)

    scheduler = SimpleNamespace(sigmas=sigmas, step_index=2)
    assert torch.allclose(denoised(scheduler, at(0.7), at(0.2)), clean)
    scheduler.step_index = 3
    assert torch.allclose(denoised(scheduler, at(0.2), at(0.0)), clean)


def test_without_sigmas_the_latents_are_shown_as_they_are() -> None:
    after = torch.ones(1)
    assert denoised(SimpleNamespace(), torch.zeros(1), after) is after


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_sigmas_that_are_no_distance_are_not_gone_along(name: str) -> None:
    """Its latents are scaled at every step, so that a straight line leads past the picture."""
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(0)
    before = torch.ones(1, 4, 2, 2)
    after = scheduler.step(before, scheduler.timesteps[0], before).prev_sample
    assert denoised(scheduler, before, after) is after

"""Tiny pipelines on the FLUX.1 transformer."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from transformers import CLIPTextModel

from inference.skeletons.parts import (
    clip_config,
    clip_tokenizer,
    t5_encoder,
    t5_tokenizer,
    tiny_vae,
    without_dropout,
)


def tiny_flux(*, seed: int = 0, guidance: bool = True, heads: int = 4) -> Any:
    """A random FluxPipeline whose transformer is `heads` × 16 wide."""
    return _build(
        diffusers.FluxPipeline,
        seed,
        guidance_embeds=guidance,
        num_attention_heads=heads,
    )


def tiny_kontext(*, seed: int = 0) -> Any:
    """A random FluxKontextPipeline, which looks at pictures beside the prompt."""
    return _build(diffusers.FluxKontextPipeline, seed)


def tiny_fill(*, seed: int = 0) -> Any:
    """A random FluxFillPipeline with the 384 input channels of the real one."""
    return _build(
        diffusers.FluxFillPipeline, seed, latent_channels=16, in_channels=384, out_channels=64
    )


def _build(wanted: Any, seed: int, *, latent_channels: int = 4, **changes: Any) -> Any:
    torch.manual_seed(seed)
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    shape: dict[str, Any] = {
        "in_channels": 4 * latent_channels,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 4, 8),
        "guidance_embeds": True,
    }
    transformer = diffusers.FluxTransformer2DModel(**(shape | changes))
    vae = tiny_vae(
        latent_channels, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1
    )
    pipe = wanted(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=CLIPTextModel(clip_config(clip, 32)),
        tokenizer=clip,
        text_encoder_2=t5_encoder(t5, 32),
        tokenizer_2=t5,
        transformer=transformer,
    )
    return without_dropout(pipe)

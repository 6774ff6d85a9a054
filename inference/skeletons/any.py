"""Tiny pipelines that have no family of their own."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from transformers import CLIPTextModel

from inference.skeletons.parts import (
    clip_config,
    clip_tokenizer,
    louder,
    t5_encoder,
    t5_tokenizer,
    tiny_vae,
    without_dropout,
)


def tiny_sd(*, seed: int = 0, edits: bool = False) -> Any:
    """A random StableDiffusionPipeline, or the one that `edits` as it is told."""
    torch.manual_seed(seed)
    clip = clip_tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=8 if edits else 4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    wanted = diffusers.StableDiffusionPipeline
    if edits:
        wanted = diffusers.StableDiffusionInstructPix2PixPipeline
    pipe = wanted(
        vae=tiny_vae(4),
        text_encoder=CLIPTextModel(clip_config(clip, 32)),
        tokenizer=clip,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return without_dropout(pipe)


def tiny_pixart(*, seed: int = 0) -> Any:
    """A random PixArtSigmaPipeline, whose transformer has no merge rules."""
    torch.manual_seed(seed)
    t5 = t5_tokenizer()
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=32,
        caption_channels=32,
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    pipe = diffusers.PixArtSigmaPipeline(
        tokenizer=t5,
        text_encoder=t5_encoder(t5, 32),
        vae=tiny_vae(4),
        transformer=louder(transformer, 2.0),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    return without_dropout(pipe)

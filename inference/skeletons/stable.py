"""Tiny pipelines of the Stable Diffusion line."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from inference.skeletons.parts import (
    clip_config,
    clip_tokenizer,
    t5_encoder,
    t5_tokenizer,
    tiny_vae,
    without_dropout,
)


def tiny_sdxl(*, seed: int = 0, width: int = 32, in_channels: int = 4) -> Any:
    """A random StableDiffusionXLPipeline whose UNet starts `width` channels wide.

    With 9 `in_channels` it is one that inpaints.
    """
    torch.manual_seed(seed)
    clip = clip_tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
        norm_num_groups=8,
    )
    inpaints = in_channels == 9
    wanted = (
        diffusers.StableDiffusionXLInpaintPipeline
        if inpaints
        else diffusers.StableDiffusionXLPipeline
    )
    pipe = wanted(
        vae=tiny_vae(4),
        text_encoder=CLIPTextModel(clip_config(clip, 32)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(clip, 32, projection_dim=32)),
        tokenizer=clip,
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    return without_dropout(pipe)


def tiny_sd3(*, seed: int = 0) -> Any:
    """A random StableDiffusion3Pipeline whose transformer is 64 wide and two layers deep."""
    torch.manual_seed(seed)
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    pipe = diffusers.StableDiffusion3Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(clip_config(clip, 16, projection_dim=16)),
        tokenizer=clip,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(clip, 16, projection_dim=16)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(t5, 32),
        tokenizer_3=t5,
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=32,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=64,
            pooled_projection_dim=32,
            pos_embed_max_size=32,
            qk_norm="rms_norm",
        ),
    )
    return without_dropout(pipe)

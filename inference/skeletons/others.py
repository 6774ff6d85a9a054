"""Tiny pipelines of Qwen-Image and Z-Image."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from inference.skeletons.language import qwen3, qwen_prompts, qwen_tokenizer, qwen_vision
from inference.skeletons.parts import louder, tiny_vae, without_dropout


def tiny_qwen(*, seed: int = 0) -> Any:
    """A random QwenImagePipeline whose transformer is 64 wide and one layer deep."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    pipe = diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=qwen_vision(tokenizer),
        tokenizer=tokenizer,
        transformer=qwen_transformer(),
    )
    return without_dropout(pipe)


def tiny_qwen_edit(*, seed: int = 0, plus: bool = False) -> Any:
    """A random QwenImageEditPipeline, or with `plus` the one that takes several pictures."""
    torch.manual_seed(seed)
    prompts = qwen_prompts()
    wanted = diffusers.QwenImageEditPlusPipeline if plus else diffusers.QwenImageEditPipeline
    pipe = wanted(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        # it sees every source at a megapixel
        vae=qwen_vae(base_dim=2),
        text_encoder=qwen_vision(prompts.tokenizer),
        tokenizer=prompts.tokenizer,
        processor=prompts,
        transformer=qwen_transformer(num_attention_heads=1, zero_cond_t=plus),
    )
    return without_dropout(pipe)


def qwen_vae(*, base_dim: int = 8) -> Any:
    """A random AutoencoderKLQwenImage of 4 latent channels."""
    return diffusers.AutoencoderKLQwenImage(
        base_dim=base_dim,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[3.0] * 4,
    )


def qwen_transformer(*, num_attention_heads: int = 4, **changes: Any) -> Any:
    """A random QwenImageTransformer2DModel for that VAE and a 16-channel text encoder."""
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=num_attention_heads,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
        **changes,
    )
    return louder(transformer, 2.0)


def tiny_zimage(*, seed: int = 0) -> Any:
    """A random ZImagePipeline whose transformer is 32 wide, one layer of each kind deep."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    pipe = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        ),
    )
    return without_dropout(pipe)

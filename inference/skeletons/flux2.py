"""Tiny pipelines on the FLUX.2 transformer."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from inference.skeletons.language import mistral_prompts, mistral_vision, qwen3, qwen_tokenizer
from inference.skeletons.parts import louder, without_dropout


def tiny_klein(*, seed: int = 0, distilled: bool = False) -> Any:
    """A random Flux2KleinPipeline; a `distilled` one knows no guidance."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    # the pipeline reads the hidden states after layers 9, 18 and 27
    encoder = qwen3(tokenizer, layers=28, causal=True)
    pipe = diffusers.Flux2KleinPipeline(
        **_parts(guidance=False), text_encoder=encoder, tokenizer=tokenizer, is_distilled=distilled
    )
    return without_dropout(pipe)


def tiny_flux2(*, seed: int = 0) -> Any:
    """A random Flux2Pipeline, its prompts read by a Mistral with eyes."""
    torch.manual_seed(seed)
    prompts = mistral_prompts()
    # layers 10, 20 and 30
    encoder = mistral_vision(prompts.tokenizer, layers=31)
    pipe = diffusers.Flux2Pipeline(**_parts(guidance=True), text_encoder=encoder, tokenizer=prompts)
    return without_dropout(pipe)


def _parts(*, guidance: bool) -> dict[str, Any]:
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
    )
    return {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": vae,
        "transformer": louder(transformer, 1.5),
    }

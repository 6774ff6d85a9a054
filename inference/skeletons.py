"""Pipelines of the real architectures with random weights, built from configs, nothing downloaded.

Tests and CPU benchmarks use the tiny shapes below; they exercise every line that a full-size
checkpoint would, in milliseconds.
"""

from __future__ import annotations

import string
from typing import Any

import diffusers
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

_CHARACTERS = string.ascii_lowercase + string.digits + ".,-'"


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer of single characters, the padding token also ending the text."""
    pieces = [*_CHARACTERS, *(f"{char}</w>" for char in _CHARACTERS)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer of single characters."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *_CHARACTERS]
    return T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0)


def _clip_config(tokenizer: CLIPTokenizer, width: int, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def _vae(latent_channels: int, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=latent_channels,
        **more,
    )


def tiny_flux(*, seed: int = 0, guidance: bool = True, layers: int = 1, heads: int = 4) -> Any:
    """A random FluxPipeline whose transformer is `heads` × 16 wide, `layers` of each kind deep."""
    torch.manual_seed(seed)
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=layers,
        num_single_layers=layers,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance,
    )
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1),
        text_encoder=CLIPTextModel(_clip_config(clip, 32)),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(t5), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        ),
        tokenizer_2=t5,
        transformer=transformer,
    )
    return _without_dropout(pipe)


def tiny_sdxl(*, seed: int = 0, width: int = 32) -> Any:
    """A random StableDiffusionXLPipeline whose UNet starts `width` channels wide."""
    torch.manual_seed(seed)
    clip = clip_tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
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
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip_config(clip, 32)),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(clip, 32, projection_dim=32)),
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
    return _without_dropout(pipe)


def _without_dropout(pipe: Any) -> Any:
    """As `from_pretrained` leaves it: every module in evaluation mode."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe

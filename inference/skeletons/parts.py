"""What the tiny pipelines share: tokenizers of single characters, text encoders, VAEs."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from inference.processors import MistralPrompts, QwenPrompts

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


def clip_config(tokenizer: CLIPTokenizer, width: int, **more: Any) -> CLIPTextConfig:
    """A CLIP text encoder of two layers."""
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


def t5_encoder(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    """A random T5 encoder of two layers."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
        )
    )


def tiny_vae(latent_channels: int, **more: Any) -> Any:
    """A random AutoencoderKL whose latents are an eighth of the picture's sides."""
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


def save(pipe: Any, folder: Path) -> None:
    """Write a pipeline as checkpoints are published, with the processors of transformers."""
    pipe.save_pretrained(folder)
    index = folder / "model_index.json"
    content = json.loads(index.read_text())
    for name, part in pipe.components.items():
        if isinstance(part, QwenPrompts | MistralPrompts):
            part.save(folder / name)
            content[name] = ["transformers", part.stands_for]
    index.write_text(json.dumps(content, indent=2))


def louder(module: torch.nn.Module, factor: float) -> torch.nn.Module:
    """The module with larger weights, where random ones hardly let the prompt through."""
    with torch.no_grad():
        for weights in module.parameters():
            if weights.ndim > 1:
                weights.mul_(factor)
    return module


def without_dropout(pipe: Any) -> Any:
    """As `from_pretrained` leaves it: every module in evaluation mode."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe

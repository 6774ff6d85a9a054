"""Tiny language models, as the newer pipelines read their prompts with."""

from __future__ import annotations

from typing import Any

from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from inference.processors import MistralPrompts, QwenPrompts

# What the real tokenizers know beside text.
_MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
_CONTENTS = (
    "{% for message in messages %}[{{ message.role }}]"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}"
)


def _bytes_as_letters() -> list[str]:
    """A printable letter for every byte, as byte-level tokenizers write them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def qwen_tokenizer() -> Qwen2Tokenizer:
    """A Qwen tokenizer of single bytes, with a chat template."""
    pieces = [*_bytes_as_letters(), *_MARKS]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(_MARKS),
    )
    tokenizer.chat_template = _CHAT
    return tokenizer


def mistral_prompts() -> MistralPrompts:
    """A Mistral's reader of prompts over a tokenizer of single bytes, with a chat template."""
    marks = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    pieces = [*_bytes_as_letters(), "<pad>", "</s>", *marks]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        pad_token="<pad>",
        eos_token="</s>",
        additional_special_tokens=marks,
    )
    tokenizer.chat_template = _CONTENTS
    return MistralPrompts(tokenizer)


def qwen_prompts() -> QwenPrompts:
    """A Qwen2.5-VL's reader of prompts and pictures, which it sees at some 50 pixels a side."""
    pictures = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=56 * 56)
    return QwenPrompts(pictures, qwen_tokenizer())


def mistral_vision(tokenizer: Qwen2Tokenizer, *, layers: int) -> Mistral3ForConditionalGeneration:
    """A random Mistral 3 of 16 channels."""
    config = Mistral3Config(
        text_config={"model_type": "mistral", **_text(tokenizer, layers, head_dim=8)},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    return Mistral3ForConditionalGeneration(config)


def _text(tokenizer: Qwen2Tokenizer, layers: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def qwen3(tokenizer: Qwen2Tokenizer, *, layers: int = 2, causal: bool = False) -> Any:
    """A random Qwen3 of 16 channels; `causal` with a head that tells the next token."""
    config = Qwen3Config(head_dim=8, **_text(tokenizer, layers))
    return (Qwen3ForCausalLM if causal else Qwen3Model)(config)


def qwen_vision(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """A random Qwen2.5-VL of 16 channels that sees patches of 14 pixels, four to a token."""
    config = Qwen2_5_VLConfig(
        text_config=_text(
            tokenizer, 2, rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1]}
        ),
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config)

"""Readers of prompts for encoders that also see, with neither torchvision nor video.

The ones in transformers import torchvision for videos, which no picture needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoTokenizer, BatchFeature, Qwen2VLImageProcessorPil

_IMAGE = "<|image_pad|>"


class QwenPrompts:
    """Turns texts and pictures into the inputs of a Qwen2.5-VL."""

    stands_for: ClassVar[str] = "Qwen2VLProcessor"

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer

    @classmethod
    def read(cls, folder: str, subfolder: str) -> QwenPrompts:
        """From the files of a checkpoint's own processor."""
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder, subfolder=subfolder)
        return cls(image_processor, AutoTokenizer.from_pretrained(folder, subfolder=subfolder))

    @staticmethod
    def prepare(encoder: Any) -> None:
        """Let a Qwen2.5-VL place pictures in two dimensions whoever calls it.

        transformers 5 counts their tokens like words unless it is told which those are, and
        diffusers does not tell.
        """
        image_token = encoder.config.image_token_id

        def tell(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            if kwargs.get("image_grid_thw") is not None and "mm_token_type_ids" not in kwargs:
                kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == image_token).to(torch.int)
            return args, kwargs

        encoder.register_forward_pre_hook(tell, with_kwargs=True)

    def __call__(
        self, text: Sequence[str], images: Any = None, padding: Any = True, **options: Any
    ) -> BatchFeature:
        """`input_ids` and `attention_mask` [texts, tokens], and of the pictures their patches.

        Each picture's mark in the text becomes as many as it has tokens.
        """
        seen: Mapping[str, Any] = {}
        texts = list(text)
        if images is not None:
            seen = self.image_processor(images=images, return_tensors="pt")
            merged = self.image_processor.merge_size**2
            counts = [int(grid.prod()) // merged for grid in seen["image_grid_thw"]]
            texts = _with_tokens(texts, counts)
        words = self.tokenizer(texts, padding=padding, return_tensors="pt")
        return BatchFeature({**words, **seen})

    def save(self, folder: Path) -> None:
        """As `read` finds it again."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _with_tokens(texts: Sequence[str], counts: Sequence[int]) -> list[str]:
    """The texts, every mark of a picture repeated as often as that has tokens."""
    left = iter(counts)
    made = []
    for text in texts:
        first, *rest = text.split(_IMAGE)
        made.append(first + "".join(_IMAGE * next(left) + part for part in rest))
    return made


class MistralPrompts:
    """Turns conversations without pictures into the inputs of a Mistral 3, as FLUX.2 asks it."""

    stands_for: ClassVar[str] = "PixtralProcessor"

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def read(cls, folder: str, subfolder: str) -> MistralPrompts:
        """From the files of a checkpoint's own processor."""
        return cls(AutoTokenizer.from_pretrained(folder, subfolder=subfolder))

    @staticmethod
    def prepare(encoder: Any) -> None:
        """Nothing: it reads words alone."""

    def apply_chat_template(
        self,
        conversation: Any,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """`input_ids` and `attention_mask` of conversations; `options` are the tokenizer's.

        As its own processor does, and not as its tokenizer alone would: a text that the template
        has not begun with the mark of a beginning gets one.
        """
        assert tokenize and return_dict, "FLUX.2 asks for token ids by name"
        texts = self.tokenizer.apply_chat_template(
            conversation, add_generation_prompt=add_generation_prompt, tokenize=False
        )
        begin = self.tokenizer.bos_token
        begun = begin is not None and all(text.startswith(begin) for text in texts)
        return self.tokenizer(texts, add_special_tokens=not begun, **options)

    def save(self, folder: Path) -> None:
        """As `read` finds it again."""
        self.tokenizer.save_pretrained(folder)

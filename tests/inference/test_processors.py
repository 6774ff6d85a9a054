"""Prompts read without torchvision, as the processors of transformers would read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.processors import MistralPrompts
from inference.skeletons.language import mistral_prompts


def conversation(*texts: str) -> list[list[dict[str, Any]]]:
    return [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in texts]


def test_every_conversation_is_padded_to_the_length_asked_for(tmp_path: Path) -> None:
    mistral_prompts().save(tmp_path / "tokenizer")
    prompts = MistralPrompts.read(str(tmp_path), "tokenizer")
    inputs = prompts.apply_chat_template(
        conversation("ab", "a longer one"),
        add_generation_prompt=False,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        padding="max_length",
        truncation=True,
        max_length=16,
    )
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 16)
    assert inputs["attention_mask"].sum(dim=1).tolist() == [len("[user]ab"), 16]


@pytest.mark.parametrize(("begun", "special"), [(True, False), (False, True)])
def test_a_text_begins_once(begun: bool, special: bool) -> None:
    prompts = mistral_prompts()
    seen: list[bool] = []

    class Tokenizer:
        bos_token = "<s>"

        def apply_chat_template(self, conversation: Any, **options: Any) -> list[str]:
            assert options == {"add_generation_prompt": False, "tokenize": False}
            return ["<s>a" if begun else "a"]

        def __call__(self, texts: list[str], *, add_special_tokens: bool) -> None:
            seen.append(add_special_tokens)

    prompts.tokenizer = Tokenizer()
    prompts.apply_chat_template(conversation("a"))
    assert seen == [special]

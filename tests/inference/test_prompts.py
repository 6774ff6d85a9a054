"""The prompt cache: hits are the same tensors, keys are the arguments, bytes are bounded."""

from __future__ import annotations

import torch

from inference.prompts import PromptCache


class Encoder:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode_prompt(
        self,
        prompt: str | list[str],
        device: torch.device | None = None,
        prompt_embeds: torch.Tensor | None = None,
        max_sequence_length: int = 8,
    ) -> tuple[torch.Tensor, None]:
        self.asked.append(str(prompt))
        return torch.zeros(1, max_sequence_length), None


def test_the_same_arguments_are_encoded_once() -> None:
    cache, encoder = PromptCache(1 << 20), Encoder()
    encode = cache.wrap("m", encoder.encode_prompt)
    first = encode("a", device=torch.device("cpu"))
    assert encode(prompt="a", device=torch.device("cpu"))[0] is first[0]
    assert encoder.asked == ["a"]
    assert (cache.hits, cache.misses) == (1, 1)


def test_anything_that_decides_the_embeddings_is_in_the_key() -> None:
    cache, encoder = PromptCache(1 << 20), Encoder()
    encode = cache.wrap("m", encoder.encode_prompt)
    encode("a")
    encode("b")
    encode("a", max_sequence_length=16)
    encode(["a"])
    cache.wrap("other", encoder.encode_prompt)("a")
    assert len(encoder.asked) == 5


def test_embeddings_given_by_the_caller_are_not_kept() -> None:
    cache, encoder = PromptCache(1 << 20), Encoder()
    encode = cache.wrap("m", encoder.encode_prompt)
    for _ in range(2):
        encode("a", prompt_embeds=torch.zeros(1))
    assert len(encoder.asked) == 2 and cache.held_bytes == 0


def test_the_least_recently_used_goes_first() -> None:
    cache, encoder = PromptCache(2 * 8 * 4), Encoder()
    encode = cache.wrap("m", encoder.encode_prompt)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        encode(prompt)
    assert encoder.asked == ["a", "b", "c", "b"]
    assert cache.held_bytes <= cache.limit_bytes

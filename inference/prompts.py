"""Prompt embeddings, kept by content: the text encoders dwarf a step of the small models."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

_PLAIN = (str, int, float, bool, type(None), torch.device, torch.dtype)


class PromptCache:
    """Remembers what `encode_prompt` of a pipeline returned, least recently used first to go.

    The pipeline's own method runs on a miss and its own arguments are the key, so a hit is
    bit-equal to encoding again and every family is served alike.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def wrap(self, owner: Hashable, encode: Callable[..., Any]) -> Callable[..., Any]:
        """`encode` with a memory; `owner` tells models and pipeline classes apart."""
        signature = inspect.signature(encode)

        @functools.wraps(encode)
        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = _key(owner, signature.bind(*args, **kwargs).arguments)
            if key is None:
                return encode(*args, **kwargs)
            if key in self._kept:
                self.hits += 1
                self._kept.move_to_end(key)
                return self._kept[key]
            self.misses += 1
            embeddings = encode(*args, **kwargs)
            # another call may have encoded the same while this one waited for its encoder
            return self._kept.get(key) or self._keep(key, embeddings)

        return remembered

    def _keep(self, key: Hashable, embeddings: Any) -> Any:
        self._kept[key] = embeddings
        self.held_bytes += _bytes(embeddings)
        while self.held_bytes > self.limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= _bytes(oldest)
        return embeddings


def _key(owner: Hashable, arguments: dict[str, Any]) -> Hashable | None:
    """None when something other than text and numbers decides the embeddings."""
    parts: list[Hashable] = [owner]
    for name, value in sorted(arguments.items()):
        if isinstance(value, list | tuple) and all(isinstance(item, _PLAIN) for item in value):
            parts.append((name, type(value).__name__, tuple(value)))
        elif isinstance(value, _PLAIN):
            parts.append((name, type(value).__name__, value))
        else:
            return None
    return tuple(parts)


def _bytes(embeddings: Any) -> int:
    if isinstance(embeddings, torch.Tensor):
        return embeddings.element_size() * embeddings.numel()
    if isinstance(embeddings, list | tuple):
        return sum(_bytes(item) for item in embeddings)
    return 0

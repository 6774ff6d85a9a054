"""Compiled blocks of a module, and the plain code in their place for a while."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


def compiled_blocks(*modules: torch.nn.Module) -> list[Any]:
    """The parts of modules that run compiled."""
    found: list[Any] = [one for module in modules for one in module.modules()]
    return [one for one in found if one.__dict__.get("_compiled_call_impl") is not None]


@contextmanager
def plain_code(*modules: torch.nn.Module) -> Iterator[None]:
    """Within, nothing of the modules runs compiled."""
    blocks = compiled_blocks(*modules)
    before = [block._compiled_call_impl for block in blocks]
    try:
        for block in blocks:
            block.__dict__["_compiled_call_impl"] = None
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            block.__dict__["_compiled_call_impl"] = own


class Uncompiled:
    """Forwards whose rows bring a LoRA or an IP-Adapter run the plain code: the `RowData` for it.

    Those exchange layers for the length of a forward, which compiled code would not see.
    """

    def __init__(self, module: torch.nn.Module, takes: type) -> None:
        self.takes = takes
        self._module = module

    def key(self, brought: Any) -> Hashable:
        """Any may share a forward."""
        return None

    def parts(self, brought: Any) -> frozenset[Hashable]:
        """It needs nothing."""
        return frozenset()

    @contextmanager
    def during(self, brought: Sequence[Any], rows: Sequence[int]) -> Iterator[None]:
        """Within, nothing of the module is compiled where one of the rows brought something."""
        given = [one for one in brought if one is not None and getattr(one, "parts", True)]
        with plain_code(*([self._module] if given else [])):
            yield

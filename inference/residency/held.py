"""Parts of models by their content: what several models have is held once.

Text encoders and VAEs; a denoiser is a model's own, since some pipelines change theirs while they
run.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from inference.hub.checkpoint import Part, parts_of
from inference.residency.placement import Weights, modules_of

log = structlog.get_logger()

_Outline = tuple[str, torch.dtype]


class _AnyName(tuple[str, ...]):
    """Every part's name is among them."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        return True


ANY_NAME: Collection[str] = _AnyName()


@dataclass(frozen=True, slots=True)
class _Entry:
    part: Part
    weights: weakref.ref[Weights]


class HeldParts:
    """The weights of the models of one device; safe to ask from any thread."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._by_outline: dict[_Outline, list[_Entry]] = {}
        self._by_module: weakref.WeakValueDictionary[int, Weights] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def find(
        self, folders: Sequence[Path], dtype: torch.dtype, own: Collection[str]
    ) -> dict[str, torch.nn.Module]:
        """Modules of equal content for the parts in a model's folders, but for its `own`."""
        found = {}
        for name, part in parts_of(*folders).items():
            if name not in own and (weights := self._same(part, dtype)) is not None:
                found[name] = weights.module
        if found:
            log.info("parts.shared", folder=folders[-1].name, parts=sorted(found))
        return found

    def keep(
        self,
        pipes: Mapping[Any, Any],
        folders: Sequence[Path],
        dtype: torch.dtype,
        own: Collection[str],
    ) -> list[Weights]:
        """The weights of a model that was read; those known already are the same object.

        No other model finds its `own`.
        """
        parts, kept = parts_of(*folders), []
        for name, module in modules_of(pipes).items():
            with self._lock:
                # no other module has the number of one whose weights live: they hold it
                weights = self._by_module.get(id(module))
                if weights is None:
                    weights = Weights(module, id(module), self._device)
                    self._by_module[id(module)] = weights
                    if name in parts and name not in own:
                        entry = _Entry(parts[name], weakref.ref(weights))
                        self._entries(parts[name], dtype).append(entry)
            kept.append(weights)
        return kept

    def expected(
        self,
        folders: Sequence[Path],
        dtype: torch.dtype,
        own: Collection[str],
        model: str,
        shares: Mapping[str, float],
    ) -> dict[Hashable, int]:
        """Bytes by content of a model that is not read, as far as its files tell.

        Of some parts only a share is kept.
        """
        sizes: dict[Hashable, int] = {}
        for name, part in parts_of(*folders).items():
            identity = part.identity()
            size = int(part.size_bytes(dtype.itemsize) * shares.get(name, 1.0))
            key: Hashable = (model, name) if name in own else (identity, dtype)
            for entry, weights in () if name in own else self._alive(part, dtype):
                if entry.identity() == identity:
                    key, size = weights.key, weights.size_bytes
            sizes[key] = size
        return sizes

    def _same(self, part: Part, dtype: torch.dtype) -> Weights | None:
        """Held weights that were read from files of the same content; reads all of both once."""
        for entry, weights in self._alive(part, dtype):
            if entry.files == part.files or _digest(entry) == part.digest():
                return weights
        return None

    def _alive(self, part: Part, dtype: torch.dtype) -> list[tuple[Part, Weights]]:
        with self._lock:
            entries = self._entries(part, dtype)
            found = [(one.part, one.weights()) for one in entries]
            entries[:] = [one for one in entries if one.weights() is not None]
        return [(one, weights) for one, weights in found if weights is not None]

    def _entries(self, part: Part, dtype: torch.dtype) -> list[_Entry]:
        return self._by_outline.setdefault((part.outline(), dtype), [])


def _digest(part: Part) -> str | None:
    try:
        return part.digest()
    except OSError:
        # its files have gone since it was read
        return None

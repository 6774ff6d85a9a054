"""IP-Adapters as data of one picture: every row of a forward has its own weight.

An adapter is a second cross-attention beside each that the denoiser has. Its processors stand in
for the model's own for the length of one forward, so the model is never changed, and a forward
without any runs the very code of a model that has none.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ImageAdapter:
    """An IP-Adapter for one denoiser, which its pipeline has under `component`.

    `processors` are by the path of their attention; `projection` turns what the encoder sees into
    their tokens.
    """

    component: str
    processors: Mapping[str, torch.nn.Module]
    projection: torch.nn.Module
    image_encoder: torch.nn.Module
    feature_extractor: Any

    def to(self, device: str) -> ImageAdapter:
        """Itself, its weights on the device."""
        for module in (*self.processors.values(), self.projection, self.image_encoder):
            module.to(device)
        return self

    def lend_eyes(self, pipe: Any) -> None:
        """Let a private pipeline encode reference pictures, as if this were loaded into it."""
        eyes = copy.copy(pipe)
        denoiser = SimpleNamespace(encoder_hid_proj=self.projection)
        eyes.__dict__ |= {
            "image_encoder": self.image_encoder,
            "feature_extractor": self.feature_extractor,
            self.component: denoiser,
        }
        pipe.__dict__["prepare_ip_adapter_image_embeds"] = eyes.prepare_ip_adapter_image_embeds


@dataclass(frozen=True, slots=True)
class ImageUse:
    """The adapter of one picture, and how much it counts."""

    adapter: ImageAdapter
    weight: float


class ImageRows:
    """Gives the rows of a denoiser's forwards their weights: the `RowData` for IP-Adapters."""

    takes: type = ImageUse

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser

    def key(self, brought: ImageUse | None) -> Hashable:
        """The adapter: rows without one are not put through its attention."""
        return brought.adapter if brought is not None else None

    def parts(self, brought: ImageUse | None) -> frozenset[Hashable]:
        """None: all rows of a forward have the same adapter."""
        return frozenset()

    @contextmanager
    def during(self, brought: Sequence[ImageUse | None], rows: Sequence[int]) -> Iterator[None]:
        """Within, each call's rows see their pictures at its weight."""
        uses = [use for use in brought if use is not None]
        if not uses:
            yield
            return
        adapter = uses[0].adapter
        by_row = [use.weight for use, count in zip(uses, rows, strict=True) for _ in range(count)]
        scale = by_row[0] if len(set(by_row)) == 1 else _Scales(by_row)
        changes = [(self._denoiser, *self._entrance(adapter))]
        for path, processor in adapter.processors.items():
            processor.scale = [scale]  # type: ignore[assignment]
            changes.append((self._denoiser.get_submodule(path), "processor", processor))
        with _exchanged(changes):
            yield

    def _entrance(self, adapter: ImageAdapter) -> tuple[str, Any]:
        """Where the denoiser turns what was seen into tokens: a UNet in a method, others here."""
        if not hasattr(self._denoiser, "process_encoder_hidden_states"):
            return "encoder_hid_proj", adapter.projection

        def process(encoder_hidden_states: Tensor, added_cond_kwargs: dict[str, Any]) -> Any:
            return encoder_hidden_states, adapter.projection(added_cond_kwargs["image_embeds"])

        return "process_encoder_hidden_states", process


class _Scales:
    """A factor for each row, where a processor expects one number for all."""

    def __init__(self, by_row: Sequence[float]) -> None:
        self._by_row = torch.tensor(by_row)

    def __eq__(self, other: object) -> bool:
        # asked whether it is 0, in which case there would be nothing to do
        return False

    __hash__ = None  # type: ignore[assignment]

    def __mul__(self, output: Tensor) -> Tensor:
        # all attentions of a forward are on one device
        self._by_row = self._by_row.to(output.device)
        factors = self._by_row.view(-1, *[1] * (output.ndim - 1))
        return (output * factors).to(output.dtype)


@contextmanager
def _exchanged(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Attributes of modules replaced, around nn.Module's own setattr, which would keep them."""
    missing = object()
    before = [module.__dict__.get(name, missing) for module, name, _ in changes]
    try:
        for module, name, value in changes:
            module.__dict__[name] = value
        yield
    finally:
        for (module, name, _), own in zip(changes, before, strict=True):
            if own is missing:
                del module.__dict__[name]
            else:
                module.__dict__[name] = own

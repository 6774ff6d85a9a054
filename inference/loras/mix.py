"""LoRA as data: every row of a forward has its own adapters at its own strengths.

`y = W x + Σ s·B A x` on the layers that an adapter names, Linear and Conv2d, with alpha / r folded
into B. The forwards of just those layers are exchanged for the length of one forward, so the model
is never changed: nothing is fused, no module is wrapped, and rows without any adapter run the very
code of the base.

Each row gets its own A and B, gathered and scaled by its strengths once while the company stays,
and two batched products add them all. Per layer of 192 to 768 channels, 64 tokens, 8 rows with 8
adapters of rank 8 to 16, that left 0.77-0.95 of the base's speed on one CPU core; one product pair
an adapter over all rows left 0.36-0.65, all adapters concatenated and masked per row 0.56-0.74.
(peft's layers hold one global set of active adapters, and take no strength per row.) It also keeps
rows apart: an overflow in one picture's adapter is multiplied into no other's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import torch
from torch import Tensor
from torch.nn import functional

log = structlog.get_logger()

# Companies whose gathered weights are kept: two groups that step in turn, and one that comes next.
_KEPT_PLANS = 3

# Models that compute some layers on [conditioned rows, unconditioned rows]: k copies of all rows.
TILES_ROWS = frozenset({"QwenImageTransformer2DModel"})

# [r, in] or [r, in, h, w], and [out, r] with alpha / r folded in
Pair = tuple[Tensor, Tensor]
# component ("transformer", "text_encoder") → path of a layer → its pair
Layers = Mapping[str, Mapping[str, Pair]]


class RowsFolded(RuntimeError):
    """A layer saw another number of rows than the forward has, so rows cannot be told apart."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapter:
    """One LoRA's weights on the device; `stamp` is equal for equal files cut to equal rank."""

    name: str
    stamp: Hashable
    layers: Layers

    @property
    def held_bytes(self) -> int:
        """What its tensors take."""
        pairs = [pair for layers in self.layers.values() for pair in layers.values()]
        return sum(part.numel() * part.element_size() for pair in pairs for part in pair)


Recipe = tuple[tuple[Adapter, float], ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """The adapters of one picture and their strengths; what is at 0 is left out."""

    parts: Recipe = ()

    def on(self, component: str) -> Recipe:
        """Those that change a component."""
        return tuple(part for part in self.parts if part[0].layers.get(component))

    def encoded(self) -> Hashable:
        """Equal for mixes that encode a prompt alike."""
        return tuple(
            (adapter.stamp, strength)
            for adapter, strength in self.parts
            if any(name.startswith("text_encoder") for name in adapter.layers)
        )


@dataclass(slots=True, eq=False)
class _Branch:
    """What one layer computes besides its own output, for the rows of one company.

    `down` is [rows, r, in, …] and `up` [rows, out, r]; of one row only where all have the same.
    """

    layer: torch.nn.Module
    down: Tensor
    up: Tensor
    tiles: bool
    base: Callable[..., Tensor] | None = None

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert self.base is not None, "it runs only while it stands in for the layer"
        output = self.base(x, *args, **kwargs)
        down, up = self._for_rows(x.shape[0])
        add = _add_conv if isinstance(self.layer, torch.nn.Conv2d) else _add_linear
        return add(self.layer, output, x.to(down.dtype), down, up)

    def _for_rows(self, rows: int) -> Pair:
        """The weights row by row of an input that has so many."""
        own = len(self.up)
        if own in (1, rows):
            return self.down, self.up
        if not self.tiles or rows % own:
            raise RowsFolded(f"a layer took {rows} rows of a forward of {own}")
        down, up = ([rows // own] + [1] * (part.ndim - 1) for part in (self.down, self.up))
        return self.down.repeat(down), self.up.repeat(up)


def _add_linear(
    layer: torch.nn.Module, output: Tensor, x: Tensor, down: Tensor, up: Tensor
) -> Tensor:
    rows, wide = up.shape[:2]
    inner = torch.bmm(x.reshape(rows, -1, x.shape[-1]), down.mT)
    if output.is_contiguous() and output.dtype == inner.dtype:
        output.view(rows, -1, wide).baddbmm_(inner, up.mT)
        return output
    return output + torch.bmm(inner, up.mT).view(output.shape).to(output.dtype)


def _add_conv(layer: Any, output: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    shape, rows = (layer.stride, layer.padding, layer.dilation), len(up)
    if rows == 1:
        inner = functional.conv2d(x, down[0], None, *shape)
        delta = functional.conv2d(inner, up[0, :, :, None, None])
    else:
        # the rows side by side, each a group of its own
        inner = functional.conv2d(x.flatten(0, 1)[None], down.flatten(0, 1), None, *shape, rows)
        delta = torch.bmm(up, inner.view(rows, up.shape[2], -1)).view(output.shape)
    return output.add_(delta) if output.dtype == delta.dtype else output + delta.to(output.dtype)


class LoraRows:
    """Gives the rows of a module's forwards their adapters: the rendezvous' `RowData` for LoRA."""

    takes: type = Mix

    def __init__(self, module: torch.nn.Module, component: str, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._module = module
        self._component = component
        self._tiles = type(module).__name__ in TILES_ROWS
        # given up once the module turned out to fold its rows
        self._may_mix = True
        self._plans: OrderedDict[Hashable, list[_Branch]] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """What the gathered weights take at most; of one row they are in part the adapters' own."""
        branches = [branch for plan in self._plans.values() for branch in plan]
        tensors = [part for branch in branches for part in (branch.down, branch.up)]
        return sum(part.numel() * part.element_size() for part in tensors)

    def key(self, brought: Mix | None) -> Hashable:
        """Any may share a forward, as long as the module tells rows apart."""
        return None if self._may_mix else self._recipe(brought)

    def parts(self, brought: Mix | None) -> frozenset[Hashable]:
        """The adapters that a forward with it needs."""
        return frozenset(adapter for adapter, _ in self._recipe(brought))

    @contextmanager
    def during(self, brought: Sequence[Mix | None], rows: Sequence[int]) -> Iterator[None]:
        """Within, each call's rows have its adapters; nothing is touched where none has any."""
        recipes = [self._recipe(mix) for mix in brought]
        if not any(recipes):
            yield
            return
        try:
            with _exchanged(self._plan(recipes, rows)):
                yield
        except RowsFolded as error:
            if self._may_mix:
                log.warning("lora.unmixed", component=self._component, reason=str(error))
            self._may_mix = False
            raise

    def forget(self, adapters: Sequence[Adapter]) -> None:
        """Let go of what was gathered from adapters that nobody uses any more."""
        gone = set(map(id, adapters))
        for key, plan in [*self._plans.items()]:
            if any(id(adapter) in gone for recipe in _recipes_of(key) for adapter, _ in recipe):
                del self._plans[key], plan

    def _recipe(self, mix: Mix | None) -> Recipe:
        return mix.on(self._component) if mix is not None else ()

    def _plan(self, recipes: Sequence[Recipe], rows: Sequence[int]) -> list[_Branch]:
        by_row = [recipe for recipe, count in zip(recipes, rows, strict=True) for _ in range(count)]
        # rows that are all alike need not be told apart, however a model folds them
        key = tuple(by_row[:1] if len(set(by_row)) == 1 else by_row)
        if key not in self._plans:
            self._plans[key] = self._gather(key)
            while len(self._plans) > 1 and self._hold_too_much():
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def _hold_too_much(self) -> bool:
        return len(self._plans) > _KEPT_PLANS or self.held_bytes > self._limit_bytes

    def _gather(self, by_row: tuple[Recipe, ...]) -> list[_Branch]:
        """A branch for every layer that one of the rows' adapters changes."""
        adapters = {adapter: None for recipe in by_row for adapter, _ in recipe}
        paths = {path: None for one in adapters for path in one.layers[self._component]}
        branches = []
        for path in paths:
            pairs = self._pairs(path, dict.fromkeys(by_row))
            down, up = (_stacked([pairs[recipe][half] for recipe in by_row]) for half in (0, 1))
            branches.append(_Branch(self._module.get_submodule(path), down, up, self._tiles))
        return branches

    def _pairs(self, path: str, recipes: Mapping[Recipe, None]) -> dict[Recipe, Pair]:
        """Of one layer, each recipe's pairs side by side, widened to the same rank with zeros."""
        found = {
            recipe: [
                (adapter.layers[self._component][path], strength)
                for adapter, strength in recipe
                if path in adapter.layers[self._component]
            ]
            for recipe in recipes
        }
        rank = max(sum(len(pair[0]) for pair, _ in pairs) for pairs in found.values())
        like = next(pair for pairs in found.values() for pair, _ in pairs)
        return {recipe: _joined(pairs, rank, like) for recipe, pairs in found.items()}


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)) if len(parts) > 1 else parts[0][None]


def _joined(pairs: Sequence[tuple[Pair, float]], rank: int, like: Pair) -> Pair:
    missing = rank - sum(len(pair[0]) for pair, _ in pairs)
    downs = [down for (down, _), _ in pairs]
    ups = [up * strength for (_, up), strength in pairs]
    if missing:
        downs.append(like[0].new_zeros(missing, *like[0].shape[1:]))
        ups.append(like[1].new_zeros(len(like[1]), missing))
    down = downs[0] if len(downs) == 1 else torch.cat(downs)
    return down, ups[0] if len(ups) == 1 else torch.cat(ups, dim=1)


def _recipes_of(key: Hashable) -> Sequence[Recipe]:
    assert isinstance(key, tuple), "plans are kept by their rows' recipes"
    return key


@contextmanager
def _exchanged(branches: Sequence[_Branch]) -> Iterator[None]:
    """The layers run the branches instead of their own forwards, hooks of offloading included.

    By way of `__dict__`: nn.Module's own setattr would cost 20 times as much, per layer and step.
    """
    before = [branch.layer.__dict__.get("forward") for branch in branches]
    try:
        for branch in branches:
            branch.base = branch.layer.forward
            branch.layer.__dict__["forward"] = branch
        yield
    finally:
        for branch, own in zip(branches, before, strict=True):
            if own is None:
                branch.layer.__dict__.pop("forward", None)
            else:
                branch.layer.__dict__["forward"] = own
            branch.base = None

"""How the arguments of several forwards become the arguments of one, declared per model class.

A rule says what an argument *is*; an argument without a rule is compared by identity, so calls
that carry something unknown never merge. Two calls may share a forward when their keys are equal.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from inference.rules import ModelRules, Rule

Arguments = dict[str, Any]


def count_rows(rules: ModelRules, arguments: Arguments) -> int:
    """Rows of one call; 1 where the class is unknown."""
    latents = arguments.get(rules.latents)
    if rules.lists_rows and isinstance(latents, list):
        return len(latents)
    return int(latents.shape[0]) if isinstance(latents, Tensor) else 1


def count_tokens(rules: ModelRules, arguments: Arguments) -> int:
    """Positions of one row: length of a sequence, height × width of a map."""
    latents = arguments.get(rules.latents)
    if rules.lists_rows and isinstance(latents, list):
        return int(latents[0].shape[1:].numel())
    if not isinstance(latents, Tensor):
        return 1
    return int(latents.shape[1] if latents.ndim <= 3 else latents.shape[2:].numel())


class Keys:
    """Makes the key of a call; remembers digests of shared tensors while those live.

    A pipeline passes the same position ids at every step, and on a GPU reading them back would
    wait for the device, so each is read once.
    """

    def __init__(self) -> None:
        self._digests: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def key(self, rules: ModelRules, arguments: Arguments) -> Hashable:
        """Equal for calls that may share a forward."""
        rows = count_rows(rules, arguments)
        return self._nested(rules, arguments, rows)

    def _nested(self, rules: ModelRules, arguments: Arguments, rows: int) -> Hashable:
        return tuple(
            (name, self._part(rules, rules.rules.get(name), arguments[name], rows))
            for name in sorted(arguments)
        )

    def _part(self, rules: ModelRules, rule: Rule | None, value: Any, rows: int) -> Hashable:
        if rule is Rule.FACTOR and isinstance(value, int | float):
            return "factor"
        if value is None or isinstance(value, bool | int | float | str):
            # 1 == True == 1.0 to Python, not to a model
            return type(value), value
        match rule, value:
            case Rule.ROWS, Tensor() if value.ndim and value.shape[0] == rows:
                return tuple(value.shape[1:]), value.dtype
            case Rule.TIME, Tensor() if value.ndim == 0 or tuple(value.shape) == (rows,):
                # some schedulers count in int64; models compute with float32 whichever it is
                return torch.float32 if value.dtype is torch.int64 else value.dtype
            case Rule.SHARED, Tensor():
                return self._digest(value)
            case Rule.EACH_ROWS, list() | tuple():
                return tuple(self._part(rules, Rule.ROWS, item, rows) for item in value)
            case Rule.NESTED, dict():
                return self._nested(rules, value, rows)
            case ((Rule.ITEMS | Rule.TEXTS | Rule.SHAPES), list()) if len(value) == rows:
                return _common_part(rule, value)
        return "identity", id(value)

    def _digest(self, tensor: Tensor) -> int:
        known = self._digests.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        content = tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
        digest = hash((tuple(tensor.shape), tensor.dtype, content))
        forget = self._forgetter(id(tensor))
        self._digests[id(tensor)] = weakref.ref(tensor, forget), digest
        return digest

    def _forgetter(self, identity: int) -> Any:
        def forget(gone: object) -> None:
            known = self._digests.get(identity)
            if known is not None and known[0] is gone:
                del self._digests[identity]

        return forget


def _common_part(rule: Rule, items: Sequence[Any]) -> Hashable:
    """What the items of a list have in common; the list's identity if they have nothing."""
    found = {_item_part(rule, item) for item in items}
    return found.pop() if len(found) == 1 else ("identity", id(items))


def _item_part(rule: Rule, item: Any) -> Hashable:
    match rule, item:
        case Rule.SHAPES, list() | tuple():
            return tuple(_item_part(rule, one) for one in item)
        case Rule.SHAPES, int():
            return item
        case Rule.ITEMS, Tensor():
            return tuple(item.shape), item.dtype
        case Rule.TEXTS, Tensor():
            return tuple(item.shape[1:]), item.dtype
    return "identity", id(item)


def merge(rules: ModelRules, calls: Sequence[Arguments]) -> Arguments:
    """One call's arguments for several of equal key; a single call's pass untouched."""
    if len(calls) == 1:
        return calls[0]
    rows = [count_rows(rules, call) for call in calls]
    return _merge_dicts(rules, calls, rows)


def _merge_dicts(rules: ModelRules, calls: Sequence[Arguments], rows: Sequence[int]) -> Arguments:
    return {
        name: _merge_values(rules, rules.rules.get(name), [call[name] for call in calls], rows)
        for name in calls[0]
    }


def _merge_values(
    rules: ModelRules, rule: Rule | None, values: Sequence[Any], rows: Sequence[int]
) -> Any:
    first = values[0]
    match rule, first:
        case Rule.ROWS, Tensor():
            return torch.cat(list(values))
        case Rule.TIME, Tensor():
            # of whole numbers and fractions, fractions
            return torch.cat([time.expand(n) for time, n in zip(values, rows, strict=True)])
        case Rule.EACH_ROWS, list() | tuple():
            return [torch.cat(list(parts)) for parts in zip(*values, strict=True)]
        case Rule.NESTED, dict():
            return _merge_dicts(rules, values, rows)
        case ((Rule.ITEMS | Rule.TEXTS | Rule.SHAPES), list()):
            return [item for value in values for item in value]
        case Rule.FACTOR, int() | float():
            return 1.0
    return first


def factor(rules: ModelRules, arguments: Arguments) -> float:
    """What a call's share of a merged output is still to be multiplied by."""
    names = [name for name, rule in rules.rules.items() if rule is Rule.FACTOR]
    return float(math.prod(arguments.get(name, 1.0) for name in names))


def scaled(output: Any, by: float) -> Any:
    """An output with every tensor in it multiplied."""
    match output:
        case Tensor():
            return output * by
        case dict():
            return type(output)(**{name: scaled(value, by) for name, value in output.items()})
        case list() | tuple():
            return type(output)(scaled(value, by) for value in output)
    return output


def split(output: Any, rows: Sequence[int], *, lists_rows: bool = False) -> list[Any]:
    """Each call's share of a merged forward's output: tensors by rows, containers by element.

    Where a model `lists_rows`, a list is rows too.
    """
    if len(rows) == 1:
        return [output]
    match output:
        case list() if lists_rows and len(output) == sum(rows):
            ends = list(itertools.accumulate(rows))
            return [output[end - count : end] for end, count in zip(ends, rows, strict=True)]
        case Tensor():
            return list(torch.split(output, list(rows)))
        case dict():  # diffusers' outputs are dicts with attributes
            shares = {
                name: split(value, rows, lists_rows=lists_rows) for name, value in output.items()
            }
            return [
                type(output)(**{name: share[i] for name, share in shares.items()})
                for i in range(len(rows))
            ]
        case list() | tuple():
            columns = [split(value, rows, lists_rows=lists_rows) for value in output]
            return [type(output)(column[i] for column in columns) for i in range(len(rows))]
    return [output] * len(rows)

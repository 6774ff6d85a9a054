"""The rendezvous: unmodified pipeline calls as coroutines, one forward for many.

Each image runs its pipeline's own `__call__` inside a `Carrier`, a greenlet on the engine thread.
A module attached to the rendezvous does not compute when a carrier calls it: the carrier hands in
its arguments as a `Call` and yields. Whoever drives the carriers picks calls of equal key, runs
`forward` once for all, and advances each carrier with its own rows. Alone, the arguments reach the
real forward untouched, so a single image is bit-exact by construction.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from greenlet import getcurrent, greenlet

from inference.merge import (
    Arguments,
    Keys,
    count_rows,
    count_tokens,
    factor,
    merge,
    scaled,
    split,
)
from inference.residency.aside import breathe
from inference.rules import ModelRules, rules_of

# What a carrier brought, by its type.
Brought = dict[type, Any]


class Abandon(BaseException):
    """Thrown into a carrier to end it; no pipeline catches it by accident."""


class RowData(Protocol):
    """What the rows of a module's forward may differ in besides its arguments.

    A carrier brings along what is of the type `takes` (`bring`); it is set for exactly the forward
    that its rows are in.
    """

    takes: type

    def key(self, brought: Any) -> Hashable:
        """Equal for calls that may share a forward."""

    def parts(self, brought: Any) -> frozenset[Hashable]:
        """What a forward with it needs; the worker bounds how many different ones one has."""

    def during(self, brought: Sequence[Any], rows: Sequence[int]) -> AbstractContextManager[None]:
        """Set it for the calls of one forward, each of so many rows."""


@dataclass(slots=True, eq=False)
class Attached:
    """A module whose forward is a rendezvous; `budget_tokens` bounds rows × tokens of one.

    `forward` is its own, `entrance` what stands in its place; `users` counts the models that it is
    part of: text encoders and VAEs are shared.
    """

    module: torch.nn.Module
    forward: Callable[..., Any]
    rules: ModelRules
    users: int = 1
    budget_tokens: int = 1
    row_data: list[RowData] = field(default_factory=list)
    entrance: Callable[..., Any] | None = None

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward.

        Hooks that are done take themselves off meanwhile, and with them whatever came after, as
        those that trace for group offloading do behind the first forward: it is put back.
        """
        output = self.forward(*args, **kwargs)
        if self.entrance is not None and self.module.forward is not self.entrance:
            self.forward, self.module.forward = self.module.forward, self.entrance
        return output


@dataclass(slots=True, eq=False)
class Call:
    """One forward that a carrier waits for; calls of equal `key` may share one."""

    target: Attached
    arguments: Arguments
    key: Hashable
    rows: int
    tokens: int
    brought: Brought = field(default_factory=dict)
    parts: frozenset[Hashable] = frozenset()


class Carrier:
    """One pipeline call, run piece by piece between its forwards.

    After each `advance`, either `call` is what it waits for, or it has ended with `result` or
    `error`.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self.call: Call | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False
        self.brought: Brought = {}
        self._run = run
        self._greenlet = _CarrierGreenlet(self)

    def advance(self, rows: Any = None) -> None:
        """Run to the next forward or to the end, giving the last forward's output."""
        self.call = None
        self._greenlet.parent = getcurrent()
        self._greenlet.switch(rows)

    def throw(self, error: BaseException) -> None:
        """Run on as if the forward it waits for had raised `error`."""
        self.call = None
        if not self._greenlet:  # never started: there is no frame to raise in
            self.error, self.ended = error, True
            return
        self._greenlet.parent = getcurrent()
        self._greenlet.throw(error)

    def body(self) -> None:
        """What the greenlet runs: the pipeline call, its outcome kept."""
        try:
            self.result = self._run()
        except BaseException as error:
            self.error = error
        self.ended = True

    def wait_for(self, call: Call) -> Any:
        """Called inside the carrier: hand in a forward and sleep until its output comes."""
        self.call = call
        hub = self._greenlet.parent
        assert hub is not None, "a carrier is always resumed from somewhere"
        return hub.switch()


class _CarrierGreenlet(greenlet):
    """Ties the running greenlet back to its carrier."""

    def __init__(self, carrier: Carrier) -> None:
        super().__init__(lambda _: carrier.body())
        self.carrier = carrier


class Rendezvous:
    """Where the forwards of all carriers of one thread meet."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._attached: dict[int, Attached] = {}

    def attach(self, module: torch.nn.Module) -> Attached:
        """Turn a module's forward into a rendezvous; offload hooks must be installed before.

        One that is attached already is so for one model more.
        """
        if (known := self._attached.get(id(module))) is not None:
            known.users += 1
            return known
        attached = self._attached[id(module)] = Attached(module, module.forward, rules_of(module))
        signature = inspect.signature(attached.forward)

        def forward(*args: Any, **kwargs: Any) -> Any:
            current = getcurrent()
            if not isinstance(current, _CarrierGreenlet):
                breathe()
                return attached.run(*args, **kwargs)
            arguments = by_name(signature, args, kwargs) if args else kwargs
            call = self._call(attached, arguments, current.carrier.brought)
            return current.carrier.wait_for(call)

        module.forward = attached.entrance = forward
        return attached

    def detach(self, attached: Attached) -> None:
        """Give the module its own forward back, once no other model is attached to it."""
        attached.users -= 1
        if attached.users > 0:
            return
        del self._attached[id(attached.module)]
        # unless a hook stands there, the class's own shows again; set, it would hold the module
        del attached.module.forward
        if attached.module.forward != attached.forward:
            attached.module.forward = attached.forward

    def _call(self, target: Attached, arguments: Arguments, brought: Brought) -> Call:
        rules = target.rules
        rows = count_rows(rules, arguments)
        own = [(one, brought.get(one.takes)) for one in target.row_data]
        return Call(
            target=target,
            arguments=arguments,
            key=(
                id(target),
                self._keys.key(rules, arguments),
                tuple(data.key(given) for data, given in own),
            ),
            rows=rows,
            tokens=rows * count_tokens(rules, arguments),
            brought=brought,
            parts=frozenset().union(*(data.parts(given) for data, given in own)),
        )


def bring(data: Any) -> None:
    """Within a carrier: its forwards from here on have `data` for the `RowData` that take it."""
    current = getcurrent()
    assert isinstance(current, _CarrierGreenlet), "only what runs in a carrier can bring anything"
    current.carrier.brought = current.carrier.brought | {type(data): data}


def by_name(signature: inspect.Signature, args: Any, kwargs: Any) -> Arguments:
    """A call's arguments by name, those that fall into `**kwargs` among them."""
    bound = signature.bind(*args, **kwargs)
    arguments = dict(bound.arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(parameter.name, {})
    return arguments


def forward(calls: Sequence[Call]) -> list[Any]:
    """Run one forward for calls of equal key; each call's own output, in order.

    Nothing has moved when this raises: the same calls can be tried again in smaller groups.
    """
    target, rows = calls[0].target, [call.rows for call in calls]
    arguments = merge(target.rules, [call.arguments for call in calls])
    with ExitStack() as stack:
        for data in target.row_data:
            brought = [call.brought.get(data.takes) for call in calls]
            stack.enter_context(data.during(brought, rows))
        output = target.run(**arguments)
    if len(calls) == 1:
        return [output]
    outputs = split(output, rows, lists_rows=target.rules.lists_rows)
    factors = [factor(target.rules, call.arguments) for call in calls]
    return [one if by == 1 else scaled(one, by) for one, by in zip(outputs, factors, strict=True)]

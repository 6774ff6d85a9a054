"""How large a forward may be, learned from those that memory did not suffice for. No torch here."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

# Full forwards before a larger one is tried again. One that fails costs about as much as one or two
# that pass, and what the device's cache held.
PATIENCE_FORWARDS = 256


@dataclass(slots=True)
class _Cap:
    """`tokens` fit; `step` more are tried once `passed` full forwards reach `patience`.

    `failed_tokens` is what failed first.
    """

    tokens: int
    step: int
    failed_tokens: int
    patience: int = PATIENCE_FORWARDS
    passed: int = 0

    @property
    def allowed(self) -> int:
        return self.tokens + (self.step if self.passed >= self.patience else 0)

    def fail(self, tokens: int, fitting_tokens: int, one_tokens: int) -> None:
        """A try goes back to what fitted, and the next is nearer; anything else was not enough."""
        if tokens > self.tokens:
            self.step = max(one_tokens, self.step // 2)
            self.patience *= 2
        else:
            # halves of what has just failed are the same shortage
            self.patience *= 2 if self.passed else 1
            self.tokens = self.step = fitting_tokens
        self.passed = 0

    def succeed(self, tokens: int, one_tokens: int) -> None:
        if tokens > self.tokens:
            self.tokens, self.passed = tokens, 0
            self.step *= 2
        elif tokens + one_tokens > self.tokens:
            self.passed += 1


class Caps:
    """The most tokens of one forward by its kind: the model, the module, the tokens of one call.

    They outlive the model's coming and going. A shortage may pass: after so many full forwards a
    larger one is tried, after twice as many if it fails, and so on. Where the shortage stays, the
    number of tries that fail grows as the logarithm of the number of forwards.
    """

    def __init__(self) -> None:
        self._caps: dict[Hashable, _Cap] = {}

    def of(self, kind: Hashable, budget_tokens: int) -> int:
        """The smaller of a budget and what was learned."""
        cap = self._caps.get(kind)
        return budget_tokens if cap is None else min(budget_tokens, cap.allowed)

    def fail(self, kind: Hashable, tokens: int, fitting_tokens: int, one_tokens: int) -> None:
        """A forward of several calls of `one_tokens` did not fit; this is what is tried next."""
        cap = self._caps.get(kind)
        if cap is None:
            self._caps[kind] = _Cap(fitting_tokens, fitting_tokens, tokens)
        else:
            cap.fail(tokens, fitting_tokens, one_tokens)

    def succeed(self, kind: Hashable, tokens: int, one_tokens: int) -> None:
        """A forward fitted; what once failed and fits now is forgotten."""
        cap = self._caps.get(kind)
        if cap is None:
            return
        cap.succeed(tokens, one_tokens)
        if cap.tokens >= cap.failed_tokens:
            del self._caps[kind]

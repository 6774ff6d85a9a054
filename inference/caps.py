"""How large a forward may be, learned from those that memory did not suffice for. No torch here."""

from __future__ import annotations

from collections.abc import Hashable


class Caps:
    """The most tokens of one forward by its kind: the model, the module, the tokens of one call.

    They outlive the model's coming and going: what was too much once is not tried again.
    """

    def __init__(self) -> None:
        self._most: dict[Hashable, int] = {}

    def of(self, kind: Hashable, budget_tokens: int) -> int:
        """The smaller of a budget and what was learned."""
        return min(budget_tokens, self._most.get(kind, budget_tokens))

    def learn(self, kind: Hashable, fitting_tokens: int) -> None:
        """A larger forward did not fit, and this is what is tried next."""
        self._most[kind] = self.of(kind, fitting_tokens)

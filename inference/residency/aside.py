"""A long job of the engine thread, done piece by piece between the steps of others."""

from __future__ import annotations

from collections.abc import Callable

from greenlet import getcurrent, greenlet


class Aside:
    """Runs `work` until it calls `breathe`, and from there on again with each `go_on`."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self.ended = False
        self._work = work
        self._greenlet = _AsideGreenlet(lambda _=None: self._run())

    def go_on(self) -> None:
        """Do the next piece."""
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()

    def give_up(self) -> None:
        """End it where it stands."""
        if self._greenlet and not self.ended:
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(Interrupted())
        self.ended = True

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error
        self.ended = True


class Interrupted(BaseException):
    """Thrown into the work of an aside that is given up."""


class _AsideGreenlet(greenlet):
    """Tells `breathe` that it may rest."""


def breathe() -> None:
    """Within an aside: let others step, then go on. Elsewhere nothing."""
    current = getcurrent()
    if isinstance(current, _AsideGreenlet) and current.parent is not None:
        current.parent.switch()

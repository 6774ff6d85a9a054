"""A long job of the engine thread, done piece by piece between the steps of others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

Result = TypeVar("Result")


class Aside:
    """Runs `work` until it calls `breathe`, and from there on again with each `go_on`."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self.ended = False
        self.waits_for: Future[Any] | None = None
        self._work = work
        self._greenlet = _AsideGreenlet(self)

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

    def body(self) -> None:
        """What the greenlet runs: the work, its outcome kept."""
        try:
            self._work()
        except BaseException as error:
            self.error = error
        self.ended = True


class Interrupted(BaseException):
    """Thrown into the work of an aside that is given up."""


class _AsideGreenlet(greenlet):
    """Tells `breathe` that it may rest, and `elsewhere` whose work it is."""

    def __init__(self, aside: Aside) -> None:
        super().__init__(lambda _=None: aside.body())
        self.aside = aside


def breathe() -> None:
    """Within an aside: let others step, then go on. Elsewhere nothing."""
    current = getcurrent()
    if isinstance(current, _AsideGreenlet) and current.parent is not None:
        current.parent.switch()


def elsewhere(name: str, work: Callable[[], Result]) -> Result:
    """Within an aside: what `work` returns, made on another thread while others step.

    Elsewhere made at once.
    """
    current = getcurrent()
    if not isinstance(current, _AsideGreenlet):
        return work()
    aside, future = current.aside, on_a_thread(name, work)
    aside.waits_for = future
    try:
        while not future.done():
            breathe()
    finally:
        aside.waits_for = None
    return future.result()


def on_a_thread(name: str, work: Callable[[], Result]) -> Future[Result]:
    """Begin `work` on a thread of its own."""
    future = Future[Result]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # a daemon: a download that hangs must not keep the process from ending
    threading.Thread(target=run, name=name, daemon=True).start()
    return future

"""What pictures want of the models of their device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from inference.running import Running


@dataclass(slots=True)
class Demand:
    """What requests want of a model at the moment; see `residency.Standing`.

    `largest` is the pixels of the largest picture among them over those of the default size.
    """

    waiting_since: float | None = None
    waiting_priority: int = 0
    running: int = 0
    running_priority: int = 0
    drain_seconds: float = 0.0
    largest: float = 1.0

    def wait(self, since: float, priority: int) -> None:
        """One more picture that has not started."""
        if self.waiting_since is None:
            self.waiting_since, self.waiting_priority = since, priority
        self.waiting_since = min(since, self.waiting_since)
        self.waiting_priority = max(priority, self.waiting_priority)

    def run(self, priority: int, seconds_left: float) -> None:
        """One more picture in the making."""
        self.running_priority = max(self.running_priority, priority) if self.running else priority
        self.running += 1
        self.drain_seconds += seconds_left


def demands_of(waiting: Iterable[Running], running: Iterable[Running]) -> dict[str, Demand]:
    """What pictures want of each model at the moment."""
    found: dict[str, Demand] = {}
    for image in waiting:
        own = found.setdefault(image.job.model, Demand())
        own.wait(image.ticket.arrived, image.ticket.priority)
    for image in running:
        own = found.setdefault(image.job.model, Demand())
        own.run(image.ticket.priority, image.seconds_left)
    for image in [*waiting, *running]:
        if image.model is not None:
            own = found[image.job.model]
            own.largest = max(own.largest, image.model.share(image.job))
    return found

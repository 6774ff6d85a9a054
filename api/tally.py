"""What is counted of tasks as they pass, whoever counts it."""

from __future__ import annotations

from api.tasks import Task


class Tally:
    """Is told what happens to tasks in this process, once it is in the database; counts nothing.

    For the event loop, but for `stepped`, which comes from the engine's thread.
    """

    def accepted(self, task: Task) -> None:
        """A new task is queued."""

    def stepped(self, task: Task) -> None:
        """The first step of a task's pictures is done, again in each attempt."""

    def made(self, task: Task, *, engine_seconds: float) -> None:
        """A picture is stored that the engine made in so long."""

    def failed(self, task: Task, kind: str) -> None:
        """A picture will not be made, for a reason of that kind."""

    def ended(self, task: Task) -> None:
        """A task is in its last state."""

    def attempted(self, dialect: str, outcome: str) -> None:
        """A webhook was sent: `delivered`, `postponed` to another attempt, or `failed` for good."""


NO_TALLY = Tally()

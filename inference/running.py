"""One image between its arrival and its last event: known to its worker alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from inference.coalesce import Call, Carrier
from inference.events import Emit, Event
from inference.job import Job
from inference.schedule import Ticket
from inference.status import Lane

if TYPE_CHECKING:
    from inference.model import LoadedModel

log = structlog.get_logger()


def nobody_looks() -> bool:
    """The answer of a job that wants no previews: making one costs a few percent of a step."""
    return False


def bounded(images: Sequence[Running], most_parts: int) -> list[Running]:
    """Of those picked for one forward, the first and who fits beside it: few different LoRAs."""
    chosen: list[Running] = []
    held: frozenset[Hashable] = frozenset()
    for image in images:
        own = image.call.parts if image.call is not None else frozenset()
        if not chosen or len(held | own) <= most_parts:
            chosen.append(image)
            held |= own
    return chosen


@dataclass(slots=True, eq=False)
class Running:
    """What a worker keeps of an image; only `carrier` and what it holds is made of tensors."""

    job: Job
    index: int
    pictures: Mapping[str, bytes]
    emit: Emit
    previews: Callable[[], bool]
    ticket: Ticket
    model: LoadedModel | None = None
    carrier: Carrier | None = None
    error: BaseException | None = None
    started: float = 0.0
    previewed: float = 0.0
    step: int = 0
    cancelled: bool = False

    def tell(self, event: Event) -> None:
        """Pass an event on; a receiver that raises must not end the engine's thread."""
        try:
            self.emit(event)
        except Exception as error:
            log.error("emit.failed", job_id=self.job.id, error=repr(error))

    @property
    def ready(self) -> bool:
        """Whether it could start at once; if not, what it lacks is on its way."""
        model = self.model
        if model is None:
            return False
        found = model.loras.ready(self.job.loras), model.references.ready(self.job)
        return all(found)

    @property
    def seconds_left(self) -> float:
        """About how long it would still take alone."""
        if self.model is None:
            return 0.0
        left = 1 - self.step / self.job.num_inference_steps
        return max(0.0, left) * self.model.work_seconds(self.job)

    @property
    def lane(self) -> Lane:
        """How it may share its model, which is known once that is loaded."""
        assert self.model is not None, "models are found before anything else"
        return self.model.lanes[self.job.mode]

    @property
    def call(self) -> Call | None:
        """The forward it waits for."""
        return self.carrier.call if self.carrier is not None else None

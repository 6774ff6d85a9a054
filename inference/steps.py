"""One forward of the pictures that were picked for it, and what becomes of it where it raises."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import structlog

from inference.caps import Caps
from inference.coalesce import Carrier, forward
from inference.faults import free_cache, is_out_of_memory, without_tensors
from inference.running import Running

log = structlog.get_logger()


class Steps:
    """Steps batches on one device, and learns how large they may be."""

    def __init__(self, device: str, beat: Callable[[], None]) -> None:
        self._device = device
        self._beat = beat
        self._caps = Caps()

    def budget_tokens(self, image: Running, most_tokens: int) -> int:
        """How large the next forward of an image may be with others in it."""
        return self._caps.of(kind_of(image), most_tokens)

    def step(self, batch: list[Running], *, again: bool = False) -> None:
        """One forward for all; if it raises, halves, then each alone, so that one ends alone."""
        if self._is_too_much(batch):
            self._step_halves(batch)
            return
        kind, one, tokens = kind_of(batch[0]), tokens_of(batch[0]), sum(map(tokens_of, batch))
        error = self._advance(batch)
        if error is None:
            self._caps.succeed(kind, tokens, one)
            return
        lacks_memory = is_out_of_memory(error)
        if lacks_memory:
            free_cache(self._device)
        if len(batch) > 1:
            if lacks_memory:
                fewer = sum(map(tokens_of, batch[: len(batch) // 2]))
                self._caps.fail(kind, tokens, fewer, one)
            log.warning("step.halved", rows=len(batch), error=type(error).__name__)
            self._step_halves(batch)
        elif lacks_memory and not again:
            self.step(batch, again=True)
        else:
            carrier_of(batch[0]).throw(error)

    def _step_halves(self, batch: list[Running]) -> None:
        half = len(batch) // 2
        self.step(batch[:half])
        self.step(batch[half:])

    def _is_too_much(self, batch: list[Running]) -> bool:
        """Whether a forward like it was too large a moment ago."""
        tokens = sum(map(tokens_of, batch))
        return len(batch) > 1 and self._caps.of(kind_of(batch[0]), tokens) < tokens

    def _advance(self, batch: list[Running]) -> Exception | None:
        """Run the forward and hand each its rows; the error if it raised, and nothing has moved."""
        try:
            outputs = forward([image.call for image in batch if image.call is not None])
        except Exception as error:
            return without_tensors(error)
        for image, output in zip(batch, outputs, strict=True):
            carrier_of(image).advance(output)
            self._beat()
        return None


def kind_of(image: Running) -> Hashable:
    """Equal for images whose next forwards take as much memory each."""
    target = image.call.target.module if image.call is not None else None
    return image.job.model, type(target).__name__, tokens_of(image)


def tokens_of(image: Running) -> int:
    """What its next forward counts."""
    return image.call.tokens if image.call is not None else 0


def carrier_of(image: Running) -> Carrier:
    """The coroutine of an image that has started."""
    assert image.carrier is not None, "only started images are stepped"
    return image.carrier

"""The files of one model: brought to this machine, looked at, and read into RAM."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from inference.errors import ModelFailed
from inference.faults import is_out_of_memory
from inference.hub.checkpoint import stamp_of
from inference.hub.download import Download
from inference.job import Mode
from inference.loading import (
    fetch,
    first_line,
    folders_of,
    is_here,
    pick_dtype,
    read_pipelines,
)
from inference.model_spec import ModelSpec
from inference.options import quantization
from inference.residency.aside import on_a_thread
from inference.residency.held import ANY_NAME, HeldParts
from inference.residency.offload import Offload, effective, resident_bytes
from inference.residency.placement import Weights
from inference.residency.standing import Parts

log = structlog.get_logger()

# Files may come or change while the server runs.
_LOOK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Read:
    """What was read: pipelines by mode, the weights of their parts, and which files those were.

    `unmet` says of an option why it was left out.
    """

    pipes: Mapping[Mode, Any]
    weights: list[Weights]
    stamp: Hashable
    unmet: Mapping[str, str]


class Reader:
    """Fetches and reads on threads of its own; its methods belong to the device's thread.

    `not_narrowed` is why its quantization is left out from now on.
    """

    def __init__(self, spec: ModelSpec, device: str, held: HeldParts) -> None:
        self.not_narrowed = ""
        self._spec = spec
        self._device = device
        self._held = held
        self._download = Download()
        self._fetching: Future[None] | None = None
        self._reading: Future[Read] | None = None
        self._is_fetched = False
        self._expected: Parts = {}
        self._looked = -math.inf

    @property
    def is_at_work(self) -> bool:
        """Whether something is coming, or has come and was not taken."""
        return self._reading is not None or self._fetching is not None

    @property
    def waits_for(self) -> Future[Any] | None:
        """What is coming, or has come and was not taken."""
        return self._reading if self._fetching is None else self._fetching

    @property
    def fetched_bytes(self) -> tuple[int, int]:
        """How much of its files is here, and of how many bytes, while they come; else 0 of 0."""
        return self._download.bytes if self.is_at_work else (0, 0)

    @property
    def is_fetching(self) -> bool:
        """Whether files of it are on their way to this machine."""
        done, whole = self.fetched_bytes
        return self._fetching is not None or done < whole

    @property
    def lacks_files(self) -> bool:
        """Whether it has to be fetched before it can be read."""
        return not (self._is_fetched or is_here(self._as_read()))

    @property
    def own_parts(self) -> Collection[str]:
        """The parts that no other model may have too; all where hooks move them."""
        offloads = effective(self._spec, self._device) is not Offload.NONE
        return ANY_NAME if offloads else self._spec.own_parts

    @property
    def reads_to_device(self) -> bool:
        """Whether some of its weights are made on the card alone, while they are read."""
        return quantization.on_card(self._spec) and quantization.on_card(self._as_read())

    def expected(self, now: float) -> Parts:
        """Bytes of the weights by content, as the files tell; looked at every few seconds."""
        if now - self._looked > _LOOK_SECONDS:
            self._looked, self._expected = now, self._look()
        return self._expected

    def fetch(self) -> None:
        """Begin to bring its files to this machine; it takes no room."""
        log.info("model.fetching", model=self._spec.name)
        spec, download = self._as_read(), Download()
        self._download = download
        self._fetching = on_a_thread(f"fetch-{self._spec.name}", lambda: fetch(spec, download))

    def read(self, *, pin: bool) -> None:
        """Begin to read it into RAM, pinned for fast copies where asked."""
        download = Download()
        self._is_fetched, self._download = False, download
        self._reading = on_a_thread(f"load-{self._spec.name}", lambda: self._read(download, pin))

    def take(self) -> Read | None:
        """What was read, None where only its files came; raises ModelFailed where that failed."""
        if self._fetching is not None:
            fetched, self._fetching, self._looked = self._fetching, None, -math.inf
            if (error := fetched.exception()) is not None:
                raise as_failure(self._spec.name, "fetching it", error)
            self._is_fetched = True
            return None
        assert self._reading is not None, "something has come"
        read, self._reading = self._reading, None
        if (error := read.exception()) is not None:
            # such as RAM that could not be pinned: no reason to end anything but this
            raise as_failure(self._spec.name, "reading it", error)
        return read.result()

    def stop(self) -> None:
        """Let files come no more; what is here of them stays."""
        self._download.stop()

    def give_up(self) -> None:
        """Take nothing of what is coming."""
        self.stop()
        self._fetching = self._reading = None
        self._is_fetched = False

    def _as_read(self) -> ModelSpec:
        """The entry without its quantization, where that is known to be left out."""
        if self.not_narrowed or quantization.obstacle(self._spec, self._device):
            return self._spec.model_copy(update={"quantization": None})
        return self._spec

    def _read(self, download: Download, pin: bool) -> Read:
        pipes, unmet = self._pipelines(download)
        folders = folders_of(self._spec)
        dtype = pick_dtype(self._spec, self._device)
        weights = self._held.keep(pipes, folders, dtype, self.own_parts)
        for one in weights:
            one.read(pin=pin)
        return Read(pipes, weights, stamp_of(*folders), unmet)

    def _pipelines(self, download: Download) -> tuple[Mapping[Mode, Any], Mapping[str, str]]:
        """As the entry asks for them, or without its quantization, and why."""
        spec, device, unmet = self._spec, self._device, dict[str, str]()

        def find_held(folders: Sequence[Path], dtype: torch.dtype) -> Mapping[str, Any]:
            return self._held.find(folders, dtype, self.own_parts)

        if spec.quantization is not None:
            reason = self.not_narrowed or quantization.obstacle(spec, device)
            if not reason:
                try:
                    return read_pipelines(spec, device, find_held, download), unmet
                except ModelFailed as error:
                    if error.__cause__ is not None and is_out_of_memory(error.__cause__):
                        # as it is it would take more
                        raise
                    reason = str(error)
            log.warning("option.off", model=spec.name, option="quantization", reason=reason)
            unmet["quantization"] = reason
            spec = spec.model_copy(update={"quantization": None})
        return read_pipelines(spec, device, find_held, download), unmet

    def _look(self) -> Parts:
        spec = self._spec
        try:
            if not is_here(self._as_read()):
                return {}
            folders, dtype = folders_of(spec), pick_dtype(spec, self._device)
            shares = quantization.shares(spec, dtype, folders)
            return self._held.expected(folders, dtype, self.own_parts, spec.name, shares)
        except Exception as error:
            # whatever is wrong with the files, which may be half written, loading will say
            log.debug("model.unseen", model=spec.name, reason=first_line(error))
            return {}


def foreseen(spec: ModelSpec, device: str) -> Parts:
    """Bytes a model would take of a device by content, as its files tell; empty if they do not."""
    return at_a_time(spec, device, Reader(spec, device, HeldParts(device)).expected(0.0))


def at_a_time(spec: ModelSpec, device: str, weights: Parts) -> Parts:
    """What of a model's weights lies on the device at a time."""
    mode = effective(spec, device)
    if mode is Offload.NONE or not weights:
        return weights
    return {("at a time", spec.name): resident_bytes(mode, [*weights.values()])}


def as_failure(name: str, what: str, error: BaseException) -> ModelFailed:
    """An error of a model's coming, said in one line."""
    if isinstance(error, ModelFailed):
        return error
    failure = ModelFailed(f"{name}: {what} failed: {error}"[:500])
    failure.__cause__ = error
    return failure

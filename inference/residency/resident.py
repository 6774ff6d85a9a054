"""One model of one device on its way: fetched, read into RAM, brought to the device, and back."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch

from inference.coalesce import Rendezvous
from inference.errors import ModelFailed
from inference.faults import free_cache, without_tensors
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
from inference.model import LoadedModel, load_model
from inference.model_spec import ModelSpec
from inference.options import quantization
from inference.options import trial as options
from inference.prompts import PromptCache
from inference.residency.aside import Aside, breathe, on_a_thread
from inference.residency.findings import Findings
from inference.residency.held import ANY_NAME, HeldParts
from inference.residency.memory import Working
from inference.residency.offload import Offload, effective, install, resident_bytes
from inference.residency.placement import Weights
from inference.residency.plan import Parts
from inference.selftest import operation, run_selftest
from inference.settings import EngineSettings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What the models of one device have in common."""

    device: str
    rendezvous: Rendezvous
    prompts: PromptCache
    settings: EngineSettings
    held: HeldParts
    clock: Callable[[], float] = time.monotonic


Read = tuple[Mapping[Mode, Any], list[Weights], Hashable]


@dataclass(slots=True, eq=False)
class Resident:
    """One model as its device's thread knows it; only `_read` and fetching run on others."""

    spec: ModelSpec
    home: Home
    pinned: bool = False
    wanted: bool = False
    gentle: bool = False
    leaving: bool = False
    on_device: bool = False
    keeps_ram: bool = False
    model: LoadedModel | None = None
    findings: Findings | None = None
    weights: list[Weights] = field(default_factory=list)
    error: ModelFailed | None = None
    is_barred: bool = False
    not_narrowed: str = ""
    failed_at: float = 0.0
    arrived: float = 0.0
    used: float = 0.0
    used_at: float | None = None
    load_seconds: float = 0.0
    begun: float = 0.0
    _pipes: Mapping[Mode, Any] | None = None
    _download: Download = field(default_factory=Download)
    _fetching: Future[None] | None = None
    _is_fetched: bool = False
    _reading: Future[Read] | None = None
    _aside: Aside | None = None
    _stamp: Hashable = None
    _unmet: Mapping[str, str] = field(default_factory=dict)
    _expected: Parts = field(default_factory=dict)
    _looked: float = -math.inf

    @property
    def is_read(self) -> bool:
        """Whether its weights are in this process."""
        return self._pipes is not None

    @property
    def is_busy(self) -> bool:
        """Whether it is being fetched, read, placed or tested."""
        return self.is_reading or self._aside is not None

    @property
    def is_ready(self) -> bool:
        """Whether it may make pictures."""
        return self.on_device and self.model is not None and not self.is_busy

    @property
    def in_ram(self) -> bool:
        """Whether it could leave the device and come back without its files."""
        return self.is_read and self.keeps_ram and all(one.in_ram for one in self.weights)

    @property
    def is_reading(self) -> bool:
        """Whether it is being fetched or read, or was and has not been taken up."""
        return self._reading is not None or self._fetching is not None

    @property
    def fetched_bytes(self) -> tuple[int, int]:
        """How much of its files is here, and of how many bytes, while they come; else 0 of 0."""
        return self._download.bytes if self.is_reading else (0, 0)

    @property
    def is_fetching(self) -> bool:
        """Whether files of it are on their way to this machine."""
        done, whole = self.fetched_bytes
        return self._fetching is not None or done < whole

    @property
    def lacks_files(self) -> bool:
        """Whether it has to be fetched before it can be read."""
        return not (self.is_read or self._is_fetched or is_here(self._as_read()))

    @property
    def waits_for(self) -> Future[Any] | None:
        """What another thread still does for it: fetch, read, compile."""
        future = self._reading if self._fetching is None else self._fetching
        if self._aside is not None:
            future = self._aside.waits_for
        return None if future is None or future.done() else future

    @property
    def own_parts(self) -> Collection[str]:
        """The parts that no other model may have too; all where hooks move them."""
        return ANY_NAME if self.offload is not Offload.NONE else self.spec.own_parts

    @property
    def offload(self) -> Offload:
        """Where its weights are while they do not compute."""
        return effective(self.spec, self.home.device)

    def parts(self, now: float) -> Parts:
        """Bytes on the device by content, those of its LoRAs and references among them."""
        weights = self.all_parts(now)
        if self.offload is not Offload.NONE and weights:
            most = resident_bytes(self.offload, [*weights.values()])
            weights = {("at a time", self.spec.name): most}
        return {**weights, **self._extras()}

    def all_parts(self, now: float) -> Parts:
        """Bytes of its weights: of what it has, or of its files, looked at every few seconds."""
        if self.is_read:
            return {one.key: one.size_bytes for one in self.weights}
        if now - self._looked > _LOOK_SECONDS:
            self._looked, self._expected = now, self._look()
        return self._expected

    def fetch(self) -> None:
        """Begin to bring its files to this machine, on a thread of its own; it takes no room."""
        log.info("model.fetching", model=self.spec.name)
        spec, download = self._as_read(), Download()
        self._download, self.error = download, None
        self._fetching = on_a_thread(f"fetch-{self.spec.name}", lambda: fetch(spec, download))

    def read(self) -> None:
        """Begin to read it into RAM, on a thread of its own."""
        download = Download()
        self.begun, self.error, self._is_fetched = self.home.clock(), None, False
        self._download = download
        self._reading = on_a_thread(f"load-{self.spec.name}", lambda: self._read(download))

    def take_up(self) -> bool:
        """Take what has come, its files or its weights; raises ModelFailed where it failed."""
        if self._fetching is not None:
            return self._take_files(self._fetching)
        if self._reading is None or not self._reading.done():
            return False
        future, self._reading = self._reading, None
        if (error := future.exception()) is not None:
            # such as RAM that could not be pinned: no reason to end anything but this
            raise _as_failure(self.spec.name, "reading it", error)
        self._pipes, self.weights, stamp = future.result()
        if stamp != self._stamp:
            self._stamp, self.findings = stamp, None
        return True

    def _take_files(self, future: Future[None]) -> bool:
        if not future.done():
            return False
        self._fetching, self._looked = None, -math.inf
        if (error := future.exception()) is not None:
            raise _as_failure(self.spec.name, "fetching it", error)
        self._is_fetched = True
        return True

    def stop_fetching(self) -> None:
        """Let files come no more; what is here of them stays."""
        self._download.stop()

    def bring(self) -> None:
        """Begin to bring it to the device and make it ready; `go_on` does it piece by piece."""
        if self.begun == 0.0:
            self.begun = self.home.clock()
        self.on_device, self.error = True, None
        self._aside = Aside(self._settle)

    def go_on(self) -> bool:
        """Do one piece of what was begun; True at the end. Raises ModelFailed."""
        aside = self._aside
        assert aside is not None, "something was begun"
        aside.go_on()
        if not aside.ended:
            return False
        self._aside = None
        if aside.error is not None:
            raise _as_failure(self.spec.name, "the self-test", aside.error)
        self.load_seconds, self.begun = self.home.clock() - self.begun, 0.0
        return True

    def work_within(self, room_bytes: int) -> None:
        """Share forwards among fewer calls where more would not fit beside the weights."""
        assert self.model is not None and self.findings is not None, "it was tested before"
        capped = self.findings.working.within(room_bytes)
        for attached in self.model.attached:
            name = operation(self.model, attached)
            _, most = self.findings.working.operations.get(name, (0, 1))
            _, fits = capped.operations.get(name, (0, 1))
            attached.budget_tokens = attached.budget_tokens // most * fits
        self.findings = Findings.of(self.model, capped)

    def park(self, others: list[Resident]) -> None:
        """Leave the device, and stay in RAM; what others use there stays."""
        self._let_go()
        self._leave(others)
        self.on_device = False
        free_cache(self.home.device)

    def drop(self, others: list[Resident]) -> None:
        """Leave the process; what others use stays."""
        if self._aside is not None:
            self._aside.give_up()
            self._aside = None
        self.stop_fetching()
        self._fetching = self._reading = None
        self._is_fetched = False
        if self.model is not None:
            self._let_go()
            self.model.detach(self.home.rendezvous)
        self._leave(others)
        watched = [weakref.ref(one.module) for one in self.weights]
        kept = {id(one) for other in others for one in other.weights}
        shared = [id(one) in kept for one in self.weights]
        self.model, self._pipes, self.weights = None, None, []
        self.on_device, self.keeps_ram, self.begun = False, False, 0.0
        lost = [one for one, is_shared in zip(watched, shared, strict=True) if not is_shared]
        if any(one() is not None for one in lost):
            gc.collect()
        free_cache(self.home.device)

    def _as_read(self) -> ModelSpec:
        """The entry without its quantization, where that is known to be left out."""
        spec = self.spec
        if self.not_narrowed or quantization.obstacle(spec, self.home.device):
            return spec.model_copy(update={"quantization": None})
        return spec

    def _read(self, download: Download) -> Read:
        held, spec = self.home.held, self.spec
        pipes = self._pipelines(download)
        folders = folders_of(spec)
        dtype = pick_dtype(spec, self.home.device)
        weights = held.keep(pipes, folders, dtype, self.own_parts)
        for one in weights:
            one.read(pin=self.keeps_ram)
        return pipes, weights, stamp_of(*folders)

    def _pipelines(self, download: Download) -> Mapping[Mode, Any]:
        """As the entry asks for them, or without its quantization, and why."""
        spec, device, held = self.spec, self.home.device, self.home.held

        def find_held(folders: Sequence[Path], dtype: torch.dtype) -> Mapping[str, Any]:
            return held.find(folders, dtype, self.own_parts)

        self._unmet = {}
        if spec.quantization is not None:
            reason = self.not_narrowed or quantization.obstacle(spec, device)
            if not reason:
                try:
                    return read_pipelines(spec, device, find_held, download)
                except ModelFailed as error:
                    reason = str(error)
            log.warning("option.off", model=spec.name, option="quantization", reason=reason)
            self._unmet = {"quantization": reason}
            spec = spec.model_copy(update={"quantization": None})
        return read_pipelines(spec, device, find_held, download)

    def _settle(self) -> None:
        """Within an aside: to the device, attached, tested."""
        assert self._pipes is not None, "it was read before"
        if self.offload.value != self.spec.offload and self.findings is None:
            log.warning(
                "option.off", model=self.spec.name, option="offload", device=self.home.device
            )
        for one in self.weights:
            breathe()
            if self.offload is Offload.NONE:
                one.to_device()
        if self.offload is not Offload.NONE and self.model is None:
            install(self.offload, self._pipes, self.weights, self.home.device)
        folder = self.home.settings.compiled_folder
        if self.model is None:
            self.model = self._load(self._pipes)
        if self.findings is None:
            options.settle(self.model, self.home.device, self._unmet, folder=folder)
            self.findings = Findings.of(self.model, self._tested(self.model))
        elif not self.model.lanes:
            known = self.findings.options
            options.settle(self.model, self.home.device, self._unmet, known, folder)
            self.findings.give(self.model)

    def _tested(self, model: LoadedModel) -> Working:
        """What the self-test found, without the options that it fails with."""
        try:
            return run_selftest(model, self.home.device)
        except Exception as error:
            if not options.give_up(model, without_tensors(error)):
                raise
        free_cache(self.home.device)
        return run_selftest(model, self.home.device)

    def _load(self, pipes: Mapping[Mode, Any]) -> LoadedModel:
        breathe()
        settings = self.home.settings
        return load_model(
            self.spec,
            self.home.device,
            self.home.rendezvous,
            self.home.prompts,
            settings.preview_side_px if self.findings is None else 0,
            settings.lora_bytes,
            pipes,
            # between two forwards of a part that is one of several, another part may take its place
            helpers=self.offload is not Offload.MODEL,
            stamp=self._stamp,
        )

    def forget_ram(self, others: list[Resident]) -> None:
        """Give back the copies in RAM that no other model keeps."""
        kept = {id(one) for other in others if other.keeps_ram for one in other.weights}
        for one in self.weights:
            if not self.keeps_ram and id(one) not in kept:
                one.forget_ram()

    def _leave(self, others: list[Resident]) -> None:
        in_use = {id(one) for other in others if other.on_device for one in other.weights}
        kept = {id(one) for other in others for one in other.weights}
        for one in self.weights:
            # what is a copy short is dropped with the model, unless another was read ahead with it
            if id(one) not in in_use and (one.in_ram or id(one) in kept):
                one.to_ram()

    def _let_go(self) -> None:
        """Give back what was gathered on the device beside the weights."""
        if self.model is not None:
            self.model.loras.let_go()
            self.model.references.let_go()

    def _extras(self) -> dict[Hashable, int]:
        if self.model is None:
            return {}
        held = self.model.loras.held_bytes + self.model.references.held_bytes
        return {("beside", self.spec.name): held}

    def _look(self) -> Parts:
        spec = self.spec
        try:
            if not is_here(self._as_read()):
                return {}
            folders, dtype = folders_of(spec), pick_dtype(spec, self.home.device)
            shares = quantization.shares(spec, dtype, folders)
            return self.home.held.expected(folders, dtype, self.own_parts, spec.name, shares)
        except Exception as error:
            # whatever is wrong with the files, which may be half written, loading will say
            log.debug("model.unseen", model=spec.name, reason=first_line(error))
            return {}


# Files may come or change while the server runs.
_LOOK_SECONDS = 10.0


def _as_failure(name: str, what: str, error: BaseException) -> ModelFailed:
    if isinstance(error, ModelFailed):
        return error
    failure = ModelFailed(f"{name}: {what} failed: {error}"[:500])
    failure.__cause__ = error
    return failure

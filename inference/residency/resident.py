"""One model of one device on its way: fetched, read into RAM, brought to the device, and back."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog

from inference.coalesce import Rendezvous
from inference.errors import ModelFailed
from inference.faults import free_cache, without_tensors
from inference.job import Mode
from inference.model import LoadedModel, load_model
from inference.model_spec import ModelSpec
from inference.options import trial as options
from inference.prompts import PromptCache
from inference.residency.aside import Aside, breathe
from inference.residency.findings import Findings
from inference.residency.held import HeldParts
from inference.residency.memory import Working
from inference.residency.offload import Offload, effective, install
from inference.residency.placement import Weights
from inference.residency.reader import Reader, as_failure, at_a_time
from inference.residency.standing import Parts
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


@dataclass(slots=True, eq=False)
class Resident:
    """One model as its device's thread knows it; `reader` is where other threads come in."""

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
    failed_at: float = 0.0
    arrived: float = 0.0
    used: float = 0.0
    used_at: float | None = None
    load_seconds: float = 0.0
    begun: float = 0.0
    _pipes: Mapping[Mode, Any] | None = None
    _aside: Aside | None = None
    _stamp: Hashable = None
    _unmet: Mapping[str, str] = field(default_factory=dict)
    reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = Reader(self.spec, self.home.device, self.home.held)

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
        return self.reader.is_at_work

    @property
    def lacks_files(self) -> bool:
        """Whether it has to be fetched before it can be read."""
        return not self.is_read and self.reader.lacks_files

    @property
    def waits_for(self) -> Future[Any] | None:
        """What another thread still does for it: fetch, read, compile."""
        future = self.reader.waits_for if self._aside is None else self._aside.waits_for
        return None if future is None or future.done() else future

    @property
    def offload(self) -> Offload:
        """Where its weights are while they do not compute."""
        return effective(self.spec, self.home.device)

    @property
    def fetched_bytes(self) -> tuple[int, int]:
        """How much of its files, or of its LoRAs', is here while they come; else 0 of 0."""
        done, whole = self.reader.fetched_bytes
        if self.model is None:
            return done, whole
        more_done, more = self.model.loras.fetched_bytes
        return done + more_done, whole + more

    def stop(self) -> None:
        """Let nothing come from the hub any more; what is here of it stays."""
        self.reader.stop()
        if self.model is not None:
            self.model.loras.stop()

    def parts(self, now: float) -> Parts:
        """Bytes on the device by content, those of its LoRAs and references among them."""
        weights = at_a_time(self.spec, self.home.device, self.all_parts(now))
        return {**weights, **self._extras()}

    def all_parts(self, now: float) -> Parts:
        """Bytes of its weights: of what it has, or as its files tell."""
        if self.is_read:
            return {one.key: one.size_bytes for one in self.weights}
        return self.reader.expected(now)

    def fetch(self) -> None:
        """Begin to bring its files to this machine."""
        self.error = None
        self.reader.fetch()

    def read(self) -> None:
        """Begin to read it into RAM."""
        self.begun, self.error = self.home.clock(), None
        self.reader.read(pin=self.keeps_ram)

    def take_up(self) -> bool:
        """Take what has come, its files or its weights; raises ModelFailed where it failed."""
        if self.waits_for is not None:
            return False
        if (read := self.reader.take()) is not None:
            self._pipes, self.weights, self._unmet = read.pipes, read.weights, read.unmet
            if read.stamp != self._stamp:
                self._stamp, self.findings = read.stamp, None
        return True

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
            raise as_failure(self.spec.name, "the self-test", aside.error)
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
        self.reader.give_up()
        if self.model is not None:
            self._let_go()
            self.model.loras.stop()
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
            install(self.offload, self.weights, self.home.device)
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

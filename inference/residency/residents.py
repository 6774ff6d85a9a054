"""The models of one device: which are loaded, which failed and why, and which go for which."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait

import structlog

from inference.catalog import Catalog
from inference.coalesce import Rendezvous
from inference.errors import ModelFailed, NoRoom
from inference.faults import without_tensors
from inference.job import Job
from inference.model import LoadedModel
from inference.options.trial import NotNarrowed
from inference.prompts import PromptCache
from inference.residency.demand import Demand
from inference.residency.held import HeldParts
from inference.residency.memory import budget_of
from inference.residency.offload import Offload
from inference.residency.plan import Move, MoveKind, Patience, Plan, plan
from inference.residency.resident import Home, Resident
from inference.residency.standing import Standing, device_bytes, in_gib, ram_bytes
from inference.residency.told import standing_of, status_of
from inference.settings import EngineSettings
from inference.status import ModelAction, ModelStatus

log = structlog.get_logger()

# Before a model has been measured, any guess will do: it only orders requests that wait for it.
_GUESSED_STEP_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_NOTHING: Mapping[str, Demand] = {}


class Residents:
    """Brings models to the device when they are asked for, and makes room; no call waits."""

    def __init__(
        self,
        device: str,
        catalog: Catalog,
        rendezvous: Rendezvous,
        settings: EngineSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget_of(device, settings)
        self.swaps = 0
        self._clock = clock
        self._catalog = catalog
        self._retry_seconds = settings.retry_load_seconds
        self._patience = Patience(
            age_bound_seconds=settings.model_wait_seconds,
            min_stay_seconds=settings.model_stay_seconds,
        )
        home = Home(
            device=device,
            rendezvous=rendezvous,
            prompts=PromptCache(settings.prompt_cache_bytes),
            settings=settings,
            held=HeldParts(device),
            clock=clock,
        )
        self._all = {
            name: Resident(spec, home, pinned=spec.pin) for name, spec in catalog.models.items()
        }
        self._draining: set[str] = set()
        self._changed, self._looked = True, -math.inf
        self._status = {name: status_of(one, clock()) for name, one in self._all.items()}
        self._used_bytes, self._told = (0, 0), -math.inf

    def preload(self) -> None:
        """Ask for what models.yaml wants loaded from the start, as far as there is room."""
        for one in self._all.values():
            if one.spec.preload or one.spec.pin:
                one.wanted = one.gentle = self._changed = True

    def command(self, name: str, action: ModelAction) -> None:
        """What an operator wants of a model; unloading one unpins it."""
        one = self._all[name]
        if action in (ModelAction.LOAD, ModelAction.PIN):
            one.wanted, one.gentle, one.leaving, one.is_barred = True, False, False, False
        if action is ModelAction.UNLOAD:
            one.wanted, one.leaving, one.error, one.is_barred = False, True, None, False
            if one.reader.is_fetching:
                one.drop(self._others(one))
        if action is not ModelAction.LOAD:
            one.pinned = action is ModelAction.PIN
        if action in (ModelAction.UNLOAD, ModelAction.UNPIN):
            for other in self._all.values():
                if isinstance(other.error, NoRoom):
                    self._pardon(other)
        self._changed = True
        self._tell(one)

    def close(self) -> None:
        """Let nothing come from the hub any more."""
        for one in self._all.values():
            one.stop()

    def usable(self, name: str) -> LoadedModel | None:
        """The model, if pictures of it may start now; raises ModelFailed, for a while."""
        one = self._all[name]
        if one.is_barred and one.error is not None:
            raise without_tensors(one.error)
        return one.model if one.is_ready and name not in self._draining else None

    def get(self, name: str) -> LoadedModel:
        """The model, waited for if need be; raises ModelFailed."""
        demand = {name: Demand(waiting_since=self._clock())}
        while (model := self.usable(name)) is None:
            self.advance(demand)
            self.rest(0.05)
        return model

    @property
    def at_work(self) -> bool:
        """Whether something is on its way, or wanted to be."""
        return any(one.is_busy or one.wanted or one.leaving for one in self._all.values())

    @property
    def has_pieces(self) -> bool:
        """Whether the device's own thread could do something for a model at once."""
        return any(one.is_busy and one.waits_for is None for one in self._all.values())

    def rest(self, seconds: float) -> bool:
        """Wait so long for what other threads do, if they do anything."""
        waits = [one.waits_for for one in self._all.values()]
        futures = [future for future in waits if future is not None]
        if futures and not self.has_pieces:
            wait(futures, timeout=seconds)
        return bool(futures)

    def advance(self, demands: Mapping[str, Demand]) -> None:
        """Take up what has come, do one piece of what is begun, and plan what is next."""
        now = self._clock()
        for name in demands:
            self._note_use(self._all[name], demands[name], now)
        for one in self._all.values():
            if one.is_barred and now - one.failed_at > self._retry_seconds:
                self._pardon(one)
            if one.is_reading:
                self._take_up(one, now)
            one.wanted = one.wanted and not one.is_ready
        self._go_on(demands, now)
        # what LoRAs and references take changes without a move
        self._changed = self._changed or now - self._looked > _LOOK_SECONDS
        if self._changed or any(self._is_missing(name, one) for name, one in demands.items()):
            self._changed, self._looked = False, now
            self._follow(self._plan(demands, now), now)

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model of the catalog; values are replaced whole, so any thread may read."""
        return tuple(self._status.values())

    @property
    def used_bytes(self) -> tuple[int, int]:
        """What models take of the device and of RAM."""
        return self._used_bytes

    def serves(self, job: Job) -> bool:
        """Whether models.yaml has its model and mode still: it may be of an earlier start."""
        return job.model in self._all and job.mode in self._all[job.model].spec.modes

    def work_seconds(self, job: Job) -> float:
        """About how long one picture of a job takes alone."""
        model = self._all[job.model].model
        if model is None:
            return job.num_inference_steps * _GUESSED_STEP_SECONDS
        return model.work_seconds(job)

    def _is_missing(self, name: str, demand: Demand) -> bool:
        one = self._all[name]
        waits = demand.waiting_since is not None and not one.is_barred
        return waits and (not one.is_ready or name in self._draining)

    def _note_use(self, one: Resident, demand: Demand, now: float) -> None:
        if demand.running:
            one.used, one.used_at = now, time.time()

    def _take_up(self, one: Resident, now: float) -> None:
        try:
            if one.take_up():
                self._place(one, now)
        except ModelFailed as error:
            self._fail(one, error, now)
        self._tell(one)

    def _go_on(self, demands: Mapping[str, Demand], now: float) -> None:
        """Do one piece for the model whose request came first: in turns all would come late."""
        # what was read since is taken up first
        begun = [
            one
            for one in self._all.values()
            if one.is_busy and not one.is_reading and one.waits_for is None
        ]
        if not begun:
            return

        def urgency(one: Resident) -> tuple[float, float]:
            demand = demands.get(one.spec.name)
            since = demand.waiting_since if demand is not None else None
            return (math.inf if since is None else since, one.begun)

        one = min(begun, key=urgency)
        try:
            if one.go_on():
                self._check_size(one)
                one.forget_ram(self._others(one))
                one.wanted, one.arrived, one.used = False, now, now
                self._changed, self._told = True, -math.inf
                log.info("model.loaded", model=one.spec.name, seconds=round(one.load_seconds, 2))
        except NotNarrowed as error:
            log.warning("option.off", model=one.spec.name, option="quantization", reason=str(error))
            one.reader.not_narrowed, self._changed = str(error), True
            without_tensors(error)
            one.drop(self._others(one))
        except ModelFailed as error:
            self._fail(one, error, now)
        self._tell(one)

    def _place(self, one: Resident, now: float) -> None:
        """What was read for the device goes on there, if it fits now that its size is known."""
        self._changed = True
        if not one.on_device:
            return
        staying = [other for other in self._standing(now) if other.on_device]
        if device_bytes(staying) <= self.budget.device_bytes:
            one.bring()
        else:
            # larger than its files told: the next plan makes room
            one.on_device, one.keeps_ram = False, True

    def _check_size(self, one: Resident) -> None:
        """Let it work in the room there is; raises ModelFailed where one picture has none."""
        weights = sum(one.parts(self._clock()).values())
        one.work_within(self.budget.device_bytes - weights)
        most, now = self.budget.device_bytes, self._clock()
        alone = device_bytes([standing_of(one, Demand(), now, most)])
        if alone > most:
            raise ModelFailed(
                f"{one.spec.name} takes {in_gib(alone)} of the device to make a picture, and "
                f"models may take {in_gib(most)}"
            )

    def _plan(self, demands: Mapping[str, Demand], now: float) -> Plan:
        return plan(self._standing(now, demands), self.budget, self._patience, now)

    def _standing(self, now: float, demands: Mapping[str, Demand] = _NOTHING) -> list[Standing]:
        most = self.budget.device_bytes
        return [
            standing_of(one, demands.get(name, Demand()), now, most)
            for name, one in self._all.items()
        ]

    def _follow(self, made: Plan, now: float) -> None:
        self._draining = made.draining
        for move in made.moves:
            self._move(self._all[move.name], move)
        for name, reason in made.refused.items():
            one = self._all[name]
            if one.gentle and one.wanted:
                one.wanted = False
                log.warning("model.not_preloaded", model=name, reason=reason)
            else:
                self._fail(one, NoRoom(reason), now)
        for one in self._all.values():
            if one.leaving and not one.is_read and not one.is_busy:
                one.leaving = False
        if not made.moves and now - self._told < _LOOK_SECONDS:
            return
        self._told = now
        self._measure(now)
        for one in self._all.values():
            self._tell(one)

    def _move(self, one: Resident, move: Move) -> None:
        others, leaves = self._others(one), move.kind in (MoveKind.PARK, MoveKind.DROP)
        self.swaps += leaves and one.on_device and not one.leaving
        if move.kind is MoveKind.PARK:
            one.park(others)
        elif move.kind is MoveKind.DROP:
            one.drop(others)
        else:
            one.keeps_ram = one.keeps_ram or move.keeps or one.offload is not Offload.NONE
            is_for_device = move.kind is MoveKind.LOAD
            if one.is_read and is_for_device:
                one.keeps_ram = move.keeps or one.offload is not Offload.NONE
                one.bring()
            elif one.lacks_files:
                # what it takes is known once it is here, and nobody has to go for it before
                one.fetch()
                return
            elif not one.is_read:
                one.on_device = is_for_device
                one.read()
        log.info("model.moved", model=one.spec.name, move=move.kind.value)

    def _fail(self, one: Resident, error: ModelFailed, now: float) -> None:
        log.warning("model.failed", model=one.spec.name, reason=str(error))
        log.debug("model.failed", model=one.spec.name, exc_info=error)
        # kept until it is tried again, and its frames hold the weights
        one.error = without_tensors(error)
        one.drop(self._others(one))
        one.is_barred, one.failed_at, one.wanted, self._changed = True, now, False, True
        self._tell(one)

    def _pardon(self, one: Resident) -> None:
        """Let it be tried again; a pinned one is to be there without anybody's asking."""
        one.is_barred = False
        one.wanted, self._changed = one.wanted or one.pinned, True
        self._tell(one)

    def _others(self, one: Resident) -> list[Resident]:
        return [other for other in self._all.values() if other is not one]

    def _measure(self, now: float) -> None:
        standing = self._standing(now)
        self._used_bytes = (
            device_bytes([one for one in standing if one.on_device]),
            ram_bytes([one for one in standing if one.in_ram]),
        )

    def _tell(self, one: Resident) -> None:
        self._status[one.spec.name] = status_of(one, self._clock())

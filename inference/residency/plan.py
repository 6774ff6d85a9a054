"""Which models lie where, under budgets of bytes: decides and moves nothing, knows no torch.

A model's weights are parts named by their content, so what several models share counts once. It
is on the device, in RAM (a copy to come back from quickly), both, or gone. Beside the weights on
the device there must be room for the largest working memory of them, since one forward runs at a
time.

Requests for models on the device go before a swap. A model that nobody asks for makes room at
once, the least recently used first. One that is asked for makes room once a request for another
would else wait beyond `age_bound_seconds`, or has a higher priority than all its own, and then not
before `min_stay_seconds`: no more of its pictures start, those in the making are finished, and
only then it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from inference.residency.standing import (
    Budget,
    Standing,
    device_bytes,
    in_gib,
    ram_bytes,
    total_bytes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When one model is moved for another, in seconds."""

    age_bound_seconds: float = 60.0
    min_stay_seconds: float = 5.0


class MoveKind(StrEnum):
    """`read` and `load` bring a model into RAM and onto the device; `park` leaves it in RAM."""

    READ = "read"
    LOAD = "load"
    PARK = "park"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a plan; a loaded model `keeps` a copy in RAM if there is room for it."""

    kind: MoveKind
    name: str
    keeps: bool = False


@dataclass(slots=True)
class Plan:
    """Moves in the order they are to be made; `draining` models start no more pictures.

    `refused` says of a model why it can never be brought to the device as things are.
    """

    moves: list[Move] = field(default_factory=list)
    draining: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


def plan(models: Iterable[Standing], budget: Budget, patience: Patience, now: float) -> Plan:
    """What to move next, by what is asked for at the moment `now`."""
    planner = _Planner(list(models), budget, patience, now)
    planner.let_leave()
    planner.mend()
    for wanted in planner.line_up():
        planner.bring(wanted)
    planner.tidy()
    return planner.plan


class _Planner:
    """One plan in the making: what lies where after the moves so far."""

    def __init__(
        self, models: list[Standing], budget: Budget, patience: Patience, now: float
    ) -> None:
        self.plan = Plan()
        self._models = models
        self._budget = budget
        self._patience = patience
        self._now = now
        self._queue: list[Standing] = []
        self._device = {one.name: one for one in models if one.on_device}
        self._ram = {one.name: one for one in models if one.in_ram}

    def let_leave(self) -> None:
        """Send away what was asked to go, once its pictures are finished."""
        for one in self._models:
            if not one.leaving or one.busy:
                continue
            if one.running:
                self.plan.draining.add(one.name)
            elif one.on_device or one.in_ram:
                self._drop(one)

    def mend(self) -> None:
        """Make room where models turned out larger than they were thought to be."""
        for one in self._by_use(self._device.values()):
            if self._fits_device():
                return
            if one.movable and not one.asked_for:
                self._evict(one)

    def tidy(self) -> None:
        """Drop from RAM what does not fit there, such as what was read for a device and left."""
        for one in self._by_use(self._ram.values()):
            if ram_bytes(self._ram.values()) <= self._budget.ram_bytes:
                return
            if one.name not in self._device and not one.asked_for and not one.busy:
                self._drop(one)

    def line_up(self) -> list[Standing]:
        """The models that are to be brought, the most urgent first."""

        def urgency(one: Standing) -> tuple[float, ...]:
            since = self._now if one.waiting_since is None else one.waiting_since
            return (one.waiting_since is None, -one.waiting_priority, since, one.used)

        missing = [
            one
            for one in self._models
            if one.asked_for and one.name not in self._device and not one.busy
        ]
        self._queue = sorted((one for one in missing if not one.leaving), key=urgency)
        return self._queue

    def bring(self, wanted: Standing) -> None:
        """Bring a model to the device, or as near as is possible yet."""
        victims = self._victims(wanted)
        only_free = wanted.gentle and wanted.waiting_since is None
        if victims is None or (victims and only_free):
            self.plan.refused[wanted.name] = self._reason(wanted)
            return
        blocking = [one for one in victims if one.asked_for or one.busy]
        if not blocking:
            for one in victims:
                self._evict(one)
            self._load(wanted)
            return
        if wanted.name not in self._ram and self._make_room_in_ram(wanted):
            self.plan.moves.append(Move(MoveKind.READ, wanted.name, keeps=True))
            self._ram[wanted.name] = wanted
        # one at a time: what the next would need is seen when this one is there
        if not self.plan.draining and self._is_due(wanted, blocking):
            self._drain(wanted, victims, blocking)

    def _drain(self, wanted: Standing, victims: list[Standing], blocking: list[Standing]) -> None:
        if any(one.running for one in blocking):
            self.plan.draining.update(one.name for one in victims)
            return
        for one in victims:
            self._evict(one)
        self._load(wanted)

    def _is_due(self, wanted: Standing, blocking: list[Standing]) -> bool:
        """Whether the models in its way have to go although they are asked for."""
        stay = self._patience.min_stay_seconds
        if wanted.waiting_since is None or any(one.busy for one in blocking):
            return False
        if any(
            self._now - one.arrived < stay and one.waiting_since is not None for one in blocking
        ):
            return False
        if all(wanted.waiting_priority > _priority(one) for one in blocking):
            return True
        return self._would_be_late(wanted, max(one.drain_seconds for one in blocking))

    def _would_be_late(self, first: Standing, ahead_seconds: float) -> bool:
        """Whether it, or one that comes after it, would wait too long if it waited on."""
        for one in self._queue[self._queue.index(first) :]:
            ahead_seconds += one.load_seconds
            waited = self._now - (self._now if one.waiting_since is None else one.waiting_since)
            if waited + ahead_seconds >= self._patience.age_bound_seconds:
                return True
            ahead_seconds += self._patience.min_stay_seconds
        return False

    def _victims(self, wanted: Standing) -> list[Standing] | None:
        """What has to leave the device; None where not even all that may leave would do."""
        victims: list[Standing] = []
        movable = [one for one in self._device.values() if one.movable]
        order = sorted(movable, key=lambda one: (one.asked_for, one.used))
        for one in order:
            if self._fits_device(wanted, without=victims):
                break
            victims.append(one)
        if not self._fits_device(wanted, without=victims):
            busy = any(one.busy for one in self._device.values())
            return None if not busy else self._wait_for_busy(wanted)
        for one in [*victims]:
            rest = [other for other in victims if other is not one]
            if self._fits_device(wanted, without=rest):
                victims = rest
        return victims

    def _wait_for_busy(self, wanted: Standing) -> list[Standing] | None:
        """A model being read or tested may leave later: it blocks, and refuses nothing."""
        stays = [one for one in self._device.values() if one.pinned]
        if device_bytes([*stays, wanted]) > self._budget.device_bytes:
            return None
        return [one for one in self._device.values() if one.busy]

    def _fits_device(self, *more: Standing, without: Sequence[Standing] = ()) -> bool:
        gone = {one.name for one in without}
        staying = [one for one in self._device.values() if one.name not in gone]
        return device_bytes([*staying, *more]) <= self._budget.device_bytes

    def _make_room_in_ram(self, wanted: Standing) -> bool:
        """Whether a copy of it fits into RAM, after dropping what nobody asks for there."""
        if wanted.reads_to_device:
            return False
        gone: list[Standing] = []
        spare = [
            one
            for one in self._by_use(self._ram.values())
            if one.name not in self._device and not one.asked_for and not one.busy
        ]

        def fits() -> bool:
            staying = [one for one in self._ram.values() if one not in gone]
            return ram_bytes([*staying, wanted]) <= self._budget.ram_bytes

        while not fits() and spare:
            gone.append(spare.pop(0))
        if not ram_bytes([wanted]) or not fits():
            return False
        for one in gone:
            self._drop(one)
        return True

    def _load(self, wanted: Standing) -> None:
        keeps = wanted.name in self._ram or self._make_room_in_ram(wanted)
        self.plan.moves.append(Move(MoveKind.LOAD, wanted.name, keeps))
        self._device[wanted.name] = replace(wanted, on_device=True, busy=True)
        if keeps:
            self._ram[wanted.name] = wanted

    def _evict(self, one: Standing) -> None:
        if one.name not in self._ram:
            return self._drop(one)
        self.plan.moves.append(Move(MoveKind.PARK, one.name, keeps=True))
        del self._device[one.name]
        return None

    def _drop(self, one: Standing) -> None:
        self.plan.moves.append(Move(MoveKind.DROP, one.name))
        self._device.pop(one.name, None)
        self._ram.pop(one.name, None)

    def _by_use(self, models: Iterable[Standing]) -> list[Standing]:
        return sorted(models, key=lambda one: one.used)

    def _reason(self, wanted: Standing) -> str:
        only_free = wanted.gentle and wanted.waiting_since is None
        staying = [one for one in self._device.values() if one.pinned or only_free]
        names = ", ".join(one.name for one in staying)
        kept = f", of which {in_gib(total_bytes(staying))} are kept for {names}" if staying else ""
        return (
            f"{wanted.name} needs {in_gib(device_bytes([wanted]))} of the device, and models may "
            f"take {in_gib(self._budget.device_bytes)}{kept}"
        )


def _priority(one: Standing) -> int:
    """The highest priority of a model's own requests; an operator's wish has the lowest."""
    own = [one.waiting_priority] if one.waiting_since is not None else []
    own += [one.running_priority] if one.running else []
    return max(own, default=0)

"""Claims tasks while there is room, keeps their leases alive, and ends orderly."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from api.errors import Unavailable
from api.run import Run
from api.settings import Settings
from api.store import Claim
from api.workshop import EnginePort, Workshop
from inference.errors import DeviceMissing, EngineClosed
from inference.status import EngineStatus

__all__ = ["Dispatcher", "EnginePort", "Workshop"]

log = structlog.get_logger()

# The poll finds what no wake-up told of: leases that other processes lost.
POLL_SECONDS = 1.0
PAUSE_AFTER_ERROR_SECONDS = 1.0


class Dispatcher:
    """Moves tasks between the store and the engine; used on the event loop only."""

    def __init__(self, workshop: Workshop, settings: Settings) -> None:
        self._shop = workshop
        self._settings = settings
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._worker = secrets.token_hex(8)
        self._runs: dict[str, Run] = {}
        self._driving: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        # Whether the last claim found nothing: then room for more is no reason to look again.
        self._is_dry = False
        self._closing = False
        self._engine_started = False
        self._fault: str | None = None
        self._last_beat = time.monotonic()
        self._trouble: str | None = None
        # Leases that ended while nobody reached the database are first for their holders to renew.
        self._patient_until = 0.0
        self._seconds_per_image: float | None = None

    @property
    def closing(self) -> bool:
        """Whether no more tasks are taken."""
        return self._closing

    @property
    def started(self) -> bool:
        """Whether the engine has been started."""
        return self._engine_started

    @property
    def fault(self) -> str | None:
        """Why the engine will never start, if so; then no more tasks are taken."""
        return self._fault

    @property
    def silence_seconds(self) -> float:
        """How long ago the leases were last known to hold."""
        return time.monotonic() - self._last_beat

    @property
    def trouble(self) -> str | None:
        """Why the last try to renew the leases failed; None if it did not."""
        return self._trouble

    @property
    def seconds_per_image(self) -> float | None:
        """What one picture took lately; None before the first."""
        return self._seconds_per_image

    def engine_status(self) -> EngineStatus:
        """What the engine tells of itself."""
        return self._shop.engine.status()

    def start(self) -> None:
        """Start the engine, then claim, in the background."""
        self._last_beat = time.monotonic()
        self._loops = [
            asyncio.create_task(self._claim_forever()),
            asyncio.create_task(self._beat_forever()),
        ]

    def wake(self) -> None:
        """Look for work now."""
        self._is_dry = False
        self._wake.set()

    def cancel(self, task_id: str) -> None:
        """Stop a task that is to be cancelled, if it runs here."""
        if (run := self._runs.get(task_id)) is not None:
            run.cancel()

    async def close(self) -> None:
        """Claim no more, let what runs end within the drain time, put back the rest; once."""
        self._closing = True
        self._wake.set()
        if not self._loops:
            return
        (claiming, beating), self._loops = self._loops, []
        if not self._engine_started:
            # it may be a long way to there
            claiming.cancel()
        with suppress(asyncio.CancelledError):
            await claiming
        for run in self._runs.values():
            run.leave()
        if self._driving:
            await asyncio.wait(self._driving, timeout=self._settings.drain_seconds)
        await self._put_back()
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        await asyncio.to_thread(self._shop.engine.close, timeout_seconds=5.0)

    async def _put_back(self) -> None:
        left = list(self._runs.values())
        if left:
            log.info("tasks_put_back", tasks=len(left))
            for run in left:
                run.lose()
            # Should this fail, the next start finds the leases and ends them, one try counted.
            with suppress(Unavailable):
                await self._shop.store.release([run.holding for run in left], counted=False)
        for driving in self._driving:
            driving.cancel()
        await asyncio.gather(*self._driving, return_exceptions=True)

    async def _claim_forever(self) -> None:
        while not (self._closing or self._engine_started):
            await self._survive(self._start_engine)
        while not self._closing:
            await self._survive(self._claim_while_room)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()

    async def _start_engine(self) -> None:
        # Off the loop: the first thing an engine does may be to import torch for seconds.
        try:
            await asyncio.to_thread(self._shop.engine.start)
        except DeviceMissing as error:
            log.error("engine_cannot_start", reason=str(error))
            self._fault, self._closing = str(error), True
            return
        self._engine_started = True

    async def _claim_while_room(self) -> None:
        self._wake.clear()
        while not self._closing and self._has_room():
            claim = await self._shop.store.claim(
                self._worker,
                lease_ms=self._lease_ms,
                running_here=list(self._runs),
                takes_over=time.monotonic() > self._patient_until,
            )
            if self._patient_until == math.inf:
                self._patient_until = time.monotonic() + 2 * self._settings.heartbeat_seconds
            self._is_dry = claim is None
            if claim is None:
                return
            self._begin(claim)

    def _note_room(self) -> None:
        if not self._is_dry:
            self._wake.set()

    def _has_room(self) -> bool:
        if any(run.is_last_try for run in self._runs.values()):
            return False
        in_flight = sum(run.images_in_flight for run in self._runs.values())
        return in_flight < self._settings.images_in_flight

    def _begin(self, claim: Claim) -> None:
        run = Run(claim, self._shop, max_tries=self._settings.max_attempts, on_room=self._note_room)
        self._runs[claim.task.id] = run
        driving = asyncio.create_task(self._drive(run))
        self._driving.add(driving)
        driving.add_done_callback(self._driving.discard)

    async def _drive(self, run: Run) -> None:
        try:
            if run.is_last_try:
                await self._until_alone()
            await run.work()
        except EngineClosed:
            log.error("engine_closed", task_id=run.task.id)
            self._closing = True
            await run.give_back(counted=False)
        except Exception:
            log.exception("task_run_broke", task_id=run.task.id)
            await run.give_back(counted=True)
        finally:
            del self._runs[run.task.id]
            self._note_speed(run.image_seconds)
            self._wake.set()

    async def _until_alone(self) -> None:
        """Let end what runs beside: one task that takes the engine down must not end others too."""
        others = self._driving - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    def _note_speed(self, image_seconds: float | None) -> None:
        if image_seconds is not None:
            before = self._seconds_per_image or image_seconds
            self._seconds_per_image = 0.8 * before + 0.2 * image_seconds

    async def _beat_forever(self) -> None:
        while True:
            self._trouble = await self._survive(self._beat)
            if self._trouble is None:
                await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _beat(self) -> None:
        runs = list(self._runs.values())
        if runs:
            held = await self._shop.store.heartbeat(
                [run.holding for run in runs], lease_ms=self._lease_ms
            )
            for run in runs:
                if run.task.id not in held:
                    run.lose()
                elif held[run.task.id]:
                    run.cancel()
        self._last_beat = time.monotonic()

    async def _survive(self, step: Callable[[], Awaitable[None]]) -> str | None:
        """Do one step of a loop that must not die; an error is told, waited out and returned."""
        try:
            await step()
        except Unavailable as error:
            log.warning("dispatcher_waits", step=step.__name__, reason=str(error))
            self._patient_until = math.inf
            trouble = str(error)
        except Exception:
            log.exception("dispatcher_step_broke", step=step.__name__)
            trouble = "a fault of the program, which the log tells of"
        else:
            return None
        await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
        return trouble

"""Delivers what is due in the outbox: again and again, until a receiver answers well."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TypeVar

import structlog

from api.clock import wall_clock_ms
from api.errors import Unavailable
from api.links import PictureLink
from api.outbound import Outbound, Reply, Unreachable
from api.store.hooks import Hook
from api.store.outbox import Message, Outbox
from api.tally import NO_TALLY, Tally
from api.tasks import Task
from api.webhooks.letters import Event, WebhookStyle

T = TypeVar("T")

log = structlog.get_logger()

# Spreads what failed together. Shorter pauses are part of a provider's promise.
JITTER = 0.1
SHORTEST_JITTERED_SECONDS = 10.0
LONGEST_RETRY_AFTER_SECONDS = 86_400.0
ASKS_FOR_PATIENCE = (429, 502, 503, 504)
GONE = 410

MAX_IN_FLIGHT = 256
MAX_PER_ORIGIN = 8
# Over twice any timeout; in this process a delivery is known by its id, whatever the lease says.
LEASE_MS = 45_000
POLL_SECONDS = 1.0
PAUSE_AFTER_ERROR_SECONDS = 1.0
CLOSE_SECONDS = 5.0


def pause_seconds(
    retry_seconds: Sequence[float], attempts: int, jitter: Callable[[], float]
) -> float | None:
    """How long to wait after failed attempt number `attempts`; None if it was the last.

    `jitter` is called for a part of the pause, between -0.1 and 0.1, to add to it.
    """
    if attempts > len(retry_seconds):
        return None
    pause = retry_seconds[attempts - 1]
    return pause if pause < SHORTEST_JITTERED_SECONDS else pause * (1 + jitter())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended; `error` is None only if it was delivered."""

    status: int | None = None
    error: str | None = None
    final: bool = False
    retry_after_seconds: float = 0.0


def outcome_of(reply: Reply) -> Outcome:
    """What a receiver's answer means: 2xx is good, 410 wants no more, the rest is a failure."""
    if 200 <= reply.status < 300:
        return Outcome(status=reply.status)
    asked = reply.retry_after_seconds if reply.status in ASKS_FOR_PATIENCE else None
    return Outcome(
        status=reply.status,
        error=f"answered with status {reply.status}",
        final=reply.status == GONE,
        retry_after_seconds=min(asked or 0.0, LONGEST_RETRY_AFTER_SECONDS),
    )


class Courier:
    """Delivers what is due in the outbox; used on the event loop only.

    One that `takes_over` gives out at once what another had out, so no other may deliver.

    `styles` are by dialect; `secrets_of` gives an account's secrets, the newest first, and
    `hook_of` the registered webhook of an id, None where it is gone or turned off.
    """

    def __init__(
        self,
        outbox: Outbox,
        outbound: Outbound,
        *,
        styles: Mapping[str, WebhookStyle],
        read_task: Callable[[str], Awaitable[Task | None]],
        secrets_of: Callable[[str], Awaitable[tuple[str, ...]]],
        hook_of: Callable[[str], Awaitable[Hook | None]],
        link_for: Callable[[Task], PictureLink],
        credit_usd: Decimal = Decimal("0.01"),
        takes_over: bool = True,
        tally: Tally = NO_TALLY,
        now_ms: Callable[[], int] = wall_clock_ms,
        jitter: Callable[[], float] = lambda: random.uniform(-JITTER, JITTER),
    ) -> None:
        self._outbox = outbox
        self._outbound = outbound
        self._styles = styles
        self._read_task = read_task
        self._secrets_of = secrets_of
        self._hook_of = hook_of
        self._link_for = link_for
        self._credit_usd = credit_usd
        self._takes_over = takes_over
        self._tally = tally
        self._now_ms = now_ms
        self._jitter = jitter
        self._out: dict[str, Message] = {}
        self._deliveries: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False

    def start(self) -> None:
        """Deliver in the background, what an earlier process had out included."""
        self._loop = asyncio.create_task(self._deliver_forever())

    def wake(self) -> None:
        """Look for messages now."""
        self._wake.set()

    async def close(self) -> None:
        """Begin no more, let what is out end within seconds, and put back the rest."""
        self._closing = True
        self._wake.set()
        if self._loop is None:
            return
        looping, self._loop = self._loop, None
        await looping
        if self._deliveries:
            await asyncio.wait(self._deliveries, timeout=CLOSE_SECONDS)
        left = list(self._out.values())
        for delivery in self._deliveries:
            delivery.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        # Should this fail, the next start finds them out and gives them back.
        with suppress(Unavailable):
            for message in left:
                await self._outbox.release(message)

    async def _deliver_forever(self) -> None:
        step: Callable[[], Awaitable[float]] = self._begin_what_is_due
        if self._takes_over:
            step = self._take_over
        while not self._closing:
            self._wake.clear()
            pause_seconds = PAUSE_AFTER_ERROR_SECONDS
            try:
                pause_seconds = await step()
                step = self._begin_what_is_due
            except Unavailable as error:
                log.warning("courier_waits", reason=str(error))
            except Exception:
                log.exception("courier_step_broke")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._wake.wait()

    async def _take_over(self) -> float:
        if count := await self._outbox.release_leases():
            log.info("webhooks_taken_over", messages=count)
        return 0.0

    async def _begin_what_is_due(self) -> float:
        """Begin deliveries while there is room; for how many seconds nothing else is due."""
        while not self._closing and (room := MAX_IN_FLIGHT - len(self._out)) > 0:
            if not await self._outbox.any_due():
                break
            messages = await self._outbox.claim_due(
                room,
                lease_ms=LEASE_MS,
                excluding=list(self._out),
                busy=Counter(message.origin for message in self._out.values()),
                per_origin=MAX_PER_ORIGIN,
            )
            if not messages:
                break
            for message in messages:
                self._begin(message)
        next_ms = await self._outbox.next_due_ms()
        if next_ms is None:
            return POLL_SECONDS
        return min(POLL_SECONDS, max(0.0, (next_ms - self._now_ms()) / 1000))

    def _begin(self, message: Message) -> None:
        self._out[message.id] = message
        delivery = asyncio.create_task(self._deliver(message))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    async def _deliver(self, message: Message) -> None:
        try:
            outcome = await self._attempt(message)
            await self._patiently(lambda: self._settle(message, outcome))
        except Unavailable:
            log.warning("webhook_left", message_id=message.id, task_id=message.task_id)
        except Exception:
            log.exception("webhook_delivery_broke", message_id=message.id, task_id=message.task_id)
        finally:
            del self._out[message.id]
            self._wake.set()

    async def _attempt(self, message: Message) -> Outcome:
        try:
            return await self._send(message)
        except Unavailable:
            raise
        except Unreachable as error:
            return Outcome(error=str(error))
        except Exception:
            log.exception("webhook_broke", message_id=message.id, task_id=message.task_id)
            return Outcome(error="the message could not be written")

    async def _send(self, message: Message) -> Outcome:
        style = self._styles.get(message.dialect)
        if style is None:
            return Outcome(error=f"{message.dialect} sends no webhooks", final=True)
        task = await self._patiently(lambda: self._read_task(message.task_id))
        if task is None:
            return Outcome(error="the task is gone", final=True)
        hook, hook_id = None, message.hook_id
        if hook_id is not None:
            hook = await self._patiently(lambda: self._hook_of(hook_id))
            if hook is None:
                return Outcome(error="the webhook was removed or turned off", final=True)
        letter = style.write(await self._event(message, task, hook))
        reply = await self._outbound.post(
            message.url,
            body=letter.body,
            headers=letter.headers,
            timeout_seconds=style.timeout_seconds,
        )
        return outcome_of(reply)

    async def _event(self, message: Message, task: Task, hook: Hook | None) -> Event:
        secrets_of = partial(self._secrets_of, message.account)
        return Event(
            message_id=message.id,
            task=task,
            secrets=(hook.secret,) if hook else await self._patiently(secrets_of),
            link=self._link_for(task),
            now_seconds=self._now_ms() // 1000,
            hook=hook,
            credit_usd=self._credit_usd,
        )

    async def _settle(self, message: Message, outcome: Outcome) -> None:
        again_ms = self._again_ms(message, outcome)
        settled = await self._outbox.settle(
            message,
            delivered=outcome.error is None,
            again_ms=again_ms,
            status=outcome.status,
            error=outcome.error,
        )
        failed = "failed" if again_ms is None else "postponed"
        became = failed if outcome.error else "delivered"
        if settled:
            self._tally.attempted(message.dialect, became)
        # Never the URL, whose query may hold a secret.
        log.info(
            f"webhook_{became}",
            message_id=message.id,
            task_id=message.task_id,
            origin=message.origin,
            attempt=message.attempts,
            status=outcome.status,
            reason=outcome.error,
        )

    def _again_ms(self, message: Message, outcome: Outcome) -> int | None:
        if outcome.error is None or outcome.final:
            return None
        schedule = self._styles[message.dialect].retry_seconds
        pause = pause_seconds(schedule, message.attempts, self._jitter)
        if pause is None:
            return None
        return self._now_ms() + int(1000 * max(pause, outcome.retry_after_seconds))

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """What `step` gives once the database can be used; raises Unavailable only at the end."""
        while True:
            try:
                return await step()
            except Unavailable as error:
                if self._closing:
                    raise
                log.warning("courier_waits", reason=str(error))
            await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)

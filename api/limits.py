"""How often a key may ask: the generic cell rate algorithm, in memory.

Each caller has a bucket that holds a minute's worth of requests and refills evenly. One number a
caller suffices: the moment at which its bucket would be full again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from api.errors import RateLimited

WINDOW_SECONDS = 60.0
# Above this many callers those whose buckets are full again are forgotten.
MAX_CALLERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a caller has left: `limit` a minute, `remaining` at once, full after `reset_seconds`."""

    limit: int
    remaining: int
    reset_seconds: float


class Limiter:
    """Used on the event loop only; a restart forgives."""

    def __init__(self, now_seconds: Callable[[], float] = time.monotonic) -> None:
        self._now_seconds = now_seconds
        self._full_at: dict[str, float] = {}

    def take(self, who: str, per_minute: int) -> Allowance:
        """Count one request of a caller; raises RateLimited, and then it is not counted.

        The error carries the allowance, so that its reply can tell it too.
        """
        now, each = self._now_seconds(), WINDOW_SECONDS / per_minute
        full_at = max(self._full_at.get(who, now), now) + each
        # a hair of slack: sums of floats must not cost anybody their last request
        if full_at - now > WINDOW_SECONDS + each * 1e-6:
            left = self._allowance(per_minute, full_at - each - now)
            raise TooOften(left, math.ceil(full_at - now - WINDOW_SECONDS))
        self._full_at[who] = full_at
        if len(self._full_at) > MAX_CALLERS:
            self._full_at = {who: at for who, at in self._full_at.items() if at > now}
        return self._allowance(per_minute, full_at - now)

    def _allowance(self, per_minute: int, debt_seconds: float) -> Allowance:
        left = (WINDOW_SECONDS - debt_seconds) * per_minute / WINDOW_SECONDS
        return Allowance(
            limit=per_minute,
            remaining=max(math.floor(left + 1e-6), 0),
            reset_seconds=debt_seconds,
        )


class TooOften(RateLimited):
    """A request beyond the limit, with what the caller has left."""

    def __init__(self, allowance: Allowance, wait_seconds: int) -> None:
        limit, wait = allowance.limit, max(wait_seconds, 1)
        super().__init__(
            f"more than {limit} requests a minute; come back in {wait} s",
            retry_after_seconds=wait,
        )
        self.allowance = allowance

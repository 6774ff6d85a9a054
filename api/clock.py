"""The time that outlives a process, and how it is written."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def wall_clock_ms() -> int:
    """Milliseconds since the epoch; leases outlive a process, so no monotonic clock will do."""
    return time.time_ns() // 1_000_000


def iso_utc(epoch_ms: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

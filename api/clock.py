"""The time that outlives a process."""

from __future__ import annotations

import time


def wall_clock_ms() -> int:
    """Milliseconds since the epoch; leases outlive a process, so no monotonic clock will do."""
    return time.time_ns() // 1_000_000

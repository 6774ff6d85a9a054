"""The ladder of the engine where memory really ends: torch's own allocator says no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process is Linux's")
def test_halves_then_each_alone_then_one_fails_and_the_next_pass() -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.inference.running_out"],
        cwd=root,
        # what is freed goes back at once, and is not kept for the next
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(ran.stderr.splitlines()[-1])
    four, huge, others = told["decoded"][:3], told["decoded"][3:-1], told["decoded"][-1]
    assert four == [[4, False], [2, True], [2, True]]
    # alone it is tried once more, with what was freed
    assert huge == [[1, False], [1, False]] and told["failed"] == {"huge-0": "OutOfMemory"}
    assert others[1] and told["made"] == 1 + 4 + 20

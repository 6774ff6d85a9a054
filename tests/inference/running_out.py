"""Run by its test in a process of its own: memory that really ends, and who gets a picture then.

Its last line is JSON: how many calls each decoding had and whether it came, and how jobs ended.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference import coalesce, selftest, skeletons, steps
from inference.events import Failed, ImageDone
from tests.inference.making import Bench, catalog_over, job

SIDE_PX = 512
ENTRY = {
    "family": "flux",
    "max_sequence_length": 16,
    "modes": ["generate"],
    "defaults": {"size": (SIDE_PX, SIDE_PX)},
    "limits": {"min_side": 64, "max_side": 2048},
}


def leave_bytes(size: int) -> None:
    """Let this process have so much more memory than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(folder: Path) -> dict[str, Any]:
    """Four pictures of which two fit at once, one that does not even alone, and twenty more."""
    skeletons.tiny_flux().save_pretrained(folder)
    bench = Bench(catalog_over({"flux": folder}, {"flux": ENTRY}), preview_side_px=0)
    selftest.MEASURED_SIZES, selftest.best_rows = 1, lambda costs: 4
    bench.submit(job("warm-up", width=SIDE_PX, height=SIDE_PX))
    bench.finish()
    found = bench.worker._residents._all["flux"].findings
    assert found is not None
    one_call, _ = found.working.operations["decoder"]
    decoded: list[tuple[int, bool]] = []

    def counted(calls: Sequence[coalesce.Call]) -> list[Any]:
        if type(calls[0].target.module).__name__ != "Decoder":
            return coalesce.forward(calls)
        decoded.append((len(calls), False))
        outputs = coalesce.forward(calls)
        decoded[-1] = (len(calls), True)
        return outputs

    vars(steps)["forward"] = counted
    leave_bytes(int(2.5 * one_call))
    bench.submit(job("four", width=SIDE_PX, height=SIDE_PX, seeds=(1, 2, 3, 4)))
    bench.finish()
    bench.submit(job("huge", width=4 * SIDE_PX, height=4 * SIDE_PX, num_inference_steps=1))
    bench.finish()
    bench.submit(job("next", seeds=tuple(range(20))))
    bench.finish()
    failed = {
        f"{one.job_id}-{one.index}": type(one.error).__name__
        for one in bench.seen.events
        if isinstance(one, Failed)
    }
    return {
        "decoded": decoded,
        "failed": failed,
        "made": sum(isinstance(one, ImageDone) for one in bench.seen.events),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.stderr.write(json.dumps(main(Path(place))) + "\n")

"""What the service around the engine costs: answers while it is busy, and pictures meanwhile.

Three questions, asked in interleaved rounds of one run. In each round the same batch of pictures is
made by the engine alone, through a quiet server, and through a server that a crowd polls and
submits to:

- How long do a submission and a poll take while the engine is saturated?
- How much slower are pictures made meanwhile, compared with the quiet server?
- What does a picture cost through the quiet server, compared with the engine alone: time, and
  processor time, which other programs on the machine disturb less?

    python -m benchmarks.frontdoor [--rounds 5] [--polls 50] [--submits 2]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, save
from benchmarks.server import ROOT, Client, Server

PROMPT = "a red circle on a blue background"
COUNT = 8
WISH = {"model": "tiny-flux", "prompt": PROMPT, "count": COUNT}
WARM_UP_IMAGES = 16
# The crowd leaves when this share of the batch is made: until then the engine is busy.
BUSY_SHARE = 0.75
START_SECONDS = 120
PATH = "/darkroom/generations"


class Crowd:
    """Clients that poll and submit at fixed rates, whether the answers come in time or not."""

    def __init__(self, port: int, known: list[str]) -> None:
        self.polls: list[float] = []
        self.submits: list[float] = []
        self._port = port
        self._known = known
        self._idle: list[Client] = []
        self._chance = random.Random(7)

    async def go(self, polls: float, submits: float) -> None:
        """Send requests at these rates a second until cancelled."""
        start, asking = time.perf_counter(), set()
        due = [(1 / polls, polls, self._poll), (1 / submits, submits, self._submit)]
        try:
            while True:
                moment, rate, ask = min(due, key=lambda one: one[0])
                due.remove((moment, rate, ask))
                due.append((moment + 1 / rate, rate, ask))
                await asyncio.sleep(max(0.0, start + moment - time.perf_counter()))
                asking.add(asyncio.create_task(ask()))
        finally:
            await asyncio.gather(*asking)

    async def close(self) -> None:
        for client in self._idle:
            await client.close()

    async def _poll(self) -> None:
        seconds, _ = await self._ask("GET", f"{PATH}/{self._chance.choice(self._known)}")
        self.polls.append(seconds)

    async def _submit(self) -> None:
        seconds, told = await self._ask("POST", PATH, WISH | {"count": 1})
        self.submits.append(seconds)
        self._known.append(told["id"])

    async def _ask(self, method: str, path: str, body: object = None) -> tuple[float, Any]:
        client = self._idle.pop() if self._idle else Client(self._port)
        answer = await client.ask(method, path, body)
        self._idle.append(client)
        return answer


@dataclass(frozen=True)
class Cost:
    """What a batch took, for each of its pictures."""

    seconds: float
    cpu_seconds: float


async def main(rounds: int, polls: float, submits: float, images: int) -> dict[str, Any]:
    """Start a server, measure, stop it; the figures."""
    alone: list[Cost] = []
    quiet: list[Cost] = []
    loaded: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            boss = Client(server.port)
            await _warm_up(server, boss)
            crowd = Crowd(server.port, [await _submit(boss, WISH)])
            for number in range(rounds):
                alone.append(_engine_alone(images))
                # Each goes first as often as second: what drifts meanwhile drifts for both.
                for is_loaded in (False, True) if number % 2 else (True, False):
                    going = crowd.go(polls, submits) if is_loaded else None
                    cost = await _through(server, boss, crowd, going, images)
                    (loaded if is_loaded else quiet).append(cost)
            await crowd.close()
            await boss.close()
        finally:
            server.stop()
    return {
        "rounds": rounds,
        "images_of_a_batch": images,
        "polls_per_second": polls,
        "submits_per_second": submits,
        "poll_ms": _spread(crowd.polls),
        "submit_ms": _spread(crowd.submits),
        "slowed": _more(loaded, quiet, "seconds"),
        "server_tax": _more(quiet, alone, "seconds"),
        "server_tax_cpu": _more(quiet, alone, "cpu_seconds"),
        "ms_per_image": {
            name: {
                "time": statistics.median(one.seconds for one in costs) * 1e3,
                "cpu": statistics.median(one.cpu_seconds for one in costs) * 1e3,
            }
            for name, costs in (("alone", alone), ("quiet", quiet), ("loaded", loaded))
        },
    }


def _more(costs: list[Cost], base: list[Cost], field: str) -> dict[str, Any]:
    """By how much each round cost more than the base of the same round, and their median."""
    pairs = zip(costs, base, strict=True)
    rounds = [getattr(one, field) / getattr(other, field) - 1 for one, other in pairs]
    return {"median": statistics.median(rounds), "rounds": rounds}


async def _warm_up(server: Server, boss: Client) -> None:
    deadline = time.perf_counter() + START_SECONDS
    while True:
        try:
            await boss.ask("GET", "/livez")
            break
        except OSError:
            if time.perf_counter() > deadline:
                raise
            await asyncio.sleep(0.1)
    for _ in range(WARM_UP_IMAGES // COUNT):
        await _submit(boss, WISH)
    await _finished(server)


async def _submit(boss: Client, wish: object) -> str:
    _, told = await boss.ask("POST", PATH, wish)
    return str(told["id"])


async def _finished(server: Server) -> None:
    while server.unfinished():
        await asyncio.sleep(0.01)


async def _through(
    server: Server,
    boss: Client,
    crowd: Crowd,
    going: Coroutine[Any, Any, None] | None,
    images: int,
) -> Cost:
    """A batch through the server, until everything that was asked meanwhile is stored too."""
    submitted, cpu_seconds, start = len(crowd.submits), server.cpu_seconds(), time.perf_counter()
    for _ in range(images // COUNT):
        await _submit(boss, WISH)
    if going is not None:
        crowding = asyncio.create_task(going)
        while server.unfinished() > (1 - BUSY_SHARE) * images:
            await asyncio.sleep(0.05)
        crowding.cancel()
        await asyncio.gather(crowding, return_exceptions=True)
    await _finished(server)
    made = images + len(crowd.submits) - submitted
    seconds, used = time.perf_counter() - start, server.cpu_seconds() - cpu_seconds
    return Cost(seconds / made, used / made)


def _engine_alone(images: int) -> Cost:
    """The same batch by the engine alone, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.frontdoor", "--engine-alone"]
    command += ["--images", str(images)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def engine_alone(images: int) -> tuple[float, float]:
    """Make the batch with an engine and nothing around it; its time and processor time, warm."""
    import threading

    from inference.catalog import load_catalog
    from inference.engine import Engine
    from inference.events import Event, Progress
    from inference.job import ImageRequest
    from inference.resolve import resolve
    from inference.settings import EngineSettings

    catalog = load_catalog(ROOT / "models.yaml")
    engine = Engine(catalog, EngineSettings())
    engine.start()
    left, done = [0], threading.Event()

    def emit(event: Event) -> None:
        if not isinstance(event, Progress):
            left[0] -= 1
            if not left[0]:
                done.set()

    request = ImageRequest(model="tiny-flux", prompt=PROMPT, count=COUNT)

    def make(images: int, name: str) -> tuple[float, float]:
        start, cpu, left[0] = time.perf_counter(), time.process_time(), images
        done.clear()
        for number in range(images // COUNT):
            job = resolve(catalog, request, job_id=f"{name}{number}")
            engine.submit(job, {}, emit)
        done.wait()
        return (time.perf_counter() - start) / images, (time.process_time() - cpu) / images

    make(WARM_UP_IMAGES, "warm")
    cost = make(images, "timed")
    engine.close()
    return cost


def _spread(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49] * 1e3, "p95": cuts[94] * 1e3, "p99": cuts[98] * 1e3}


def command_line() -> argparse.ArgumentParser:
    """What may be asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--polls", type=float, default=50, help="a second")
    parser.add_argument("--submits", type=float, default=2, help="a second")
    parser.add_argument("--images", type=int, default=160, help="of a batch")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--engine-alone", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    given = command_line().parse_args()
    if given.engine_alone:
        print(json.dumps(engine_alone(given.images)))
    else:
        figures = main(given.rounds, given.polls, given.submits, given.images)
        save("frontdoor", asyncio.run(figures), folder=given.results)

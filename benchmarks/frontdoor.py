"""What the service around the engine costs: answers while it is busy, and pictures meanwhile.

Three questions, asked in interleaved rounds of one run. In each round the same batch of pictures is
made by the engine alone, through a quiet server, and through one that a crowd polls and submits to;
by a server whose engine is a thread of it, and by one whose engine has a process of its own:

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
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
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
# Where the engine of a server is: in a thread of it, or in a process of its own.
ENGINES = {"thread": {}, "process": {"DARKROOM_DEVICE_PROCESSES": "true"}}


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


class Subject:
    """A server with its engine in one kind of place, and what its batches cost."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.quiet: list[Cost] = []
        self.loaded: list[Cost] = []
        self._server = Server(folder, environment)
        self._boss = Client(self._server.port)

    async def open(self) -> None:
        """Wait until it answers, and have it make its first pictures."""
        await _until_open(self._boss)
        known = [await self._submit() for _ in range(WARM_UP_IMAGES // COUNT)]
        self._crowd = Crowd(self._server.port, known)
        await self._finished()

    async def measure(self, images: int, going: tuple[float, float] | None) -> None:
        """A batch, until everything that was asked meanwhile is stored too.

        With a crowd `going` by so many polls and submissions a second.
        """
        server, submits = self._server, self._crowd.submits
        before, cpu_seconds, start = len(submits), server.cpu_seconds(), time.perf_counter()
        for _ in range(images // COUNT):
            await self._submit()
        if going is not None:
            crowding = asyncio.create_task(self._crowd.go(*going))
            while server.unfinished() > (1 - BUSY_SHARE) * images:
                await asyncio.sleep(0.05)
            crowding.cancel()
            await asyncio.gather(crowding, return_exceptions=True)
        await self._finished()
        made = images + len(submits) - before
        seconds, used = time.perf_counter() - start, server.cpu_seconds() - cpu_seconds
        costs = self.quiet if going is None else self.loaded
        costs.append(Cost(seconds / made, used / made))

    def figures(self, alone: list[Cost]) -> dict[str, Any]:
        """Its answers, and what its pictures cost beside those of an engine alone."""
        return {
            "poll_ms": _spread(self._crowd.polls),
            "submit_ms": _spread(self._crowd.submits),
            "slowed": _more(self.loaded, self.quiet, "seconds"),
            "server_tax": _more(self.quiet, alone, "seconds"),
            "server_tax_cpu": _more(self.quiet, alone, "cpu_seconds"),
            "ms_per_image": {
                "alone": _milliseconds(alone),
                "quiet": _milliseconds(self.quiet),
                "loaded": _milliseconds(self.loaded),
            },
        }

    async def close(self) -> None:
        await self._crowd.close()
        await self._boss.close()

    def stop(self) -> None:
        self._server.stop()

    async def _submit(self) -> str:
        _, told = await self._boss.ask("POST", PATH, WISH)
        return str(told["id"])

    async def _finished(self) -> None:
        while self._server.unfinished():
            await asyncio.sleep(0.01)


async def main(rounds: int, polls: float, submits: float, images: int) -> dict[str, Any]:
    """Start the servers, measure, stop them; the figures."""
    alone: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stop:
        subjects = {}
        for name, environment in ENGINES.items():
            own = Path(folder) / name
            own.mkdir()
            subjects[name] = Subject(own, environment)
            stop.callback(subjects[name].stop)
        for subject in subjects.values():
            await subject.open()
        for number in range(rounds):
            alone.append(_engine_alone(images))
            # Each goes first as often as last: what drifts meanwhile drifts for all.
            turns = list(product(subjects.values(), (None, (polls, submits))))
            for subject, going in turns if number % 2 else reversed(turns):
                await subject.measure(images, going)
        for subject in subjects.values():
            await subject.close()
    return {
        "rounds": rounds,
        "images_of_a_batch": images,
        "polls_per_second": polls,
        "submits_per_second": submits,
        "engine_in": {name: subject.figures(alone) for name, subject in subjects.items()},
    }


def _more(costs: list[Cost], base: list[Cost], field: str) -> dict[str, Any]:
    """By how much each round cost more than the base of the same round, and their median."""
    pairs = zip(costs, base, strict=True)
    rounds = [getattr(one, field) / getattr(other, field) - 1 for one, other in pairs]
    return {"median": statistics.median(rounds), "rounds": rounds}


def _milliseconds(costs: list[Cost]) -> dict[str, float]:
    return {
        "time": statistics.median(one.seconds for one in costs) * 1e3,
        "cpu": statistics.median(one.cpu_seconds for one in costs) * 1e3,
    }


async def _until_open(boss: Client) -> None:
    deadline = time.perf_counter() + START_SECONDS
    while True:
        try:
            await boss.ask("GET", "/livez")
            return
        except OSError:
            if time.perf_counter() > deadline:
                raise
            await asyncio.sleep(0.1)


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

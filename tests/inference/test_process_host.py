"""A device in a process of its own: the same answers, and an end or a hang that ends alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from inference.catalog import Catalog
from inference.engine import Engine
from inference.errors import ModelFailed
from inference.events import Cancelled, Event, Failed, ImageDone, Progress
from inference.hosts.base import Cancel, Close, Host, Manage, Submit
from inference.hosts.process import ProcessHost
from inference.hosts.thread import ThreadHost
from inference.job import Job, Mode
from inference.running import nobody_looks
from inference.settings import EngineSettings
from inference.status import ModelAction, ModelState
from inference.worker import Worker
from tests.inference.making import PICTURES, Recorder, job

OWN = EngineSettings(devices=("cpu",), device_processes=True)


class Outcomes(Recorder):
    """A recorder that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._news:
            super().__call__(event)
            self._news.notify_all()

    def until(self, holds: Callable[[], bool], seconds: float = 90) -> None:
        with self._news:
            assert self._news.wait_for(holds, seconds), "nothing came"

    def ends(self) -> int:
        return sum(not isinstance(event, Progress) for event in self.events)

    def all_ended(self, images: int) -> None:
        self.until(lambda: self.ends() == images)


def until(holds: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def children_of(pid: int) -> set[int]:
    """The processes of devices that another has started and that are there."""
    found = set()
    for one in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):
            if any("inference.hosts.child" in word for word in one.cmdline()):
                found.add(one.pid)
    return found


def children() -> set[int]:
    """Those of this one."""
    return children_of(os.getpid())


def child() -> int:
    (found,) = children()
    return found


class Clock:
    """Tells the time, and may be put forward."""

    ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_seconds


CLOCK = Clock()


@pytest.fixture(scope="module")
def host(catalog: Catalog) -> Iterator[ProcessHost]:
    host = ProcessHost("cpu", catalog, OWN, CLOCK)
    host.start()
    yield host
    host.send(Close(time.monotonic()))
    host.join(60)
    assert not children()


def hand(
    host: Host, wanted: Job, seen: Outcomes, previews: Callable[[], bool] = nobody_looks
) -> None:
    host.send(Submit(wanted, PICTURES, seen, tuple(range(len(wanted.seeds))), previews))


def state_of(host: Host, name: str) -> ModelState:
    (found,) = (one for one in host.status().models if one.name == name)
    return found.state


def test_it_does_what_a_thread_does(host: ProcessHost, catalog: Catalog) -> None:
    thread = ThreadHost(Worker("cpu", catalog, OWN))
    thread.start()
    expected, seen = Outcomes(), Outcomes()
    for one, recorder in ((thread, expected), (host, seen)):
        hand(one, job("a", mode=Mode.INPAINT, seeds=(1, 2)), recorder)
        hand(one, job("b", model="nothing"), recorder)
        recorder.all_ended(3)
    thread.send(Close(time.monotonic()))
    assert thread.join(60)

    for index in (0, 1):
        assert seen.picture("a", index).tobytes() == expected.picture("a", index).tobytes()
    failures = [one.outcome("b") for one in (seen, expected)]
    assert all(isinstance(one, Failed) and type(one.error) is ModelFailed for one in failures)
    assert len({str(one.error) for one in failures if isinstance(one, Failed)}) == 1
    assert [event.step for event in seen.progress("a")] == [
        event.step for event in expected.progress("a")
    ]
    assert state_of(host, "flux") is ModelState.READY
    assert host.status().alive and host.status().running_images == 0


def test_previews_come_while_somebody_looks(host: ProcessHost) -> None:
    looks, seen = threading.Event(), Outcomes()
    hand(host, job("a", num_inference_steps=5000), seen, looks.is_set)
    seen.until(lambda: len(seen.progress("a")) > 5)
    assert not any(event.preview for event in seen.progress("a"))
    looks.set()
    seen.until(lambda: any(event.preview for event in seen.progress("a")))

    looks.clear()
    told = len(seen.progress("a"))
    seen.until(lambda: len(seen.progress("a")) > told + 20)
    late = seen.progress("a")[told + 20 :]
    seen.until(lambda: len(seen.progress("a")) > told + 40)
    assert not any(event.preview for event in late)
    host.send(Cancel("a"))
    seen.all_ended(1)
    assert isinstance(seen.outcome("a"), Cancelled)


def test_one_that_is_killed_is_started_again_and_its_pictures_are_cancelled(
    host: ProcessHost,
) -> None:
    seen, killed, restarts = Outcomes(), child(), host.status().restarts
    host.send(Manage("sdxl", ModelAction.LOAD))
    hand(host, job("a", num_inference_steps=5000, seeds=(1, 2)), seen)
    seen.until(lambda: any(event.step > 1 for event in seen.progress("a")))

    os.kill(killed, signal.SIGKILL)

    seen.all_ended(2)
    assert all(isinstance(seen.outcome("a", index), Cancelled) for index in (0, 1))
    assert host.status().alive
    hand(host, job("b"), seen)
    seen.all_ended(3)
    assert seen.picture("b")
    assert child() != killed
    assert host.status().restarts == restarts + 1
    # what an operator wanted holds for the next process, too
    until(lambda: state_of(host, "sdxl") is ModelState.READY)


def test_one_that_hangs_is_started_again(host: ProcessHost) -> None:
    seen = Outcomes()
    hand(host, job("a", num_inference_steps=5000), seen)
    seen.until(lambda: any(event.step > 1 for event in seen.progress("a")))
    hanging = child()
    os.kill(hanging, signal.SIGSTOP)
    # what it said before is heard first
    until(lambda: host.status().idle_seconds > 2)
    assert child() == hanging
    CLOCK.ahead_seconds += OWN.worker_restart_seconds

    seen.all_ended(1)
    assert isinstance(seen.outcome("a"), Cancelled)
    hand(host, job("b"), seen)
    seen.all_ended(2)
    assert seen.picture("b")
    assert child() != hanging


def test_an_engine_closes_its_processes_when_they_have_finished(catalog: Catalog) -> None:
    before = children()
    engine, seen = Engine(catalog, OWN), Outcomes()
    engine.start()
    engine.submit(job("a", num_inference_steps=10), {}, seen)
    engine.close(90)
    assert isinstance(seen.outcome("a"), ImageDone)
    assert not engine.status().devices[0].alive
    assert children() == before


def test_closing_before_it_has_begun_answers_everybody(catalog: Catalog) -> None:
    before = children()
    host, seen = ProcessHost("cpu", catalog, OWN), Outcomes()
    host.start()
    hand(host, job("a", num_inference_steps=5000, seeds=(1, 2)), seen)
    host.send(Close(time.monotonic()))
    assert not host.join(0)
    assert [type(event) for event in seen.events] == [Cancelled, Cancelled]
    assert children() == before


def test_one_that_ends_again_and_again_is_given_up(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.hosts.process._MAX_ENDS", 2)
    host = ProcessHost("cpu", catalog, replace(OWN, prepare_process=exit_at_once))
    seen = Outcomes()
    host.start()
    hand(host, job("a"), seen)
    until(lambda: host.ended)
    hand(host, job("b"), seen)
    seen.all_ended(2)
    assert all(isinstance(seen.outcome(name), Cancelled) for name in ("a", "b"))
    assert not host.status().alive
    host.send(Close(0.0))
    assert host.join(10)


# What a new process finds by its name, and what does not come back from there.
exit_at_once = sys.exit

STARTER = """
import sys, time
from pathlib import Path
from inference.catalog import load_catalog
from inference.engine import Engine
from inference.settings import EngineSettings

engine = Engine(load_catalog(Path(sys.argv[1])), EngineSettings(
    devices=("cpu",), device_processes=True))
engine.start()
while not engine.status().devices[0].memory_bytes:
    time.sleep(0.1)
print("up", flush=True)
time.sleep(600)
"""


def test_it_goes_with_who_started_it(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    starter = subprocess.Popen(
        [sys.executable, str(script), str(root / "models.yaml")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert starter.stdout is not None
    with starter.stdout:
        assert any(line == "up\n" for line in starter.stdout)
        (left,) = children_of(starter.pid)
        starter.kill()
        starter.wait(30)
    until(lambda: not Path(f"/proc/{left}").exists())

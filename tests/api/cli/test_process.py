"""Commands as processes: signals, a server that drains, a picture from real weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
# `darkroom` over an engine that needs no torch and takes as long as it is told.
SCRIPTED = """
import sys
sys.path.insert(0, {root!r})
import api.build
from tests.api.scripted import ScriptedEngine
engine = ScriptedEngine(picture_seconds={seconds})
engine.fails = lambda job, index: {fails}
{setup}
api.build.build_engine = lambda *_: engine
from api.cli.commands import main
main()
"""
# Threads that a library left, such as those that wait for a compiler.
BUSY_THREADS = """
import concurrent.futures, threading, time
begin = engine.start
def start():
    threading.Thread(target=time.sleep, args=(600,)).start()
    concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 600)
    begin()
engine.start = start
"""
# An engine that does not get as far as its first device.
ENDLESS_START = "import time; engine.start = lambda: time.sleep(600)"
ENDLESS_ENCODING = "import time, api.keeping; api.keeping.encode_as = lambda *_: time.sleep(600)"
ENDLESS_CLOSE = "import time; engine.close = lambda **_: time.sleep(600)"
# An engine that is held until there is a file called `go`.
HELD = """
import pathlib, threading, time
def until_told():
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
"""
HELD_PICTURES = (
    HELD
    + """
engine.gate.clear()
threading.Thread(target=lambda: (until_told(), engine.gate.set()), daemon=True).start()
"""
)
NO_DEVICE = (
    HELD
    + """
from inference.errors import DeviceMissing
def start():
    until_told()
    raise DeviceMissing("there is no cuda:7 here, only cpu")
engine.start = start
"""
)

# Each starts processes that import a web framework; on a loaded machine that takes its time.
pytestmark = pytest.mark.timeout(300)

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start a `darkroom` whose pictures take some seconds each; it is gone after the test."""
    started = []

    def start(
        *arguments: object, seconds: float = 0.0, fails: str = "None", setup: str = ""
    ) -> subprocess.Popen[str]:
        script = SCRIPTED.format(root=str(ROOT), seconds=seconds, fails=fails, setup=setup)
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def greeting(process: subprocess.Popen[str]) -> tuple[str, str]:
    """A server's URL and the command it suggests, as soon as it has printed them."""
    assert process.stdout is not None
    url = ""
    for line in process.stdout:
        if line.startswith("Darkroom listens on "):
            url = line.split()[3].rstrip(",")
        if line.strip().startswith("curl "):
            return url, line.strip()
    raise AssertionError(process.communicate())


def ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=90) as reply:
        told: dict[str, Any] = json.load(reply)
        return told


def until_said(process: subprocess.Popen[str], text: str) -> None:
    """Read what a process says until it has said this."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError(f"it never said {text!r} but {said}")


def until_running(url: str, task_id: str) -> None:
    deadline = time.monotonic() + 60
    while ask(f"{url}/darkroom/generations/{task_id}")["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def until_working(url: str) -> None:
    """Wait until the engine has a picture, which is a moment after its task runs."""
    deadline = time.monotonic() + 60
    while not ask(f"{url}/darkroom/devices")["devices"][0]["running_images"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_suggested_command_works_pasted_as_it_is(spawn: Spawn) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    url, command = greeting(spawn("serve", "--port", 0))
    pasted = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    told = ask(f"{url}/darkroom/generations/{json.loads(pasted.stdout)['id']}?wait=60")
    assert told["state"] == "succeeded"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_picture_be_finished(
    spawn: Spawn, how: signal.Signals, tmp_path: Path
) -> None:
    server = spawn("serve", "--port", 0, setup=HELD_PICTURES)
    url, _ = greeting(server)
    client = spawn("generate", "b", "--server", url, "-o", "waited.png")
    until_working(url)
    server.send_signal(how)
    until_said(server, "press Ctrl-C again to stop now")
    (tmp_path / "go").touch()
    out, err = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "Traceback" not in out + err
    said, told = client.communicate(timeout=60)
    assert "waited.png" in said, told


def test_without_a_device_it_leaves_what_is_to_do_to_the_next_start(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # this engine lets go of nothing that it was given
    monkeypatch.setenv("DARKROOM_DRAIN_SECONDS", "0.5")
    server = spawn("serve", "--port", 0, fails="sys.exit()")
    url, _ = greeting(server)
    task = ask(f"{url}/darkroom/generations", {"prompt": "a", "seed": 5})
    _, err = server.communicate(timeout=60)
    assert server.returncode == 1
    assert "no device works any more" in err
    url, _ = greeting(spawn("serve", "--port", 0))
    told = ask(f"{url}/darkroom/generations/{task['id']}?wait=60")
    assert (told["state"], told["images"][0]["seed"]) == ("succeeded", 5)


def test_the_second_ctrl_c_leaves_at_once_and_the_next_start_goes_on(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_DRAIN_SECONDS", "600")
    server = spawn("serve", "--port", 0, seconds=600)
    url, _ = greeting(server)
    task = ask(f"{url}/darkroom/generations", {"prompt": "a", "seed": 5})
    until_working(url)
    server.send_signal(signal.SIGINT)
    until_said(server, "press Ctrl-C again to stop now")
    time.sleep(0.5)
    assert server.poll() is None
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=60)
    assert server.returncode == 130
    url, _ = greeting(spawn("serve", "--port", 0))
    told = ask(f"{url}/darkroom/generations/{task['id']}?wait=60")
    assert (told["state"], told["seeds"]) == ("succeeded", [5])


@pytest.mark.parametrize("setup", [BUSY_THREADS, ENDLESS_START, ENDLESS_ENCODING])
def test_it_waits_for_no_thread_and_the_next_start_goes_on(
    spawn: Spawn, setup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_DRAIN_SECONDS", "0.5")
    server = spawn("serve", "--port", 0, setup=f"{setup}\nengine.gate.clear()")
    url, _ = greeting(server)
    task = ask(f"{url}/darkroom/generations", {"prompt": "a", "seed": 5})
    if setup != ENDLESS_START:
        until_running(url, task["id"])
    server.send_signal(signal.SIGINT)
    _, err = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "Traceback" not in err and "stopped" in err
    url, _ = greeting(spawn("serve", "--port", 0))
    told = ask(f"{url}/darkroom/generations/{task['id']}?wait=60")
    assert (told["state"], told["seeds"]) == ("succeeded", [5])


def test_the_second_ctrl_c_leaves_while_the_engine_is_closed(spawn: Spawn) -> None:
    server = spawn("serve", "--port", 0, setup=ENDLESS_CLOSE)
    greeting(server)
    server.send_signal(signal.SIGINT)
    until_said(server, "stopping")
    time.sleep(1.0)
    assert server.poll() is None
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=60)
    assert server.returncode == 130


def test_a_device_that_is_not_there_ends_the_server_and_keeps_its_tasks(
    spawn: Spawn, tmp_path: Path
) -> None:
    server = spawn("serve", "--port", 0, setup=NO_DEVICE)
    url, _ = greeting(server)
    task = ask(f"{url}/darkroom/generations", {"prompt": "a", "seed": 5})
    (tmp_path / "go").touch()
    _, err = server.communicate(timeout=60)
    assert server.returncode == 1
    last = "darkroom: DARKROOM_DEVICES: there is no cuda:7 here, only cpu"
    assert err.splitlines()[-1] == last
    assert "Traceback" not in err
    client = spawn("generate", "a", setup=NO_DEVICE)
    _, err = client.communicate(timeout=60)
    assert (client.returncode, err.splitlines()[-1]) == (1, last)
    url, _ = greeting(spawn("serve", "--port", 0))
    assert ask(f"{url}/darkroom/generations/{task['id']}?wait=60")["state"] == "succeeded"


def test_a_folder_in_use_is_told_in_a_line(spawn: Spawn) -> None:
    greeting(spawn("serve", "--port", 0))
    second = spawn("serve", "--port", 0)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert err.splitlines()[-1].startswith("darkroom: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["serve --port 0", "keys list"])
def test_a_database_that_is_away_may_be_tried_again(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    pytest.importorskip("asyncpg")
    with socket.socket() as taken:
        # bound and not listening, so that nobody else gets it
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("DARKROOM_DATABASE_URL", f"postgresql://u:canary@127.0.0.1:{port}/d")
        process = spawn(*command.split())
        out, err = process.communicate(timeout=60)
    last = err.splitlines()[-1]
    assert last.startswith("darkroom: the PostgreSQL database of DARKROOM_DATABASE_URL cannot be")
    assert (process.returncode, "Traceback" in err, "canary" in out + err) == (1, False, False)


def test_ctrl_c_cancels_what_was_asked_of_a_server(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it follows its task, which says so where another is before it."""
    monkeypatch.setenv("DARKROOM_IMAGES_IN_FLIGHT", "1")
    url, _ = greeting(spawn("serve", "--port", 0, setup="engine.gate.clear()"))
    before = ask(f"{url}/darkroom/generations", {"prompt": "before"})
    client = spawn("generate", "a", "--server", url)
    until_said(client, "in the queue")
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=60)
    assert (client.returncode, err.splitlines()[-1]) == (130, "cancelled")
    newest, oldest = ask(f"{url}/darkroom/generations")["generations"]
    assert (newest["prompt"], newest["state"]) == ("a", "cancelled")
    assert (oldest["id"], oldest["cancel_requested"]) == (before["id"], False)


def test_ctrl_c_ends_an_engine_of_its_own(spawn: Spawn) -> None:
    client = spawn("generate", "a", "--server", "http://127.0.0.1:1")
    assert client.wait(timeout=60) == 2
    client = spawn("generate", "a", setup="engine.gate.clear()")
    assert client.stderr is not None
    assert client.stderr.readline() == "loading tiny-flux\n"
    time.sleep(1.0)
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=60)
    assert (client.returncode, err) == (130, "cancelled\n")

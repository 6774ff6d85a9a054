"""Kill the server at random moments: nothing accepted is lost, nothing is made up.

`KILL_SEED` replays a run's choices, `KILLS` sets how many kills it takes.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import sqlite3
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.api.killing import ORDER, Client, Order, Server, call

MODELS = """
models:
  tiny:
    family: flux
    source: {source}
    dtype: float32
    max_sequence_length: 16
    sizes: [64x64]
    defaults: {{num_inference_steps: 3, guidance_scale: 1}}
"""
CLIENTS = 4


def say(text: str) -> None:
    """Seen when the test fails, or under -s."""
    sys.stderr.write(f"{text}\n")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models.yaml with one small model of random weights."""
    from inference import skeletons

    folder = tmp_path_factory.mktemp("kill")
    skeletons.tiny_flux().save_pretrained(folder / "tiny")
    path = folder / "models.yaml"
    path.write_text(MODELS.format(source=folder / "tiny"))
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_accepted_is_lost(tmp_path: Path, models: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(2**32)))
    kills = int(os.environ.get("KILLS", 30))
    say(f"KILL_SEED={seed} KILLS={kills}")
    chance = random.Random(seed)
    with Server(tmp_path, models, max_attempts=1000, log_level="warning") as server:
        states = kill_and_check(server, chance, kills)
    assert states["succeeded"] > kills // 2, "too little was made for the kills to mean anything"


def kill_and_check(server: Server, chance: random.Random, kills: int) -> Counter[str]:
    """The whole story with one server; how many tasks ended in which state."""
    clients = [Client(server.url, chance.randrange(2**32)) for _ in range(CLIENTS)]
    starts = [server.start()]
    for client in clients:
        client.start()
    for _ in range(kills):
        live_a_while(clients, chance)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        starts.append(server.start())
    for client in clients:
        client.leaving.set()
        client.join()
        assert client.broke is None, client.broke
    orders = [order for client in clients for order in client.orders]
    finish(server.url, orders)
    states = Counter(order.states[-1] for order in orders)
    say(f"{len(orders)} accepted: {dict(states)}; slowest start {max(starts):.1f} s")
    for order in orders:
        check(server.url, order)
    check_listing(server.url, orders)
    assert server.end(signal.SIGTERM) == 0
    check_files(server.data_dir, orders)
    return states


def live_a_while(clients: list[Client], chance: random.Random) -> None:
    """Half of the lives end early, while starting; the others end after something was made."""
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, 2.5))
        return
    ended = sum(order.ended for client in clients for order in client.orders)
    deadline = time.monotonic() + 25
    while time.monotonic() < deadline:
        if sum(order.ended for client in clients for order in client.orders) > ended:
            break
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 0.8))


def finish(url: str, orders: list[Order]) -> None:
    """Read every task until it has ended."""
    deadline = time.monotonic() + 120
    for order in orders:
        while not order.ended:
            assert time.monotonic() < deadline, f"{order} does not end"
            answer = call(url, "GET", f"/darkroom/generations/{order.id}?wait=5")
            order.states.append(answer["state"])


def check(url: str, order: Order) -> None:
    """What one client saw, and what it gets in the end."""
    seen = [ORDER[state] for state in order.states]
    assert seen == sorted(seen), f"{order} went backwards"
    wanted = {"succeeded", "cancelled"} if order.cancel_sent else {"succeeded"}
    assert order.states[-1] in wanted, order
    task = call(url, "GET", f"/darkroom/generations/{order.id}")
    assert task["seeds"] == [order.seed + number for number in range(order.count)]
    indexes = [image["index"] for image in task["images"]]
    if order.states[-1] == "succeeded":
        assert indexes == list(range(order.count)), order
    assert len(indexes) == len(set(indexes))
    for image in task["images"]:
        with urllib.request.urlopen(url + image["url"], timeout=10) as response:
            data = response.read()
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        assert len(data) == image["size_bytes"]
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.size == (64, 64)
            assert f"Seed: {order.seed + image['index']}," in picture.info["parameters"]


def check_listing(url: str, orders: list[Order]) -> None:
    """Every accepted task is listed exactly once."""
    listed: list[str] = []
    cursor = ""
    while True:
        page = call(url, "GET", f"/darkroom/generations?limit=100{cursor}")
        listed += [task["id"] for task in page["generations"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(listed) == len(set(listed))
    # The others were accepted as the server died, and their clients never heard of it.
    assert {order.id for order in orders} <= set(listed)


def check_files(data_dir: Path, orders: list[Order]) -> None:
    """The database is whole, and every row's file is there."""
    database = sqlite3.connect(data_dir / "darkroom.db")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    unfinished = "SELECT count(*) FROM tasks WHERE state IN ('queued', 'running')"
    heard = {order.id for order in orders}
    rows = database.execute("SELECT task_id, key, size_bytes FROM outputs").fetchall()
    for task_id, key, size_bytes in rows:
        assert (data_dir / "objects" / key).stat().st_size == size_bytes, task_id
    attempts = database.execute("SELECT id, attempt FROM tasks").fetchall()
    again = sum(attempt > 1 for task_id, attempt in attempts if task_id in heard)
    (left,) = database.execute(unfinished).fetchone()
    say(f"{len(rows)} pictures; {again} tasks took more than one attempt; {left} unheard-of left")
    assert again > 0, "no kill hit a running task"
    database.close()

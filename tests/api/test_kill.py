"""Kill the server at random moments: nothing accepted is lost, nothing is made up.

`KILL_SEED` replays a run's choices, `KILLS` sets how many kills it takes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from standardwebhooks import Webhook

from tests.api.killing import ORDER, Client, Ear, Order, Server, call
from tests.api.postgres import Cluster, rows

MODELS = """
models:
  tiny:
    family: flux
    source: {source}
    dtype: float32
    max_sequence_length: 16
    sizes: [64x64]
    defaults: {{num_inference_steps: 3, guidance_scale: 1}}
    price: 5
"""
CLIENTS = 4
PRICE = 5
Read = Callable[[str], list[tuple[Any, ...]]]
LAST = ("succeeded", "failed", "cancelled")


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


SETTINGS = {"max_attempts": 1000, "log_level": "warning", "allowed_targets": "127.0.0.1"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_accepted_is_lost(tmp_path: Path, models: Path) -> None:
    chance, kills = chances(30)
    path = tmp_path / "data" / "darkroom.db"
    with Ear() as ear, Server(tmp_path, models, **SETTINGS) as server:
        states = kill_and_check([server], ear, chance, kills, lambda sql: rows_in(path, sql))
    assert rows_in(path, "PRAGMA integrity_check") == [("ok",)]
    assert states["succeeded"] > kills // 2, "too little was made for the kills to mean anything"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_servers_on_one_database_lose_nothing(
    tmp_path: Path, models: Path, cluster: Cluster
) -> None:
    """Each is killed now and then while the other goes on; leases are short."""
    chance, kills = chances(12)
    url = cluster.emptied()
    settings = SETTINGS | {"database_url": url, "lease_seconds": 1.5, "heartbeat_seconds": 0.3}
    with (
        Ear() as ear,
        Server(tmp_path, models, "one", **settings) as one,
        Server(tmp_path, models, "two", **settings) as two,
    ):
        states = kill_and_check([one, two], ear, chance, kills, lambda sql: rows(url, sql))
    assert states["succeeded"] > kills // 2, "too little was made for the kills to mean anything"


def chances(kills: int) -> tuple[random.Random, int]:
    """What is drawn from, and how many kills there are to be."""
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(2**32)))
    kills = int(os.environ.get("KILLS", kills))
    say(f"KILL_SEED={seed} KILLS={kills}")
    return random.Random(seed), kills


def rows_in(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(statement).fetchall()


def kill_and_check(
    servers: list[Server], ear: Ear, chance: random.Random, kills: int, read: Read
) -> Counter[str]:
    """The whole story; how many tasks ended in which state."""
    urls = [server.url for server in servers]
    clients = [Client(urls, chance.randrange(2**32), webhook=ear.url) for _ in range(CLIENTS)]
    starts = [server.start() for server in servers]
    for client in clients:
        client.start()
    for _ in range(kills):
        live_a_while(clients, chance)
        server = chance.choice(servers)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        starts.append(server.start())
    for client in clients:
        client.leaving.set()
        client.join()
        assert client.broke is None, client.broke
        while client.unanswered is not None:
            client.submit(client.unanswered)
    orders = [order for client in clients for order in client.orders]
    finish(urls[0], orders)
    states = Counter(order.states[-1] for order in orders)
    say(f"{len(orders)} accepted: {dict(states)}; slowest start {max(starts):.1f} s")
    for order in orders:
        check(chance.choice(urls), order)
    check_listing(urls[-1], orders)
    everybody_told(ear, orders)
    assert [server.end(signal.SIGTERM) for server in servers] == [0] * len(servers)
    repeated = sum(client.repeated for client in clients)
    check_files(servers[0].data_dir, read)
    check_ledger(read, orders)
    check_messages(read, ear, orders)
    say(f"{repeated} submissions were sent again; {len(ear.heard)} webhooks came")
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


def asked(url: str, path: str) -> Any:
    """What a server that nobody kills any more says."""
    answer = call(url, "GET", path, patience_seconds=60)
    assert answer is not None, f"{path} is not answered"
    return answer


def finish(url: str, orders: list[Order]) -> None:
    """Read every task until it has ended."""
    deadline = time.monotonic() + 120
    for order in orders:
        while not order.ended:
            assert time.monotonic() < deadline, f"{order} does not end"
            answer = asked(url, f"/darkroom/generations/{order.id}?wait=5")
            order.states.append(answer["state"])


def check(url: str, order: Order) -> None:
    """What one client saw, and what it gets in the end."""
    seen = [ORDER[state] for state in order.states]
    assert seen == sorted(seen), f"{order} went backwards"
    wanted = {"succeeded", "cancelled"} if order.cancel_sent else {"succeeded"}
    assert order.states[-1] in wanted, order
    task = asked(url, f"/darkroom/generations/{order.id}")
    assert task["seeds"] == [order.seed + number for number in range(order.count)]
    indexes = [image["index"] for image in task["images"]]
    if order.states[-1] == "succeeded":
        assert indexes == list(range(order.count)), order
    assert len(indexes) == len(set(indexes))
    for image in task["images"]:
        with urllib.request.urlopen(url + image["url"], timeout=60) as response:
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
        page = asked(url, f"/darkroom/generations?limit=100{cursor}")
        listed += [task["id"] for task in page["generations"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    # Whoever was not answered asked again, so that nothing was accepted unheard or twice.
    assert sorted(listed) == sorted(order.id for order in orders)


def check_files(data_dir: Path, read: Read) -> None:
    """Every row's file is there."""
    made = read("SELECT task_id, key, size_bytes FROM outputs")
    for task_id, key, size_bytes in made:
        assert (data_dir / "objects" / key).stat().st_size == size_bytes, task_id
    again = len(read("SELECT id FROM tasks WHERE attempt > 1"))
    say(f"{len(made)} pictures; {again} tasks took more than one attempt")
    assert again > 0, "no kill hit a running task"


def check_ledger(read: Read, orders: list[Order]) -> None:
    """Every task is charged once, for what was made of it before it was cancelled if it was."""
    made = Counter(task_id for (task_id,) in read("SELECT task_id FROM outputs"))
    lines = read("SELECT task_id, kind, amount, held FROM ledger")
    kinds: dict[str, set[str]] = {order.id: set() for order in orders}
    for task_id, kind, _, _ in lines:
        assert kind not in kinds[task_id], f"{task_id} has two lines of {kind}"
        kinds[task_id].add(kind)
    for order in orders:
        if made[order.id] == order.count:
            assert kinds[order.id] == {"hold", "charge"}, order
        else:
            assert kinds[order.id] in ({"hold", "release"}, {"hold", "charge", "refund"}), order
    ((balance, held),) = read("SELECT balance, held FROM accounts WHERE name = ''")
    assert balance == sum(amount for _, _, amount, _ in lines)
    assert held == sum(moved for _, _, _, moved in lines) == 0
    assert balance == -PRICE * made.total()


def everybody_told(ear: Ear, orders: list[Order]) -> None:
    """Wait until the end of every task has come by webhook."""
    # one that was out with a server that was killed is told again after two minutes
    deadline = time.monotonic() + 180
    accepted = {order.id for order in orders}
    while accepted - {json.loads(body)["data"]["id"] for _, body in ear.heard}:
        assert time.monotonic() < deadline, "a webhook does not come"
        time.sleep(0.1)


def check_messages(read: Read, ear: Ear, orders: list[Order]) -> None:
    """Each end was told under one id, signed, and as it stays."""
    ((secret,),) = read("SELECT webhook_secret FROM accounts WHERE name = ''")
    last = {order.id: order.states[-1] for order in orders}
    ids: dict[str, set[str]] = {}
    for headers, body in ear.heard:
        # Not `verify`: it minds the age too, and a run takes longer than that.
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        signed = Webhook(secret).sign(headers["webhook-id"], at, body.decode())
        assert headers["webhook-signature"] == signed
        told = json.loads(body)
        assert told["type"] == f"generation.{last[told['data']['id']]}"
        assert told["data"]["state"] in LAST
        ids.setdefault(told["data"]["id"], set()).add(headers["webhook-id"])
    assert all(len(one) == 1 for one in ids.values())
    states = read("SELECT state FROM outbox")
    assert len(states) == len(orders)
    assert set(states) <= {("delivered",), ("waiting",)}, "each was answered with 200"

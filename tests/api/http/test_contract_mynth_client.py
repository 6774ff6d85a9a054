"""A client that polls as Mynth's own does, its schedule sped up, from creation to picture.

`R` in an id is the provider's published client, whose steps are followed here: a token polls the
status, a key takes over where the token is refused, and the key loads the task.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel, ConfigDict

from inference.demo.judge import judge
from inference.demo.scenes import Scene
from inference.errors import PipelineFailed
from tests.api.http.keyed import folder as folder
from tests.api.http.keyed import server as server
from tests.api.http.mynth import opened, png, uploaded
from tests.api.http.served import Served, bearer, make_key, serving, until

FAST_SECONDS, FAST_PAUSE_SECONDS, SLOW_PAUSE_SECONDS = 12.0, 2.5, 5.0
JITTER_SECONDS, TIMEOUT_SECONDS, MOST_RETRIES = 0.5, 300.0, 7


class Strict(BaseModel):
    """What the client's own validation asks for: every field there, of its type."""

    model_config = ConfigDict(strict=True)


class WholeTask(Strict):
    id: str
    type: str
    status: str
    userId: str
    apiKeyId: str | None
    cost: str | None
    request: dict[str, Any]
    result: dict[str, Any] | None
    createdAt: str
    updatedAt: str


class Unauthorized(Exception):
    """Neither the token nor the key was taken."""


class Failed(Exception):
    """The task has failed."""


class TimedOut(Exception):
    """It took too long."""


class Unreachable(Exception):
    """Too many polls in a row went wrong."""


@dataclass
class Client:
    """One caller; `statuses` are those of its polls.

    `speed` is how many seconds of the schedule pass in each second of its pauses. How long a poll
    takes does not count: this machine may be slow, and the schedule is not.
    """

    base_url: str
    key: str
    speed: float = 50.0
    timeout_seconds: float = 50 * 60
    statuses: list[int] = field(default_factory=list)
    tokens_used: list[bool] = field(default_factory=list)

    def generate(self, **fields: Any) -> dict[str, Any]:
        reply = httpx2.post(
            f"{self.base_url}/image/generate", json=fields, headers=bearer(self.key), timeout=60
        )
        if reply.status_code != 201:
            body = reply.json()
            raise ValueError(body.get("error") or body["message"], body["code"])
        told: dict[str, Any] = reply.json()["data"]
        return told

    def wait(self, told: dict[str, Any]) -> WholeTask:
        token = told.get("access", {}).get("publicAccessToken")
        elapsed, retries = 0.0, 0
        while elapsed < self.timeout_seconds:
            reply = self._poll(told["taskId"], token or self.key, is_token=token is not None)
            if reply is None or reply.status_code >= 500:
                retries += 1
                if retries > MOST_RETRIES:
                    raise Unreachable
            elif reply.status_code in (401, 403, 404):
                if token is None:
                    raise Unauthorized
                token = None
                continue
            elif reply.status_code == 200:
                status = reply.json()["data"]["status"]
                if status == "completed":
                    return self._task(told["taskId"])
                if status == "failed":
                    raise Failed
            pause = FAST_PAUSE_SECONDS if elapsed < FAST_SECONDS else SLOW_PAUSE_SECONDS
            pause += random.uniform(0, JITTER_SECONDS)
            elapsed += pause
            time.sleep(pause / self.speed)
        raise TimedOut

    def _poll(self, task_id: str, text: str, *, is_token: bool) -> httpx2.Response | None:
        self.tokens_used.append(is_token)
        try:
            reply = httpx2.get(
                f"{self.base_url}/tasks/{task_id}/status", headers=bearer(text), timeout=60
            )
        except httpx2.TransportError:
            return None
        self.statuses.append(reply.status_code)
        return reply

    def _task(self, task_id: str) -> WholeTask:
        reply = httpx2.get(f"{self.base_url}/tasks/{task_id}", headers=bearer(self.key), timeout=60)
        assert reply.status_code == 200, reply.text
        return WholeTask.model_validate(reply.json()["data"])


@pytest.fixture
def caller(folder: Path, served: Served) -> Client:
    return Client(served.url, make_key(folder, "caller"))


def test_a_generation_is_polled_by_its_token_alone__R(served: Served, caller: Client) -> None:
    told = caller.generate(prompt="a red circle", count=2)
    task = caller.wait(told)

    assert (task.id, task.type, task.status) == (told["taskId"], "image.generate", "completed")
    assert task.cost == told["estimatedCost"] == "0.02"
    assert task.result is not None
    assert len([opened(served.client, one["url"]) for one in task.result["images"]]) == 2
    assert set(caller.statuses) == {200}
    assert all(caller.tokens_used)


def test_a_slow_task_is_polled_on_and_on__R(served: Served, caller: Client) -> None:
    served.script.gate.clear()
    told = caller.generate(prompt="a")
    hasty = Client(caller.base_url, caller.key, 300, TIMEOUT_SECONDS)
    with pytest.raises(TimedOut):
        hasty.wait(told)
    served.script.gate.set()

    assert caller.wait(told).status == "completed"
    assert set(hasty.statuses + caller.statuses) == {200}
    assert 55 < len(hasty.statuses) < 70


@pytest.mark.parametrize(
    "spoil", [lambda token: token + "x", lambda token: "pat_x.y.z"], ids=["changed", "rubbish"]
)
def test_a_key_takes_over_from_a_token_that_is_refused__R(
    caller: Client, spoil: Callable[[str], str]
) -> None:
    told = caller.generate(prompt="a")
    told["access"]["publicAccessToken"] = spoil(told["access"]["publicAccessToken"])
    assert caller.wait(told).status == "completed"
    assert caller.statuses[0] == 401
    assert set(caller.statuses[1:]) == {200}


def test_a_generation_without_a_token_is_polled_by_its_key__R(caller: Client) -> None:
    told = caller.generate(prompt="a", access={"pat": {"enabled": False}})
    assert caller.wait(told).status == "completed"
    assert not any(caller.tokens_used)


def test_nobody_else_gets_it__R(folder: Path, served: Served, caller: Client) -> None:
    told = caller.generate(prompt="a", access={"pat": {"enabled": False}})
    with pytest.raises(Unauthorized):
        Client(served.url, make_key(folder, "other")).wait(told)


def test_a_failure_is_heard_of__R(served: Served, caller: Client) -> None:
    served.script.fails = lambda job, index: PipelineFailed("broke")
    with pytest.raises(Failed):
        caller.wait(caller.generate(prompt="a"))


def test_a_refusal_has_words_and_a_code__R(caller: Client) -> None:
    with pytest.raises(ValueError) as refused:
        caller.generate(prompt="a", size="5:3")
    assert refused.value.args[1] == "VALIDATION_ERROR"
    assert "16:9" in refused.value.args[0]


def test_a_token_outlives_the_server__INF(tmp_path: Path) -> None:
    """The task too: what was accepted is made by the next one."""
    key = make_key(tmp_path)
    with serving(tmp_path, drain_seconds=0.0) as first:
        first.script.gate.clear()
        told = Client(first.url, key).generate(prompt="a")
    with pytest.raises(Unreachable):
        Client(first.url, key).wait(told)
    with serving(tmp_path) as second:
        caller = Client(second.url, key)
        assert caller.wait(told).status == "completed"
        assert all(caller.tokens_used)


def test_what_is_asked_for_is_drawn__R(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real engine: from words, with words added, and from an upload."""
    # the contract has no seed, and this is to judge the same pictures every time
    monkeypatch.setattr("inference.resolve.secrets.randbelow", lambda limit: 7)
    folder = tmp_path_factory.mktemp("demo")
    key = make_key(folder)
    with serving(folder, is_scripted=False, devices="cpu") as real:
        until(lambda: real.client.get("/readyz").status_code == 200)
        caller = Client(real.url, key, speed=5.0)
        words = "a red circle on a blue background"
        plain = caller.wait(caller.generate(prompt=words, count=2, size="square"))
        magic = caller.wait(caller.generate(prompt="a red circle", count=2, magic_prompt=True))
        (url,) = uploaded(real.client, png(128), headers=bearer(key))
        edited = caller.wait(caller.generate(prompt=words, inputs=[url]))

        wanted = Scene(colour="red", shape="circle", background="blue")
        assert right(real, plain, wanted) >= 1
        assert magic.result is not None
        assert magic.result["magic_prompt"]["positive"] != "a red circle"
        assert right(real, magic, Scene(colour="red", shape="circle")) >= 1
        assert edited.result is not None
        assert opened(real.client, edited.result["images"][0]["url"]).size == (128, 128)


def right(served: Served, task: WholeTask, wanted: Scene) -> int:
    """How many of a task's pictures show what was asked for."""
    assert task.result is not None
    pictures = [opened(served.client, one["url"]) for one in task.result["images"]]
    return sum(judge(picture.convert("RGB"), wanted).right for picture in pictures)

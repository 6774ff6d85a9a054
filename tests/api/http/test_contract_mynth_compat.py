"""Mynth's clients of before June 2026, where the operator lets them in; `INF` throughout."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.http.mynth import (
    PATH,
    Helpers,
    assert_error,
    created,
    data,
    opened,
    png,
    uploaded,
)
from tests.api.http.served import Served, bearer, serving, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, mynth_compat=True, assistants=Helpers().all) as running:
        yield running


def test_an_old_client_gets_its_pictures__INF(served: Served) -> None:
    (url,) = uploaded(served.client, png())
    wish = {
        "prompt": {"positive": "a red circle", "negative": "blur", "enhance": "prefer_magic"},
        "inputs": [{"type": "image", "role": "init", "source": {"type": "url", "url": url}}],
        "content_rating": {"enabled": True},
        "webhook": {"enabled": False},
        "count": 2,
    }
    told = served.client.post(PATH, json=wish).json()
    assert told["data"]["taskId"] == told["taskId"]
    headers = bearer(told["access"]["publicAccessToken"])
    path = f"/tasks/{told['taskId']}"

    until(
        lambda: served.client.get(f"{path}/status", headers=headers).json()["status"] != "pending"
    )
    images = served.client.get(f"{path}/results", headers=headers).json()["images"]

    assert [one["status"] for one in images] == ["succeeded"] * 2
    for one in images:
        assert one["content_rating"]["level"] in ("sfw", "nsfw")
        assert opened(served.client, one["url"]).format == "WEBP"
    task = data(served.client.get(path))
    assert task["result"]["magic_prompt"]["positive"] == "a red circle, in snow"
    kept = served.client.get(f"/darkroom/generations/{told['taskId']}").json()
    # which of the two, is up to the models that are served
    assert kept["mode"] in ("img2img", "edit")
    assert kept["prompt"] == "a red circle, in snow"


def test_pages_of_old_clients_may_poll__INF(served: Served) -> None:
    told = served.client.post(PATH, json={"prompt": "a"}).json()
    headers = bearer(told["access"]["publicAccessToken"]) | {"Origin": "https://app.example"}
    reply = served.client.get(f"/tasks/{told['taskId']}/results", headers=headers)
    assert (reply.status_code, reply.json()["images"][:0]) == (200, [])
    assert reply.headers["access-control-allow-origin"] == "*"


def test_new_clients_are_served_as_ever__INF(served: Served) -> None:
    reply = served.client.post(PATH, json={"prompt": "a", "access": {"pat": {"enabled": False}}})
    told = reply.json()
    assert set(told) == {"data", "taskId", "estimatedCost"}
    assert ended_status(served, told["taskId"]) == "completed"


def ended_status(served: Served, task_id: str) -> str:
    def status() -> str:
        told: str = served.client.get(f"/tasks/{task_id}/status").json()["data"]["status"]
        return told

    until(lambda: status() != "pending")
    return status()


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"prompt": {}}, "prompt"),
        ({"prompt": {"positive": ["a"]}}, "prompt"),
        (
            {"prompt": "a", "inputs": [{"role": {}, "source": {"url": "http://1.1.1.1/"}}]},
            "inputs[0].as",
        ),
        ({"prompt": "a", "content_rating": {"levels": "x"}}, "rating.levels"),
        ({"prompt": "a", "webhook": {"enabled": "x"}}, "webhook.dashboard"),
    ],
)
def test_old_rubbish_is_refused__INF(served: Served, wish: dict[str, object], field: str) -> None:
    assert_error(served.client.post(PATH, json=wish), 400, "VALIDATION_ERROR", field)


def test_without_the_switch_nothing_old_is_spoken__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("data")) as served:
        assert_error(
            served.client.post(PATH, json={"prompt": {"positive": "a"}}),
            *(400, "VALIDATION_ERROR", "prompt"),
        )
        task_id = created(served.client)["taskId"]
        assert set(served.client.get(f"/tasks/{task_id}/status").json()) == {"data"}
        assert_error(served.client.get(f"/tasks/{task_id}/results"), 404, "NOT_FOUND")

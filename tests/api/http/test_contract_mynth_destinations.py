"""Mynth's contract, destinations: on a real S3 server.

`R` in an id is the provider's published client; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.http.keyed import folder as folder
from tests.api.http.keyed import key as key
from tests.api.http.mynth import assert_error, create, data, ended, made
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.s3server import BUCKET, KEY_ID, SECRET, S3Server

HERE = "/destinations"
KEY = {"access_key_id": KEY_ID, "secret_access_key": SECRET}


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """It may connect to loopback, and asks for keys."""
    with serving(folder, allowed_targets=("127.0.0.1",)) as running:
        yield running


def place(endpoint: str = "http://127.0.0.1:1", **changes: Any) -> dict[str, Any]:
    provider = {"id": "s3", "bucket": BUCKET, "region": "us-east-1", "endpoint": endpoint}
    return {"name": "site", "provider": provider, "secret": KEY, "config": {}} | changes


def add(client: httpx2.Client, key: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    return data(client.post(HERE, json=body, headers=key), 201)


def test_a_destination_is_kept_and_told_without_its_secret__R(
    client: httpx2.Client, key: dict[str, str]
) -> None:
    config = {"path_template": "a/{YYYY}/{id}", "url_template": "https://cdn.example/{path}"}
    body = place(config=config)

    told = add(client, key, body)

    assert set(told) == {"id", "name", "provider", "config", "createdAt", "updatedAt"}
    assert (told["name"], told["provider"], told["config"]) == ("site", body["provider"], config)
    assert told["createdAt"] == told["updatedAt"]
    assert data(client.get(f"{HERE}/{told['id']}", headers=key)) == told
    listed = client.get(HERE, headers=key)
    assert data(listed) == [told]
    assert SECRET not in listed.text


def test_a_destination_is_replaced_under_its_name__R(
    client: httpx2.Client, key: dict[str, str], s3_server: S3Server
) -> None:
    """Without a secret the one that was there goes on to sign."""
    told = add(client, key, place())
    body = {"provider": place(s3_server.endpoint)["provider"], "config": {}, "name": "site"}

    changed = data(client.put(f"{HERE}/{told['id']}", json=body, headers=key))

    assert (changed["id"], changed["name"]) == (told["id"], "site")
    assert changed["provider"]["endpoint"] == s3_server.endpoint
    assert changed["updatedAt"] >= told["updatedAt"]
    reply = client.post(f"{HERE}/{told['id']}/test", json={"path": "a/b"}, headers=key)
    assert reply.status_code == 204


def test_a_destination_keeps_its_name__INF(client: httpx2.Client, key: dict[str, str]) -> None:
    """Requests name it; who sends another is told rather than left with the old one."""
    path = f"{HERE}/{add(client, key, place())['id']}"
    reply = client.put(path, json=place(name="other"), headers=key)
    assert_error(reply, 400, "VALIDATION_ERROR", "name")


@pytest.mark.parametrize("template", ["{uuid}", "{id", "id}", "{{id}}", "{task_id}"])
def test_a_template_is_refused_in_the_callers_words__INF(
    client: httpx2.Client, key: dict[str, str], template: str
) -> None:
    reply = client.post(HERE, json=place(config={"path_template": template}), headers=key)
    said = assert_error(reply, 400, "VALIDATION_ERROR", "config.path_template")
    assert said.endswith("{id}, {YYYY}, {MM}, {DD}")


def test_a_destination_is_forgotten__R(client: httpx2.Client, key: dict[str, str]) -> None:
    path = f"{HERE}/{add(client, key, place())['id']}"
    reply = client.delete(path, headers=key)
    assert (reply.status_code, reply.content) == (204, b"")
    assert_error(client.get(path, headers=key), 404, "NOT_FOUND", "destination")


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        pytest.param(
            {"provider": {"id": "bunny", "storage_zone": "z"}},
            *(400, "VALIDATION_ERROR", "provider"),
            id="INF bunny",
        ),
        pytest.param({"name": "My Site"}, 400, "VALIDATION_ERROR", "name", id="R no slug"),
        pytest.param({"secret": None}, 400, "VALIDATION_ERROR", "secret", id="R no secret"),
        pytest.param(
            {"secret": KEY | {"secret_access_key": "a b"}},
            *(400, "VALIDATION_ERROR", "secret.secret_access_key"),
            id="INF secret",
        ),
        pytest.param(
            {"config": {"path_template": "{uuid}"}},
            *(400, "VALIDATION_ERROR", "config.path_template"),
            id="INF token",
        ),
        pytest.param(
            {"config": {"path_template": "../{id}"}},
            *(400, "VALIDATION_ERROR", "config.path_template"),
            id="INF up",
        ),
        pytest.param(
            {"config": {"url_template": "ftp://cdn.example/{path}"}},
            *(400, "VALIDATION_ERROR", "config.url_template"),
            id="INF no http",
        ),
        pytest.param(
            {"provider": place("http://10.0.0.1")["provider"]},
            *(400, "VALIDATION_ERROR", "provider.endpoint"),
            id="INF private",
        ),
        pytest.param(
            {"provider": place()["provider"] | {"region": "a b"}},
            *(400, "VALIDATION_ERROR", "provider.region"),
            id="INF region",
        ),
    ],
)
def test_a_destination_is_refused(
    client: httpx2.Client,
    key: dict[str, str],
    changes: dict[str, Any],
    status: int,
    code: str,
    field: str,
) -> None:
    reply = client.post(HERE, json=place() | changes, headers=key)
    said = assert_error(reply, status, code, field)
    assert SECRET not in said


def test_a_name_is_taken_once__INF(client: httpx2.Client, key: dict[str, str]) -> None:
    add(client, key, place())
    assert_error(client.post(HERE, json=place(), headers=key), 409, "CONFLICT", "name")


def test_destinations_of_others_are_not_there__INF(
    folder: Path, client: httpx2.Client, key: dict[str, str]
) -> None:
    path = f"{HERE}/{add(client, key, place())['id']}"
    other = bearer(make_key(folder, "others"))
    for reply in (
        client.get(path, headers=other),
        client.put(path, json=place(), headers=other),
        client.delete(path, headers=other),
        client.post(f"{path}/test", json={"path": "a"}, headers=other),
    ):
        assert_error(reply, 404, "NOT_FOUND", "destination")


def test_a_test_says_why_it_failed__INF(
    client: httpx2.Client, key: dict[str, str], s3_server: S3Server
) -> None:
    away = add(client, key, place())
    wrong = add(
        client, key, place(s3_server.endpoint, name="wrong", secret=KEY | {"access_key_id": "x"})
    )
    for one in (away, wrong):
        reply = client.post(f"{HERE}/{one['id']}/test", json={"path": "a"}, headers=key)
        assert_error(reply, 502, "DESTINATION_TEST_FAILED")
    reply = client.post(f"{HERE}/{away['id']}/test", json={"path": "../a"}, headers=key)
    assert_error(reply, 400, "VALIDATION_ERROR", "path")


@pytest.mark.parametrize(
    ("config", "path", "has_url"),
    [
        pytest.param({}, "{task}/{index}.webp", False, id="INF no templates"),
        pytest.param(
            {"path_template": "{prefix}/{id}"}, "{prefix}/{task}-{number}.webp", False, id="R path"
        ),
        pytest.param(
            {"path_template": "/{prefix}/x-{id}", "url_template": "https://cdn.example/p/{path}"},
            "{prefix}/x-{task}-{number}.webp",
            True,
            id="R path and address",
        ),
    ],
)
def test_copies_are_delivered_and_told(
    served: Served,
    key: dict[str, str],
    s3_server: S3Server,
    config: dict[str, str],
    path: str,
    has_url: bool,
) -> None:
    prefix = f"mynth-{secrets.token_hex(6)}"
    config = {name: text.replace("{prefix}", prefix) for name, text in config.items()}
    add(served.client, key, place(s3_server.endpoint, config=config))

    task = made(served, headers=key, destination="site", count=2)

    for index, image in enumerate(task["result"]["images"]):
        fields = {"task": task["id"], "index": index, "number": index + 1, "prefix": prefix}
        name = path.format(**fields)
        stored = bytes(s3_server.client().get(name).bytes())
        assert stored == served.client.get(image["mynth_url"]).content
        assert image["destination"] == {"status": "success", "name": "site"}
        assert image["url"] == (f"https://cdn.example/p/{name}" if has_url else None)


def test_a_copy_that_fails_fails_its_picture__INF(
    served: Served, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture is there once its copy is; the message says what to repair. Here it is the only."""
    monkeypatch.setattr(served.services.destinations, "_pauses_seconds", ())
    add(served.client, key, place())
    reply = create(served.client, headers=key, destination="site")
    task = ended(served, data(reply, 201)["taskId"], key)
    assert (task["status"], task["cost"]) == ("failed", "0")
    assert "site" in task["errors"][0]["message"]

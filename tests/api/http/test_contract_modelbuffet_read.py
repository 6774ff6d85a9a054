"""Model Buffet's contract, reading back and fetching: a test per documented statement.

`S0` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.api.http.modelbuffet import ASYNC, FIELDS, KEY, PATH, assert_error, done, generate
from tests.api.http.modelbuffet import server as server
from tests.api.http.served import Served, bearer, make_key, serving, until

READ = (PATH, "/v1/generations")


@pytest.fixture
def made(served: Served) -> dict[str, Any]:
    """A completed generation of two pictures."""
    return done(served.client, count=2, seed=7)


# 1.2 reading back


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(PATH, id="INF as it was made"),
        pytest.param("/v1/generations", id="INF the other path"),
        pytest.param(f"/modelbuffet{PATH}", id="INF below the alias"),
        pytest.param("/modelbuffet/v1/generations", id="INF the other path below the alias"),
    ],
)
def test_a_generation_is_read_back(client: httpx2.Client, made: dict[str, Any], path: str) -> None:
    reply = client.get(f"{path}/{made['id']}", headers=KEY)

    assert reply.status_code == 200
    assert reply.json() == made


@pytest.mark.parametrize("path", READ)
def test_a_generation_is_read_with_head_too__INF(
    client: httpx2.Client, made: dict[str, Any], path: str
) -> None:
    head, whole = client.head(f"{path}/{made['id']}"), client.get(f"{path}/{made['id']}")

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == whole.headers[name]


def test_a_generation_at_work_is_processing_without_outputs__INF(served: Served) -> None:
    served.script.gate.clear()
    generation_id = generate(served.client, headers=ASYNC).json()["id"]
    path = f"{PATH}/{generation_id}"

    until(lambda: served.client.get(path).json()["status"] == "processing")

    told = served.client.get(path).json()
    assert (told["outputs"], told["credits_used"], "error" in told) == ([], 0, False)


@pytest.mark.parametrize("path", READ)
@pytest.mark.parametrize(
    "generation_id",
    [
        pytest.param("gen_0000000000", id="INF none such"),
        pytest.param("gen_000000000", id="INF too short"),
        pytest.param("gen_00000000000", id="INF too long"),
        pytest.param("gen_00000000-0", id="INF other characters"),
        pytest.param("0000000000", id="INF no prefix"),
        pytest.param("gen_a%00b", id="INF NUL"),
    ],
)
def test_an_unknown_generation_is_404(client: httpx2.Client, path: str, generation_id: str) -> None:
    reply = client.get(f"{path}/{generation_id}", headers=KEY)

    assert_error(reply, 404, "not_found", "not_found", None)


@pytest.mark.parametrize("path", READ)
def test_a_task_of_another_dialect_is_404__INF(
    served: Served, made: dict[str, Any], path: str
) -> None:
    long = served.make()["id"]
    assert served.client.get(f"{path}/gen_{long}").status_code == 404
    with closing(sqlite3.connect(served.services.folder.database)) as database, database:
        moved = "UPDATE tasks SET dialect = 'modelmux' WHERE id = ?"
        assert database.execute(moved, (made["id"][4:],)).rowcount == 1

    reply = served.client.get(f"{path}/{made['id']}", headers=KEY)

    assert_error(reply, 404, "not_found", "not_found", None)


def test_a_generation_of_another_account_is_404__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    ours, theirs = (bearer(make_key(folder, account)) for account in ("ours", "theirs"))
    with serving(folder) as served:
        made = served.client.post(PATH, json=FIELDS | {"count": 1}, headers=ours).json()

        for path in READ:
            assert served.client.get(f"{path}/{made['id']}", headers=ours).status_code == 200
            reply = served.client.get(f"{path}/{made['id']}", headers=theirs)
            assert_error(reply, 404, "not_found", "not_found", None)
            reply = served.client.get(f"{path}/{made['id']}")
            assert_error(reply, 401, "authentication", "unauthorized", None)
        link = made["outputs"][0]["url"]
        assert httpx2.get(link, trust_env=False, timeout=60).status_code == 200


# 1.1 signed links


def test_a_link_is_absolute_and_opens_by_itself__S0(served: Served, made: dict[str, Any]) -> None:
    for index, output in enumerate(made["outputs"]):
        assert output["url"].startswith(f"{served.url}/o/{made['id']}/{index}.png?")

        reply = httpx2.get(output["url"], trust_env=False, timeout=60)

        assert reply.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(reply.content)) as picture:
            assert picture.size == (output["width"], output["height"])
            assert picture.getpixel((0, 0)) == (output["seed"], 0, 0)


def test_a_link_begins_with_the_public_name__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("data"), public_url="https://d.example") as served:
        (output,) = done(served.client, count=1)["outputs"]
        assert output["url"].startswith("https://d.example/o/gen_")


def test_a_picture_is_sent_with_type_length_name_and_tag__INF(
    client: httpx2.Client, made: dict[str, Any]
) -> None:
    url = made["outputs"][1]["url"]

    reply = client.get(url)

    assert int(reply.headers["content-length"]) == len(reply.content)
    assert reply.headers["content-disposition"] == f'inline; filename="{made["id"]}-1.png"'
    again = client.get(url, headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_link_serves_head_too__INF(client: httpx2.Client, made: dict[str, Any]) -> None:
    url = made["outputs"][0]["url"]

    reply = client.head(url)

    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["content-length"] == client.get(url).headers["content-length"]
    assert client.head(url[:-4] + "0000").status_code == 403


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda url: url.partition("?")[0], id="S0 unsigned"),
        pytest.param(lambda url: url[:-4] + "0000", id="S0 another signature"),
        pytest.param(lambda url: url.replace("/0.png", "/1.png"), id="S0 another picture"),
        pytest.param(lambda url: url.replace("/0.png", "/0.jpg"), id="INF another ending"),
        pytest.param(lambda url: url.replace("expires=1", "expires=2"), id="S0 a longer life"),
        pytest.param(lambda url: url.replace("key=", "key=0"), id="S0 another key"),
    ],
)
def test_a_link_that_was_changed_does_not_hold(
    client: httpx2.Client, made: dict[str, Any], change: Callable[[str], str]
) -> None:
    reply = client.get(change(made["outputs"][0]["url"]), headers=KEY)

    assert_error(reply, 403, "permission", "forbidden", None)


@pytest.mark.parametrize(
    "name", ["0.gif", "0", "x.png", "-1.png", "0.png/x"], ids=lambda name: f"INF {name}"
)
def test_what_is_no_picture_is_404(client: httpx2.Client, made: dict[str, Any], name: str) -> None:
    reply = client.get(f"/o/{made['id']}/{name}")

    assert_error(reply, 404, "not_found", "not_found", None)


def test_a_link_expires__S0(served: Served, made: dict[str, Any]) -> None:
    path = f"/o/{made['id']}/0.png"
    assert served.client.get(served.services.links.sign(path)).status_code == 200
    long_ago = replace(served.services.links, now_seconds=lambda: 0.0)

    reply = served.client.get(long_ago.sign(path))

    assert_error(reply, 403, "permission", "forbidden", None)


def test_a_picture_that_is_not_made_is_404__INF(served: Served) -> None:
    served.script.gate.clear()
    generation_id = generate(served.client, headers=ASYNC).json()["id"]
    link = served.services.links.sign(f"/o/{generation_id}/0.png")

    assert_error(served.client.get(link), 404, "not_found", "not_ready", None)


# 0.2 the alias prefix


def test_the_alias_prefix_serves_the_same__INF(served: Served) -> None:
    reply = served.client.post(f"/modelbuffet{PATH}", json=FIELDS | {"count": 1}, headers=KEY)
    made = reply.json()

    assert (reply.status_code, made["status"]) == (200, "completed")
    link = made["outputs"][0]["url"]
    assert link.startswith(f"{served.url}/o/")
    below = link.replace(f"{served.url}/o/", "/modelbuffet/o/")
    assert served.client.get(below).content == served.client.get(link).content

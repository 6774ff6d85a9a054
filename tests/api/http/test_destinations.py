"""Destinations over HTTP: each account's own, told without secrets, tested on a real server."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.http.keyed import folder as folder
from tests.api.http.keyed import key as key
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.s3server import BUCKET, KEY_ID, SECRET, S3Server

HERE = "/darkroom/destinations"
PLACE = {
    "url": f"s3://{BUCKET}/ann",
    "endpoint": "http://127.0.0.1:1",
    "region": "eu-1",
    "access_key_id": KEY_ID,
    "secret_access_key": SECRET,
    "public_url": "https://cdn.example/ann",
}
AWS = ("s3.us-east-1.amazonaws.com",)
NAMELESS = {"path_template": None, "url_template": None, "provider": "s3"}
TOLD = {name: value for name, value in PLACE.items() if name != "secret_access_key"} | NAMELESS


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """It may connect to loopback, and finds AWS without asking anybody."""
    with serving(folder, allowed_targets=("127.0.0.1",)) as running:
        outbound = running.services.outbound
        look_up = outbound._resolve

        async def resolve(host: str, port: int) -> Sequence[str]:
            return ["93.184.215.14"] if host in AWS else await look_up(host, port)

        outbound._resolve = resolve
        yield running


def add(client: httpx2.Client, key: dict[str, str], **fields: Any) -> httpx2.Response:
    body = PLACE | {"name": "site"} | fields
    given = {name: value for name, value in body.items() if value is not ...}
    return client.post(HERE, json=given, headers=key)


def plain(told: dict[str, Any]) -> dict[str, Any]:
    """What is told of a destination without what differs each time."""
    assert told["id"].startswith("dst_") and told["created_at"] <= told["updated_at"]
    return {name: told[name] for name in told if name not in ("id", "created_at", "updated_at")}


def listed(client: httpx2.Client, key: dict[str, str]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = client.get(HERE, headers=key).json()["destinations"]
    return told


def test_a_destination_is_kept_and_told_without_its_secret(
    client: httpx2.Client, key: dict[str, str]
) -> None:
    made = add(client, key)
    other = add(client, key, name="another", endpoint=..., region=..., public_url=...)

    assert (made.status_code, other.status_code) == (201, 201), (made.text, other.text)
    assert plain(made.json()) == {"name": "site"} | TOLD
    bare = {"endpoint": None, "region": "us-east-1", "public_url": None}
    assert plain(other.json()) == {"name": "another"} | TOLD | bare
    assert made.headers["location"] == f"{HERE}/site"
    assert client.get(made.headers["location"], headers=key).json() == made.json()
    assert listed(client, key) == [other.json(), made.json()]
    for reply in (
        made,
        client.get(HERE, headers=key),
        client.get(f"{HERE}/site", headers=key),
    ):
        assert SECRET not in reply.text and "secret" not in reply.text


def test_a_name_that_is_taken_is_a_409_and_changes_nothing(
    client: httpx2.Client, key: dict[str, str]
) -> None:
    add(client, key)

    again = add(client, key, url="s3://elsewhere/x")

    assert (again.status_code, again.json()["type"]) == (409, "urn:darkroom:conflict")
    assert (again.json()["status"], again.json()["field"]) == (409, "name")
    assert [one["url"] for one in listed(client, key)] == [PLACE["url"]]


def test_a_put_replaces_every_field(
    server: Served, client: httpx2.Client, key: dict[str, str], folder: Path
) -> None:
    templates = {"path_template": "{date}/{index}.{ext}", "url_template": "https://x.y/{path}"}
    old = add(client, key, **templates, provider="r2").json()
    assert {**templates, "provider": "r2"}.items() <= old.items()
    add(client, key, name="kept")
    theirs = bearer(make_key(folder, "neighbour"))
    add(client, theirs)
    body = {"url": "s3://moved/x", "access_key_id": "new", "secret_access_key": "newer"}

    reply = client.put(f"{HERE}/site", json=body, headers=key)

    rest = {"endpoint": None, "region": "us-east-1", "public_url": None}
    told = {"name": "site", "url": "s3://moved/x", "access_key_id": "new"} | rest | NAMELESS
    assert (reply.status_code, plain(reply.json())) == (200, told)
    assert reply.json()["id"] == old["id"]
    assert list(map(plain, listed(client, key))) == [{"name": "kept"} | TOLD, told]
    assert list(map(plain, listed(client, theirs))) == [{"name": "site"} | TOLD]
    missing = client.put(f"{HERE}/none", json=body, headers=key)
    assert (missing.status_code, missing.json()["field"]) == (404, "destination")
    assert len(listed(client, key)) == 2
    wrong = client.put(f"{HERE}/site", json=body | {"url": "x"}, headers=key)
    assert (wrong.status_code, wrong.json()["field"]) == (400, "url")
    named = client.put(f"{HERE}/site", json=body | {"name": "site"}, headers=key)
    assert (named.status_code, named.json()["field"]) == (400, "name")


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({name: ...}, name) for name in ("name", "url", "access_key_id", "secret_access_key")),
    *(({"name": name}, "name") for name in ("", "A", "a/b", "..", "a" * 65, 5, None)),
    *(({"url": url}, "url") for url in ("", "https://x.example", "s3://b/../x", 5)),
    *(({"endpoint": url}, "endpoint") for url in ("s3.example", "http://10.0.0.1", "http://[::1]")),
    ({"endpoint": "http://169.254.169.254"}, "endpoint"),
    *(({"region": region}, "region") for region in ("", "eu.x/", "a b")),
    *(({"access_key_id": text}, "access_key_id") for text in ("", "a b", "é")),
    *(({"secret_access_key": text}, "secret_access_key") for text in ("", "a b", "\n", 5, None)),
    *(({"public_url": url}, "public_url") for url in ("javascript:alert(1)", "https://a:b@x.y")),
    *(({"path_template": text}, "path_template") for text in ("{x}", "a//b", "../a", 5)),
    *(
        ({"url_template": text}, "url_template")
        for text in ("{path}", "https://{path}/", "ftp://x")
    ),
    *(({"provider": text}, "provider") for text in ("", "A", "a" * 17)),
    ({"secret": "x"}, "secret"),
]


@pytest.mark.parametrize(("fields", "field"), REFUSED)
def test_what_is_no_place_is_refused_by_its_field(
    client: httpx2.Client, key: dict[str, str], fields: dict[str, Any], field: str
) -> None:
    reply = add(client, key, **fields)

    assert (reply.status_code, reply.json()["field"]) == (400, field), reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert SECRET not in reply.text
    assert listed(client, key) == []


def test_a_refused_secret_is_not_repeated(client: httpx2.Client, key: dict[str, str]) -> None:
    reply = add(client, key, secret_access_key="canary value with spaces")
    assert reply.status_code == 400
    assert "canary" not in reply.text


def test_others_neither_see_nor_change_it(
    client: httpx2.Client, key: dict[str, str], folder: Path
) -> None:
    add(client, key)
    stranger = bearer(make_key(folder, "stranger"))
    body = {"url": "s3://mine/now", "access_key_id": "x", "secret_access_key": "y"}
    place = f"{HERE}/site"

    asked: list[Callable[[], httpx2.Response]] = [
        lambda: client.get(place, headers=stranger),
        lambda: client.put(place, json=body, headers=stranger),
        lambda: client.delete(place, headers=stranger),
        lambda: client.post(f"{place}/test", headers=stranger),
    ]
    assert [ask().status_code for ask in asked] == [404] * 4
    wish = {"prompt": "a", "destination": "site"}
    refused = client.post("/darkroom/generations", json=wish, headers=stranger)
    assert (refused.status_code, refused.json()["field"]) == (400, "destination")
    assert listed(client, stranger) == []
    assert list(map(plain, listed(client, key))) == [{"name": "site"} | TOLD]


def test_what_is_removed_is_gone(client: httpx2.Client, key: dict[str, str]) -> None:
    add(client, key)
    add(client, key, name="kept")

    gone = client.delete(f"{HERE}/site", headers=key)

    assert (gone.status_code, gone.content) == (204, b"")
    assert client.delete(f"{HERE}/site", headers=key).status_code == 404
    assert client.get(f"{HERE}/site", headers=key).status_code == 404
    assert [one["name"] for one in listed(client, key)] == ["kept"]


def test_a_test_tells_whether_it_works(
    client: httpx2.Client, key: dict[str, str], s3_server: S3Server
) -> None:
    prefix = secrets.token_hex(8)
    here = {"url": f"s3://{BUCKET}/{prefix}", "endpoint": s3_server.endpoint}
    add(client, key, **here, region="us-east-1")
    wrong = {
        "secret": ({"secret_access_key": "wrong"}, "the secret access key is wrong"),
        "key": ({"access_key_id": "nobody"}, "the access key id is not known there"),
        "bucket": ({"url": "s3://no-such-bucket/x"}, "there is no such bucket"),
        "nowhere": ({"endpoint": PLACE["endpoint"]}, "it cannot be reached"),
    }

    good = client.post(f"{HERE}/site/test", headers=key)

    assert (good.status_code, good.json()) == (200, {"ok": True, "reason": None})
    for name, (fields, reason) in wrong.items():
        add(client, key, **(here | {"name": name} | fields))
        reply = client.post(f"{HERE}/{name}/test", headers=key)
        assert (reply.status_code, reply.json()) == (200, {"ok": False, "reason": reason})
    left = [one["path"] for some in s3_server.client().list(prefix) for one in some]
    assert left == []


def test_a_test_counts_as_a_request(client: httpx2.Client, folder: Path) -> None:
    key = bearer(make_key(folder, "often", rate_per_minute=2))
    assert add(client, key).status_code == 201
    asked = [client.post(f"{HERE}/site/test", headers=key).status_code for _ in range(3)]
    assert asked == [200, 200, 429]


def test_a_generation_names_its_copies(
    server: Served, client: httpx2.Client, key: dict[str, str], s3_server: S3Server
) -> None:
    prefix = secrets.token_hex(8)
    here = {"url": f"s3://{BUCKET}/{prefix}", "endpoint": s3_server.endpoint}
    url = {"url_template": "https://cdn.example/{path}?of={task_id}"}
    add(client, key, **here, **url, region="us-east-1", path_template="{task_id}/{number}")

    def make(**fields: Any) -> dict[str, Any]:
        wish = {"prompt": "a", "destination": "site"} | fields
        made = client.post("/darkroom/generations", json=wish, headers=key)
        assert made.status_code == 202, made.text
        place = f"/darkroom/generations/{made.json()['id']}?wait=60"
        told: dict[str, Any] = client.get(place, headers=key).json()
        assert told["state"] == "succeeded", told
        return told

    by_template = make()
    by_name = make(count=2, destination_path="cats/tom cat.png")

    names = [f"{by_template['id']}/1", "cats/tom cat-1.png", "cats/tom cat-2.png"]
    left = [one["path"] for some in s3_server.client(prefix=prefix).list() for one in some]
    assert sorted(left) == sorted(names)
    told = [one["destination_url"] for made in (by_template, by_name) for one in made["images"]]
    ids = [by_template["id"], by_name["id"], by_name["id"]]
    assert told == [
        f"https://cdn.example/{name.replace(' ', '%20')}?of={task_id}"
        for name, task_id in zip(names, ids, strict=True)
    ]


@pytest.mark.parametrize("path", ["/a", "a/", "../a", "a//b", "", "a" * 701, 5])
def test_what_no_copy_is_called_is_refused(
    client: httpx2.Client, key: dict[str, str], path: Any
) -> None:
    add(client, key)
    wish = {"prompt": "a", "destination": "site", "destination_path": path}
    reply = client.post("/darkroom/generations", json=wish, headers=key)
    assert (reply.status_code, reply.json()["field"]) == (400, "destination_path"), reply.text


def test_a_name_of_a_copy_needs_a_destination(client: httpx2.Client, key: dict[str, str]) -> None:
    wish = {"prompt": "a", "destination_path": "a.png"}
    reply = client.post("/darkroom/generations", json=wish, headers=key)
    assert (reply.status_code, reply.json()["field"]) == (400, "destination_path")
    assert "needs a destination" in reply.json()["detail"]

"""A whole server with its pictures on a real S3 server: links, copies, faults and retention."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from PIL import Image
from pydantic import SecretStr

from api.clock import wall_clock_ms
from api.housekeeping import HOUR_MS
from tests.api.http.served import Served, bearer, make_key, serving, until
from tests.api.making import encoded
from tests.api.receivers import Receiver
from tests.api.s3server import BUCKET, KEY_ID, SECRET, S3Server

HERE = "/darkroom/generations"
BUFFET = ("/v1/images/generate", {"prompt": "a", "model": "mystic-2-5-flexible", "count": 1})
OPENAI = ("/v1/images/generations", {"prompt": "a", "response_format": "url"})
MODELMUX = ("/api/v1/generations", {"prompt": "a"})
SOURCE = encoded(Image.new("RGB", (40, 20), "red"))


class Bucket:
    """A prefix that nobody else has, and the settings of a server that keeps its pictures there."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.prefix = secrets.token_hex(8)

    def settings(self, **changes: Any) -> dict[str, Any]:
        return {
            "storage": f"s3://{BUCKET}/{self.prefix}/kept",
            "s3_endpoint": self.server.endpoint,
            "s3_access_key_id": KEY_ID,
            "s3_secret_access_key": SecretStr(SECRET),
            "output_format": "webp",
            "allowed_targets": ("127.0.0.1",),
        } | changes

    def place(self, name: str = "site", **changes: str) -> dict[str, str]:
        """The body that makes a destination beside what is kept."""
        return {
            "name": name,
            "url": f"s3://{BUCKET}/{self.prefix}/copies",
            "endpoint": self.server.endpoint,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
        } | changes

    def objects(self, below: str = "kept") -> list[str]:
        client = self.server.client(prefix=f"{self.prefix}/{below}")
        return sorted(one["path"] for some in client.list() for one in some)

    def read(self, path: str) -> bytes:
        return bytes(self.server.client(prefix=self.prefix).get(path).bytes())


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> Bucket:
    return Bucket(s3_server)


@pytest.fixture
def fresh(s3_server: S3Server) -> Bucket:
    """A prefix for one test."""
    return Bucket(s3_server)


@pytest.fixture(scope="module")
def server(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Its links lead to the bucket."""
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, **bucket.settings(links="presigned")) as running:
        yield running


def fetched(url: str) -> httpx2.Response:
    """The picture behind a link, for somebody without any key."""
    return httpx2.get(url, timeout=60, trust_env=False)


def ask(
    served: Served, asked: tuple[str, dict[str, Any]], headers: dict[str, str] | None = None
) -> dict[str, Any]:
    path, body = asked
    reply = served.client.post(path, json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


def mux(served: Served) -> dict[str, Any]:
    """A generation by ModelMux that is completed."""
    made, told = ask(served, MODELMUX), dict[str, Any]()

    def is_completed() -> bool:
        told.update(served.client.get(f"{MODELMUX[0]}/{made['historyId']}").json())
        return bool(told["status"] == "completed")

    until(is_completed)
    return told


def format_of(data: bytes) -> str | None:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture.format


def leads_to_the_bucket(bucket: Bucket, url: str) -> bool:
    start = f"{bucket.server.endpoint}/{BUCKET}/{bucket.prefix}/kept/outputs/"
    return url.startswith(start) and "X-Amz-Signature=" in url


# Links into the bucket


def test_a_link_leads_to_the_bucket_and_needs_no_key(served: Served, bucket: Bucket) -> None:
    (image,) = served.make()["images"]

    assert leads_to_the_bucket(bucket, image["url"])
    reply = fetched(image["url"])
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/webp")
    assert image["media_type"] == "image/webp"
    assert format_of(reply.content) == "WEBP"
    assert hashlib.sha256(reply.content).hexdigest() == image["sha256"]
    assert SECRET not in image["url"]


def test_a_changed_link_is_refused(served: Served, bucket: Bucket) -> None:
    mine, other = (served.make()["images"][0]["url"] for _ in range(2))
    query = dict(parse_qsl(urlsplit(mine).query))
    signature = query["X-Amz-Signature"]
    for wrong in (
        mine.partition("?")[0],
        mine.replace(urlsplit(mine).path, urlsplit(other).path),
        mine.replace(signature, signature[::-1]),
        mine.replace("X-Amz-Expires=86400", "X-Amz-Expires=86401"),
    ):
        assert wrong != mine
        assert fetched(wrong).status_code == 403, wrong
    assert httpx2.put(mine, content=b"mine", timeout=60).status_code == 403
    assert fetched(mine).status_code == 200


def test_a_link_expires_and_the_next_answer_has_another(fresh: Bucket, tmp_path: Path) -> None:
    settings = fresh.settings(links="presigned", link_ttl_seconds=3)
    with serving(tmp_path, **settings) as served:
        made = served.make()
        old = made["images"][0]["url"]
        assert dict(parse_qsl(urlsplit(old).query))["X-Amz-Expires"] == "3"
        until(lambda: fetched(old).status_code == 403)

        def works() -> bool:
            told = served.client.get(made["links"]["self"]).json()
            return fetched(told["images"][0]["url"]).status_code == 200

        until(works)
        assert fetched(old).status_code == 403


def test_the_links_of_every_dialect_lead_to_the_bucket(served: Served, bucket: Bucket) -> None:
    links = {
        "own": (served.make()["images"][0]["url"], "WEBP"),
        "listed": (served.client.get(HERE).json()["generations"][0]["images"][0]["url"], "WEBP"),
        "modelbuffet": (ask(served, BUFFET)["outputs"][0]["url"], "WEBP"),
        # whose own default is PNG, whatever the server's is
        "openai": (ask(served, OPENAI)["data"][0]["url"], "PNG"),
    }
    for name, (url, format) in links.items():
        assert leads_to_the_bucket(bucket, url), name
        reply = fetched(url)
        assert (reply.status_code, format_of(reply.content)) == (200, format), name


async def test_the_links_of_webhooks_lead_to_the_bucket(served: Served, bucket: Bucket) -> None:
    async with Receiver() as receiver:
        await asyncio.to_thread(served.make, webhook=receiver.url)
        (received,) = await receiver.arrived()
    (image,) = json.loads(received.body)["data"]["images"]
    assert leads_to_the_bucket(bucket, image["url"])
    reply = await asyncio.to_thread(fetched, image["url"])
    assert hashlib.sha256(reply.content).hexdigest() == image["sha256"]


def test_modelmux_gives_the_bytes_itself(served: Served, bucket: Bucket) -> None:
    told = mux(served)

    replies = [
        served.client.get(path)
        for path in (told["outputUrl"], f"{MODELMUX[0]}/{told['historyId']}/image")
    ]

    (key,) = [path for path in bucket.objects("kept/outputs") if told["historyId"] in path]
    stored = bucket.read(f"kept/outputs/{key}")
    for reply in replies:
        assert (reply.status_code, reply.headers["content-type"]) == (200, "image/webp")
        assert reply.content == stored
    other = mux(served)
    tampered = told["outputUrl"].replace(told["historyId"], other["historyId"])
    assert served.client.get(tampered).status_code == 403


def test_our_own_image_route_still_gives_the_bytes(served: Served) -> None:
    made = served.make()
    reply = served.client.get(f"{made['links']['self']}/images/0")
    assert hashlib.sha256(reply.content).hexdigest() == made["images"][0]["sha256"]


def test_input_pictures_lie_in_the_bucket_too(served: Served, bucket: Bucket) -> None:
    made = served.client.post(
        HERE, data={"prompt": "a"}, files={"image": ("a.png", SOURCE, "image/png")}
    )
    assert made.status_code == 202, made.text
    told = served.end(made.json()["id"])

    key = f"inputs/{told['id']}/0.png"
    assert (told["state"], told["mode"]) == ("succeeded", "edit")
    assert key in bucket.objects()
    assert bucket.read(f"kept/{key}") == served.script.pictures[key]
    with Image.open(io.BytesIO(served.script.pictures[key])) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((40, 20), (255, 0, 0))


def test_nothing_is_kept_in_the_data_folder(served: Served) -> None:
    served.make()
    objects = served.services.folder.objects
    assert [path for path in objects.rglob("*") if path.is_file()] == []


# Links to the server


def test_own_links_are_read_from_the_bucket(fresh: Bucket, tmp_path: Path) -> None:
    with serving(tmp_path, **fresh.settings()) as served:
        links = {
            served.make()["images"][0]["url"]: "WEBP",
            ask(served, BUFFET)["outputs"][0]["url"]: "WEBP",
            ask(served, OPENAI)["data"][0]["url"]: "PNG",
            mux(served)["outputUrl"]: "WEBP",
        }
        for url, format in links.items():
            assert fresh.server.endpoint not in url
            reply = served.client.get(url)
            assert (reply.status_code, format_of(reply.content)) == (200, format), url
    assert len(fresh.objects("kept/outputs")) == len(links)


# A bucket that is away


def test_tasks_outlive_the_death_of_the_s3_server(fresh: Bucket, tmp_path: Path) -> None:
    """Killed while pictures are put: what waits is stored when it is back, and nothing is lost."""
    with serving(tmp_path, **fresh.settings()) as served:
        is_away = served.script.hold_after(8)
        first = served.make()
        asked = [served.client.post(HERE, json={"prompt": "a", "count": 4}) for _ in range(20)]
        ids = [reply.json()["id"] for reply in asked]
        until(lambda: len(fresh.objects()) > 1)
        fresh.server.kill()
        try:
            is_away.set()
            states = [served.client.get(f"{HERE}/{one}").json()["state"] for one in ids]
            assert not all(state == "succeeded" for state in states)
            assert "failed" not in states
            away = served.client.get(first["images"][0]["url"])
            assert (away.status_code, away.json()["type"]) == (503, "urn:darkroom:unavailable")
            assert int(away.headers["retry-after"]) >= 1
            assert SECRET not in away.text
        finally:
            fresh.server.start()
        for told in map(served.end, ids):
            assert (told["state"], len(told["images"])) == ("succeeded", 4)
            for image in told["images"]:
                data = served.client.get(image["url"]).content
                assert hashlib.sha256(data).hexdigest() == image["sha256"]
        assert served.client.get(first["images"][0]["url"]).status_code == 200


# Copies


def add(served: Served, headers: dict[str, str], **place: str) -> None:
    reply = served.client.post("/darkroom/destinations", json=place, headers=headers)
    assert reply.status_code == 201, reply.text


def test_a_copy_lies_where_the_answer_says(served: Served, bucket: Bucket) -> None:
    add(served, {}, **bucket.place("plain"))
    add(served, {}, **bucket.place("public", public_url="https://cdn.example/x"))

    plain = served.make(destination="plain", count=2)
    public = served.make(destination="public", output_format="jpeg")

    assert [one["destination_url"] for one in plain["images"]] == [
        f"s3://{BUCKET}/{bucket.prefix}/copies/{plain['id']}/{index}.webp" for index in (0, 1)
    ]
    (image,) = public["images"]
    assert image["destination_url"] == f"https://cdn.example/x/{public['id']}/0.jpg"
    for told, ending in ((plain, "webp"), (public, "jpg")):
        for image in told["images"]:
            copy = bucket.read(f"copies/{told['id']}/{image['index']}.{ending}")
            assert hashlib.sha256(copy).hexdigest() == image["sha256"]
            assert fetched(image["url"]).content == copy, "our own is kept as always"
    assert served.make()["images"][0]["destination_url"] is None


@pytest.fixture
def paying(fresh: Bucket, tmp_path: Path) -> Iterator[tuple[Served, dict[str, str]]]:
    """A server whose deliveries are not tried for half a minute, and a key with 100 credits."""
    headers = bearer(make_key(tmp_path, "payer", credits=100))
    with serving(tmp_path, **fresh.settings()) as served:
        served.services.destinations._pauses_seconds = (0.0,)
        yield served, headers


def failed(served: Served, headers: dict[str, str], task_id: str) -> dict[str, Any]:
    told: dict[str, Any] = served.client.get(f"{HERE}/{task_id}?wait=60", headers=headers).json()
    assert told["state"] == "failed"
    return told


def books(served: Served, headers: dict[str, str]) -> tuple[int, int]:
    told = served.client.get("/darkroom/account", headers=headers).json()
    return told["balance"], told["held"]


WRONG = {
    "secret": ({"secret_access_key": "wrong"}, "the secret access key is wrong"),
    "key": ({"access_key_id": "nobody"}, "the access key id is not known there"),
    "bucket": ({"url": "s3://no-such-bucket/x"}, "there is no such bucket"),
    "nobody there": ({"endpoint": "http://127.0.0.1:1"}, "it cannot be reached"),
}


@pytest.mark.parametrize(("changes", "cause"), list(WRONG.values()), ids=list(WRONG))
def test_a_copy_that_cannot_be_delivered_costs_nothing(
    paying: tuple[Served, dict[str, str]], fresh: Bucket, changes: dict[str, str], cause: str
) -> None:
    served, headers = paying
    add(served, headers, **fresh.place(**changes))
    wish = {"prompt": "a", "destination": "site", "count": 3}
    made = served.client.post(HERE, json=wish, headers=headers).json()

    told = failed(served, headers, made["id"])

    assert made["credits"] > 0
    assert told["error"] == {
        "kind": "destination_failed",
        "message": f"destination 'site': {cause}",
        "reason": None,
    }
    assert told["images"] == []
    assert books(served, headers) == (100, 0)
    assert fresh.objects("copies") == []
    assert fresh.objects("kept/outputs") == [], "no picture stays that no answer names"
    plain = served.client.post(HERE, json={"prompt": "a"}, headers=headers).json()
    done = served.client.get(f"{HERE}/{plain['id']}?wait=60", headers=headers).json()
    assert done["state"] == "succeeded"
    assert books(served, headers) == (100 - done["credits"], 0), "good ones are paid for"


def test_a_destination_that_was_removed_meanwhile_fails_the_task(
    paying: tuple[Served, dict[str, str]], fresh: Bucket
) -> None:
    served, headers = paying
    add(served, headers, **fresh.place())
    served.script.gate.clear()
    wish = {"prompt": "a", "destination": "site"}
    made = served.client.post(HERE, json=wish, headers=headers).json()
    assert served.client.delete("/darkroom/destinations/site", headers=headers).status_code == 204
    served.script.gate.set()

    told = failed(served, headers, made["id"])

    assert told["error"]["kind"] == "destination_failed"
    assert "'site'" in told["error"]["message"]
    assert books(served, headers) == (100, 0)


def test_a_destination_that_was_put_right_meanwhile_is_used(
    paying: tuple[Served, dict[str, str]], fresh: Bucket
) -> None:
    served, headers = paying
    add(served, headers, **fresh.place(secret_access_key="wrong"))
    served.script.gate.clear()
    wish = {"prompt": "a", "destination": "site"}
    made = served.client.post(HERE, json=wish, headers=headers).json()
    place = fresh.place()
    del place["name"]
    where = "/darkroom/destinations/site"
    assert served.client.put(where, json=place, headers=headers).status_code == 200
    served.script.gate.set()

    told = served.client.get(f"{HERE}/{made['id']}?wait=60", headers=headers).json()

    assert told["state"] == "succeeded"
    assert fresh.objects("copies") == [f"{made['id']}/0.webp"]


# Retention


def sweep(served: Served, hours_later: float) -> dict[str, int]:
    """What the server's own housekeeper deletes when it is that much later."""
    keeper = served.services.housekeeper
    assert keeper._loop is not None
    keeper._now_ms = lambda: wall_clock_ms() + int(hours_later * HOUR_MS)
    loop = keeper._loop.get_loop()
    return asyncio.run_coroutine_threadsafe(keeper.sweep(), loop).result(60)


def test_pictures_whose_time_is_up_are_gone_in_every_dialect(fresh: Bucket, tmp_path: Path) -> None:
    with serving(tmp_path, **fresh.settings(output_retention_hours=5.0)) as served:
        add(served, {}, **fresh.place())
        own, completed = served.make(destination="site"), mux(served)
        links = {
            own["images"][0]["url"]: (410, "type", "urn:darkroom:gone"),
            f"{own['links']['self']}/images/0": (410, "type", "urn:darkroom:gone"),
            completed["outputUrl"]: (404, "code", "not_found"),
            f"{MODELMUX[0]}/{completed['historyId']}/image": (404, "code", "not_found"),
            ask(served, BUFFET)["outputs"][0]["url"]: (410, "code", "expired"),
            ask(served, OPENAI)["data"][0]["url"]: (404, "code", "expired"),
        }
        presigned = served.services.storage.presign(
            f"outputs/{fresh.objects('kept/outputs')[0]}", 60
        )
        assert presigned is not None and fetched(presigned).status_code == 200
        assert sweep(served, 4.9) == {}
        assert {served.client.get(url).status_code for url in links} == {200}

        assert sweep(served, 5.1) == {"pictures": 4}

        assert fresh.objects("kept/outputs") == []
        assert fetched(presigned).status_code == 404
        assert fresh.objects("copies") == [f"{own['id']}/0.webp"], "copies are not touched"
        for url, (status, field, value) in links.items():
            reply = served.client.get(url)
            assert reply.status_code == status, (url, reply.text)
            told = reply.json()
            inner = told["error"] if isinstance(told.get("error"), dict) else told
            assert inner[field] == value, url
        kept = served.client.get(own["links"]["self"]).json()
        assert (kept["state"], kept["prompt"]) == ("succeeded", "a")
        assert served.make()["state"] == "succeeded"


def test_input_pictures_go_an_hour_after_the_end(fresh: Bucket, tmp_path: Path) -> None:
    with serving(tmp_path, **fresh.settings()) as served:
        made = served.client.post(
            HERE, data={"prompt": "a"}, files={"image": ("a.png", SOURCE, "image/png")}
        )
        served.end(made.json()["id"])
        before = fresh.objects()
        assert sweep(served, 0.9) == {}
        assert fresh.objects() == before
        assert sweep(served, 1.1) == {"inputs": 1}
        assert [path.split("/")[0] for path in fresh.objects()] == ["outputs"]

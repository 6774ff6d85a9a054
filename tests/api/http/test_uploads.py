"""Uploads over HTTP, and our own signed links as pictures of requests, whichever API gave them."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from PIL import Image

from api.links import rotate
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.making import encoded, opened

HERE = "/darkroom/uploads"
BLUE = encoded(Image.new("RGB", (96, 64), "blue"), "PNG")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, dict[str, str]]:
    """Headers of two accounts."""
    return {name: bearer(make_key(folder, name)) for name in ("ann", "bob")}


@pytest.fixture(scope="module")
def server(folder: Path, keys: dict[str, dict[str, str]]) -> Iterator[Served]:
    """It asks for keys, and connects to public addresses alone, so not to itself."""
    with serving(folder) as running:
        running.client.headers.update(keys["ann"])
        yield running


@pytest.fixture
def bare(server: Served) -> Iterator[httpx2.Client]:
    """A client without a key."""
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


def send(client: httpx2.Client, *files: bytes, name: str = "images") -> httpx2.Response:
    parts = [(name, (f"{n}.png", data, "image/png")) for n, data in enumerate(files)]
    return client.post(HERE, files=parts)


def uploaded(client: httpx2.Client, data: bytes = BLUE) -> str:
    """The address of a new upload."""
    reply = send(client, data)
    assert reply.status_code == 201, reply.text
    url: str = reply.json()["uploads"][0]["url"]
    return url


def edit(client: httpx2.Client, url: str, **changes: Any) -> httpx2.Response:
    return client.post("/darkroom/generations", json={"prompt": "a", "image": url} | changes)


def seen_by(served: Served, reply: httpx2.Response) -> Image.Image:
    """The source picture that the engine was given for a generation."""
    assert reply.status_code == 202, reply.text
    task_id = served.end(reply.json()["id"])["id"]
    (data,) = [data for key, data in served.script.pictures.items() if task_id in key]
    return Image.open(io.BytesIO(data))


def test_what_is_left_here_is_told_and_given_out(
    client: httpx2.Client, bare: httpx2.Client
) -> None:
    reply = send(client, BLUE, encoded(Image.new("L", (10, 20)), "WEBP"))
    assert reply.status_code == 201, reply.text
    first, second = reply.json()["uploads"]
    assert (first["width"], first["height"], second["width"], second["height"]) == (96, 64, 10, 20)
    assert first["media_type"] == second["media_type"] == "image/png"
    assert re.fullmatch(rf"http://127.0.0.1:\d+{HERE}/{first['id']}\?expires=.*", first["url"])
    ends = [
        time.strptime(first[name][:19], "%Y-%m-%dT%H:%M:%S")
        for name in ("created_at", "expires_at")
    ]
    assert time.mktime(ends[1]) - time.mktime(ends[0]) == 7 * 24 * 3600

    got = bare.get(first["url"])
    assert (got.status_code, got.headers["content-type"]) == (200, "image/png")
    assert len(got.content) == first["size_bytes"]
    head = bare.head(first["url"])
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(first["size_bytes"])
    again = bare.get(first["url"], headers={"If-None-Match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert bare.get(second["url"]).headers["etag"] != got.headers["etag"]


def test_only_a_signature_opens_it(client: httpx2.Client) -> None:
    url, other = uploaded(client), uploaded(client)
    swapped = other.replace(urlsplit(other).path, urlsplit(url).path)
    for wrong in (urlsplit(url).path, url[:-1], swapped, url.replace("expires=1", "expires=2")):
        assert client.get(wrong).status_code == 403


@pytest.mark.parametrize(
    ("files", "data", "status"),
    [
        ([], {}, 415),
        ([BLUE] * 11, {}, 400),
        ([BLUE], {"name": "x"}, 400),
        ([], {"name": "x"}, 415),
        ([b"text"], {}, 415),
        ([BLUE[:-30]], {}, 400),
        ([BLUE, b""], {}, 400),
    ],
)
def test_what_is_no_upload(
    client: httpx2.Client, files: list[bytes], data: dict[str, str], status: int
) -> None:
    parts = [("images", (f"{n}.png", one, "image/png")) for n, one in enumerate(files)]
    reply = client.post(HERE, files=parts, data=data)
    assert reply.status_code == status, reply.text
    assert reply.json()["type"].startswith("urn:darkroom:")


def test_any_name_of_a_part_will_do_and_is_told_when_wrong(client: httpx2.Client) -> None:
    assert send(client, BLUE, name="file").status_code == 201
    refused = send(client, b"text", name="holiday")
    assert (refused.status_code, refused.json()["field"]) == (415, "holiday")
    assert "holiday" in refused.json()["detail"]


def test_a_key_is_needed_and_only_its_account_deletes(
    client: httpx2.Client, bare: httpx2.Client, keys: dict[str, dict[str, str]]
) -> None:
    url = uploaded(client)
    path = urlsplit(url).path
    assert send(bare, BLUE).status_code == 401
    assert bare.delete(path).status_code == 401
    assert bare.delete(path, headers=keys["bob"]).status_code == 404
    assert bare.get(url).status_code == 200
    assert client.delete(path).status_code == 204
    assert bare.get(url).status_code == 404
    assert client.delete(path).status_code == 404


# Our own links as pictures


def test_an_upload_is_a_picture_of_a_request(served: Served, client: httpx2.Client) -> None:
    url = uploaded(client)
    picture = seen_by(served, edit(client, url))
    assert (picture.size, picture.getpixel((0, 0))) == ((96, 64), (0, 0, 255))
    relative = url.removeprefix(served.url)
    assert seen_by(served, edit(client, relative)).size == (96, 64)
    elsewhere = url.replace(served.url, "https://pictures.example:8443")
    assert seen_by(served, edit(client, elsewhere)).size == (96, 64)


def own(served: Served) -> str:
    url: str = served.make(seed=1)["images"][0]["url"]
    return url


def modelbuffet(served: Served) -> str:
    body = {"prompt": "a", "model": "flux-2-max", "count": 1, "seed": 1}
    reply = served.client.post("/v1/images/generate", json=body).raise_for_status().json()
    (output,) = reply["outputs"]
    return str(output["url"])


def modelmux(served: Served) -> str:
    body = {"prompt": "a", "model": "nano-banana"}
    made = served.client.post("/api/v1/generations", json=body).raise_for_status().json()
    served.end(made["historyId"])
    told = served.client.get(f"/api/v1/generations/{made['historyId']}").json()
    return str(told["outputUrl"])


def openai(served: Served) -> str:
    body = {"prompt": "a", "model": "auto", "response_format": "url"}
    reply = served.client.post("/v1/images/generations", json=body).raise_for_status().json()
    return str(reply["data"][0]["url"])


GIVERS = [own, modelbuffet, modelmux, openai]


@pytest.mark.parametrize("give", GIVERS, ids=lambda give: give.__name__)
def test_a_finished_picture_is_one_for_the_next_request(served: Served, give: Any) -> None:
    url = give(served)
    whole = url if url.startswith("http") else served.url + url
    made = opened(httpx2.get(whole, trust_env=False, timeout=60).content).convert("RGB")
    for spelling in (whole, whole.removeprefix(served.url)):
        picture = seen_by(served, edit(served.client, spelling))
        assert picture.tobytes() == made.tobytes()


def test_each_picture_of_several_has_its_link(served: Served) -> None:
    urls = [picture["url"] for picture in served.make(count=3, seed=7)["images"]]
    seen = [seen_by(served, edit(served.client, url)).getpixel((0, 0)) for url in urls]
    assert seen == [(7, 0, 0), (8, 0, 0), (9, 0, 0)]


@pytest.mark.parametrize("give", GIVERS, ids=lambda give: give.__name__)
def test_a_link_that_was_changed_is_refused_by_its_field(served: Served, give: Any) -> None:
    url = give(served)
    last = "0" if url[-1] != "0" else "1"
    reply = edit(served.client, url[:-1] + last)
    assert (reply.status_code, reply.json()["field"]) == (400, "image")
    assert "not valid, or no longer" in reply.json()["detail"]


def test_a_link_below_an_alias_is_ours_too(served: Served) -> None:
    url = served.url + "/modelmux" + modelmux(served)
    assert httpx2.get(url, trust_env=False, timeout=60).status_code == 200
    assert seen_by(served, edit(served.client, url)).size


def test_a_signed_key_at_another_path_is_no_link(served: Served) -> None:
    url = modelmux(served).replace("/api/storage/file", "/api/storage/other")
    reply = edit(served.client, url)
    assert (reply.status_code, reply.json()["field"]) == (400, "image")


def test_any_api_takes_it(served: Served, client: httpx2.Client) -> None:
    url = uploaded(client)
    wish = {"prompt": "a", "model": "flux-2-max", "count": 1, "image": url}
    made = client.post("/v1/images/edit", json=wish)
    assert made.status_code == 200, made.text
    task_id = made.json()["id"].removeprefix("gen_")
    (data,) = [data for key, data in served.script.pictures.items() if task_id in key]
    assert Image.open(io.BytesIO(data)).size == (96, 64)


def test_an_account_may_be_given_a_link_of_another(
    served: Served, client: httpx2.Client, keys: dict[str, dict[str, str]]
) -> None:
    url = uploaded(client)
    reply = httpx2.post(
        f"{served.url}/darkroom/generations",
        json={"prompt": "a", "image": url},
        headers=keys["bob"],
        timeout=60,
        trust_env=False,
    )
    assert reply.status_code == 202, reply.text


def test_what_is_gone_is_told_by_its_field(served: Served, client: httpx2.Client) -> None:
    url = uploaded(client)
    client.delete(urlsplit(url).path).raise_for_status()
    reply = edit(client, url)
    assert (reply.status_code, reply.json()["field"]) == (400, "image")
    assert "no such upload, or no longer" in reply.json()["detail"]


def test_an_upload_is_not_needed_once_a_request_has_it(
    served: Served, client: httpx2.Client
) -> None:
    served.script.gate.clear()
    url = uploaded(client)
    reply = edit(client, url)
    client.delete(urlsplit(url).path).raise_for_status()
    served.script.gate.set()
    assert seen_by(served, reply).size == (96, 64)
    assert served.end(reply.json()["id"])["state"] == "succeeded"


@pytest.mark.parametrize(
    "link",
    [
        *("/darkroom/uploads/x?y", "/x?expires=1", "//elsewhere.example/darkroom/uploads/a?b=1"),
        *("/darkroom/files/a/0/a.png?", "/api/storage/file?key=generated/a/0.png"),
        "/o/gen_a/9999999999.png?expires=1&key=a&signature=b",
    ],
)
def test_what_is_no_link_of_ours_is_refused(client: httpx2.Client, link: str) -> None:
    reply = edit(client, link)
    assert (reply.status_code, reply.json()["field"]) == (400, "image"), reply.text


def test_a_link_of_another_server_is_fetched_like_any(
    served: Served, client: httpx2.Client
) -> None:
    """Its path is one of ours, but its key is not; from here it is private, and so refused."""
    url = uploaded(client)
    strange = re.sub("key=[0-9a-f]+", "key=ffffffff", url)
    reply = edit(client, strange)
    assert (reply.status_code, reply.json()["field"]) == (400, "image")
    assert "private address" in reply.json()["detail"]
    reply = edit(client, strange.removeprefix(served.url))
    assert "not valid, or no longer" in reply.json()["detail"], "without a host it can only be ours"


def test_a_webhook_is_no_picture(client: httpx2.Client) -> None:
    """What lets a link of ours through as a picture lets none through as a receiver."""
    reply = edit(client, uploaded(client), webhook=uploaded(client))
    assert (reply.status_code, reply.json()["field"]) == (400, "webhook")


def test_an_older_key_of_links_still_counts(folder: Path, served: Served) -> None:
    url = uploaded(served.client)
    rotate(folder / "link_keys")
    time.sleep(1.2)
    assert seen_by(served, edit(served.client, url)).size == (96, 64)
    assert "key=" + url.partition("key=")[2][:8] not in uploaded(served.client)


def test_behind_a_public_address_with_a_path(tmp_path: Path) -> None:
    public = "https://pictures.example/darkroom-here"
    with serving(tmp_path, public_url=public) as served:
        url = uploaded(served.client)
        assert url.startswith(f"{public}{HERE}/")
        assert seen_by(served, edit(served.client, url)).size == (96, 64)
        made = own(served)
        assert made.startswith(public)
        assert seen_by(served, edit(served.client, made)).size


def test_the_bound_of_an_account_is_a_413(tmp_path: Path) -> None:
    with serving(tmp_path, max_upload_bytes_per_account=1) as served:
        reply = send(served.client, BLUE)
        assert (reply.status_code, reply.json()["field"]) == (413, "images")
        assert "deleted when its time is up" in reply.text

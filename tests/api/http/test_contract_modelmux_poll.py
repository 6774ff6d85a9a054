"""ModelMux's contract, polling and fetching: a test per documented statement.

`S1` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from inference.errors import PipelineFailed
from tests.api.http.modelmux import KEY, PATH, create, ended
from tests.api.http.served import Served, serving, until

COMPLETED = {
    *("historyId", "status", "provider", "outputUrl", "creditsUsed", "model"),
    *("resolution", "aspectRatio", "completedAt"),
}


@pytest.fixture
def done(served: Served) -> dict[str, Any]:
    """A completed generation."""
    return ended(served, create(served.client, aspectRatio="16:9").json()["historyId"])


# 2.3 poll


def test_a_poll_before_the_end_has_the_fields_of_the_creation__INF(served: Served) -> None:
    served.script.gate.clear()
    created = create(served.client).json()
    path = f"{PATH}/{created['historyId']}"

    until(lambda: served.client.get(path).json()["status"] == "processing")

    polled = served.client.get(path).json()
    assert polled == created | {"status": "processing"}


def test_a_completed_generation_has_all_fields_and_no_other__S1(done: dict[str, Any]) -> None:
    assert set(done) == COMPLETED
    assert (done["status"], done["creditsUsed"], done["aspectRatio"]) == ("completed", 5, "16:9")
    assert abs(done["completedAt"] - time.time() * 1000) < 60_000


def test_an_output_url_is_relative_and_opens_by_itself__S1(
    client: httpx2.Client, done: dict[str, Any]
) -> None:
    assert done["outputUrl"].startswith("/api/storage/file?key=generated/")

    reply = client.get(done["outputUrl"])

    with Image.open(io.BytesIO(reply.content)) as picture:
        assert (reply.headers["content-type"], picture.size) == ("image/png", (144, 80))


def test_a_failed_generation_says_why_and_costs_nothing__S1(served: Served) -> None:
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")

    failed = ended(served, create(served.client).json()["historyId"])

    assert set(failed) == COMPLETED - {"outputUrl"} | {"errorMessage"}
    assert (failed["status"], failed["errorMessage"]) == ("failed", "the pipeline broke")
    assert failed["creditsUsed"] == 0


def test_a_cancelled_generation_is_failed__INF(served: Served) -> None:
    served.script.gate.clear()
    history_id = create(served.client).json()["historyId"]
    served.client.post(f"/darkroom/generations/{history_id}/cancel")

    cancelled = ended(served, history_id)

    assert (cancelled["status"], cancelled["errorMessage"]) == ("failed", "cancelled")


# 2.4 image


def test_an_image_is_sent_with_type_length_name_and_tag__INF(
    client: httpx2.Client, done: dict[str, Any]
) -> None:
    reply = client.get(f"{PATH}/{done['historyId']}/image", headers=KEY)

    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/png"
    assert int(reply.headers["content-length"]) == len(reply.content)
    named = f'inline; filename="{done["historyId"]}.png"'
    assert reply.headers["content-disposition"] == named
    again = client.get(
        f"{PATH}/{done['historyId']}/image", headers={"If-None-Match": reply.headers["etag"]}
    )
    assert again.status_code == 304
    assert client.get(done["outputUrl"]).content == reply.content


def test_an_image_that_is_not_ready_is_404__S1(served: Served) -> None:
    served.script.gate.clear()
    history_id = create(served.client).json()["historyId"]

    reply = served.client.get(f"{PATH}/{history_id}/image", headers=KEY)

    assert (reply.status_code, reply.json()["code"]) == (404, "image_not_ready")


@pytest.mark.parametrize(
    ("change", "headers", "status"),
    [
        pytest.param(lambda url: url, {}, 200, id="INF signature"),
        pytest.param(lambda url: url.split("%3F")[0], KEY, 200, id="INF key"),
        pytest.param(lambda url: url.split("%3F")[0], {"x-api-key": "k"}, 200, id="INF x-api-key"),
        pytest.param(lambda url: url.split("%3F")[0], {}, 200, id="INF neither, without keys"),
        pytest.param(lambda url: url[:-4] + "0000", {}, 403, id="INF bad signature"),
        pytest.param(lambda url: url[:-4] + "0000", KEY, 200, id="INF bad signature and key"),
        pytest.param(lambda url: "/api/storage/file?key=generated/x/0.png", KEY, 404, id="INF 404"),
        pytest.param(lambda url: "/api/storage/file?key=../../etc/passwd", KEY, 404, id="INF .."),
        pytest.param(lambda url: "/api/storage/file", KEY, 400, id="INF no parameter"),
    ],
)
def test_a_file_is_opened_by(
    client: httpx2.Client, done: dict[str, Any], change: Any, headers: dict[str, str], status: int
) -> None:
    reply = client.get(change(done["outputUrl"]), headers=headers)

    assert reply.status_code == status
    assert status == 200 or set(reply.json()) == {"error", "code"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("{url}", {}, id="INF file by signature"),
        pytest.param(PATH + "/{id}/image", KEY, id="INF image"),
        pytest.param(PATH + "/{id}", KEY, id="INF poll"),
    ],
)
def test_a_head_is_the_get_without_the_bytes(
    client: httpx2.Client, done: dict[str, Any], path: str, headers: dict[str, str]
) -> None:
    where = path.format(url=done["outputUrl"], id=done["historyId"])
    whole = client.get(where, headers=headers)

    head = client.head(where, headers=headers)

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "content-disposition", "etag"):
        assert head.headers.get(name) == whole.headers.get(name)


@pytest.mark.parametrize(
    ("form", "media_type", "ending"),
    [
        pytest.param("png", "image/png", "png", id="INF png"),
        pytest.param("jpeg", "image/jpeg", "jpg", id="INF jpeg"),
        pytest.param("webp", "image/webp", "webp", id="INF webp"),
        pytest.param("avif", "image/avif", "avif", id="INF avif"),
    ],
)
def test_names_and_types_are_those_of_the_stored_picture(
    served: Served, form: str, media_type: str, ending: str
) -> None:
    """Which format that is, is another's choice: the server's, or here our own API's."""
    made = served.make(output_format=form)
    done = ended(served, made["id"])
    assert f"generated/{made['id']}/0.{ending}%3F" in done["outputUrl"]

    for where in (done["outputUrl"], f"{PATH}/{made['id']}/image"):
        reply = served.client.get(where, headers=KEY)
        assert reply.headers["content-type"] == media_type
        named = f'inline; filename="{made["id"]}.{ending}"'
        assert reply.headers["content-disposition"] == named
        with Image.open(io.BytesIO(reply.content)) as picture:
            assert picture.format == form.upper()


def test_the_servers_own_format_is_followed__INF(tmp_path: Path) -> None:
    with serving(tmp_path, output_format="webp") as served:
        done = ended(served, create(served.client).json()["historyId"])
        reply = served.client.get(done["outputUrl"])

        assert "/0.webp%3F" in done["outputUrl"]
        assert reply.headers["content-type"] == "image/webp"
        assert reply.content[8:12] == b"WEBP"


# 0.2 the alias prefix


def test_the_alias_prefix_serves_the_same__INF(served: Served) -> None:
    created = served.client.post(f"/modelmux{PATH}", json={"prompt": "a"}).json()
    done = ended(served, created["historyId"])
    polled = served.client.get(f"/modelmux{PATH}/{created['historyId']}").json()
    unsigned = {key: value for key, value in done.items() if key != "outputUrl"}

    assert polled | unsigned == polled
    # a client may join the link to its base URL as text, or resolve it against it
    for url in (polled["outputUrl"], "/modelmux" + polled["outputUrl"]):
        assert served.client.get(url).status_code == 200
    image = served.client.get(f"/modelmux{PATH}/{created['historyId']}/image")
    assert image.headers["content-type"] == "image/png"

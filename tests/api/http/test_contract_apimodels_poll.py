"""APIModels' contract, polling and fetching: a test per documented statement.

`S4` in an id is the provider's own page; `R` and `T` are what their client and others read; `INF`
is what we do where all are silent.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from inference.errors import OutOfMemory, PipelineFailed
from tests.api.http.apimodels import BASES, KEY, create, ended, made, picture, poll, refusal
from tests.api.http.served import Served, until
from tests.api.making import data_uri, png

DAY_SECONDS = 24 * 3600


@pytest.fixture
def done(served: Served) -> dict[str, Any]:
    """A completed task."""
    task: dict[str, Any] = ended(served, create(served.client, aspect_ratio="16:9", n=2))
    return task


# 5.3 the poll


@pytest.mark.parametrize("base", [pytest.param(base, id=f"S4 {base}") for base in BASES])
def test_a_task_is_found_at_every_base(
    client: httpx2.Client, done: dict[str, Any], base: str
) -> None:
    reply = poll(client, done["taskId"], base=base)

    assert reply.json() == {"code": 200, "msg": "success", "data": done}
    head = client.head(f"{base}/images/generations?task_id={done['taskId']}", headers=KEY)
    assert head.status_code == 200


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("base", BASES)
def test_a_task_is_found_by_its_id_wherever_one_asks__R(
    client: httpx2.Client, done: dict[str, Any], base: str, kind: str
) -> None:
    reply = client.get(f"{base}/{kind}/generations?task_id={done['taskId']}", headers=KEY)

    assert reply.json()["data"] == done


def test_a_task_waits_then_runs__S4(served: Served) -> None:
    served.script.gate.clear()
    task_id = made(create(served.client))

    until(lambda: poll(served.client, task_id).json()["data"]["state"] == "processing")

    data = poll(served.client, task_id).json()["data"]
    assert set(data) == {"taskId", "state", "modelType", "credits", "createTime"}


def test_a_completed_task_has_all_fields_and_no_other__S4(done: dict[str, Any]) -> None:
    assert set(done) == {
        *("taskId", "state", "resultUrls", "createTime", "completeTime"),
        *("modelType", "credits"),
    }
    assert (done["state"], done["credits"], done["modelType"]) == ("completed", 4, "TEXT_TO_IMAGE")
    assert abs(done["createTime"] - time.time() * 1000) < 60_000
    assert 0 <= done["completeTime"] - done["createTime"] < 60_000


def test_result_urls_are_absolute_and_open_by_themselves__S4(
    served: Served, done: dict[str, Any]
) -> None:
    assert len(done["resultUrls"]) == 2
    for url in done["resultUrls"]:
        assert url.startswith(f"{served.url}/api/v1/images/files/")
        assert picture(served, url).size == (144, 80)


def test_result_urls_live_for_a_week__S4(done: dict[str, Any]) -> None:
    for url in done["resultUrls"]:
        (expires,) = parse_qs(urlsplit(url).query)["expires"]
        assert 7 * DAY_SECONDS - 60 < int(expires) - time.time() < 8 * DAY_SECONDS


def test_a_picture_is_sent_with_type_length_name_and_tag__INF(
    client: httpx2.Client, done: dict[str, Any]
) -> None:
    reply = client.get(done["resultUrls"][1])

    assert reply.headers["content-type"] == "image/png"
    assert int(reply.headers["content-length"]) == len(reply.content)
    named = f'inline; filename="{done["taskId"]}-1.png"'
    assert reply.headers["content-disposition"] == named
    known = {"If-None-Match": reply.headers["etag"]}
    assert client.get(done["resultUrls"][1], headers=known).status_code == 304
    assert client.head(done["resultUrls"][1]).headers["etag"] == reply.headers["etag"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda url: url.partition("?")[0], id="INF no signature"),
        pytest.param(lambda url: url[:-4] + "0000", id="INF another signature"),
        pytest.param(lambda url: url.replace("/1.png", "/0.png"), id="INF another picture"),
    ],
)
def test_a_changed_url_leads_nowhere(
    client: httpx2.Client, done: dict[str, Any], change: Any
) -> None:
    assert refusal(client.get(change(done["resultUrls"][1])))[0] == 403


def test_a_result_is_taken_as_the_next_input__INF(served: Served, done: dict[str, Any]) -> None:
    reply = create(served.client, image_url=done["resultUrls"][0])

    assert ended(served, reply)["modelType"] == "IMAGE_TO_IMAGE"


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        pytest.param(PipelineFailed("it broke"), "PIPELINE_FAILED", False, id="S4 failed"),
        pytest.param(OutOfMemory("it is too large"), "OUT_OF_MEMORY", True, id="R retryable"),
    ],
)
def test_a_failed_task_says_why_and_costs_nothing(
    served: Served, error: Any, code: str, retryable: bool
) -> None:
    served.script.fails = lambda job, index: error

    failed = ended(served, create(served.client))

    assert (failed["state"], failed["failMsg"], failed["failCode"]) == ("failed", str(error), code)
    assert (failed["retryable"], failed["credits"]) == (retryable, 0)
    assert "resultUrls" not in failed


def test_a_cancelled_task_is_failed__INF(served: Served) -> None:
    served.script.gate.clear()
    reply = create(served.client)
    served.client.post(f"/darkroom/generations/{made(reply)}/cancel")

    assert ended(served, reply)["failCode"] == "CANCELLED"


def test_a_task_of_another_dialect_is_told_too__INF(served: Served) -> None:
    task = served.make(prompt="a", count=2)

    data = poll(served.client, task["id"]).json()["data"]

    assert (data["state"], len(data["resultUrls"])) == ("completed", 2)
    assert picture(served, data["resultUrls"][1]).size == (128, 128)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        pytest.param("?task_id=clnone", 404, "no such task", id="S4 unknown"),
        pytest.param("?task_id=a%00b", 404, "no such task", id="INF nonsense"),
        pytest.param("", 400, "task_id is required", id="S4 missing"),
        pytest.param("?task_id=", 400, "task_id", id="S4 empty"),
        pytest.param("?task_id=" + "x" * 65, 400, "task_id", id="INF too long"),
    ],
)
def test_a_poll_for_nothing_is_told(
    client: httpx2.Client, base: str, query: str, status: int, said: str
) -> None:
    told = refusal(client.get(f"{base}/images/generations{query}", headers=KEY))

    assert told[0] == status
    assert said in told[1]


# 5.1 models, balance, and what is no picture


@pytest.mark.parametrize("base", BASES)
def test_models_are_listed_for_two_readers__R(
    served: Served, client: httpx2.Client, base: str
) -> None:
    body = client.get(f"{base}/models", headers=KEY).json()

    assert body == client.get("/v1/models").json()
    assert [one["id"] for one in body["data"]] == served.services.catalog.names()
    assert {one["modality"] for one in body["data"]} == {"image"}
    one = client.get(f"{base}/models/gpt-image-2-all", headers=KEY).json()
    assert (one["id"], one["endpoint"]) == ("gpt-image-2-all", "images/generations")
    none = client.get(f"{base}/models/real-esrgan", headers=KEY)
    assert (none.status_code, "real-esrgan" in none.text) == (404, True)


@pytest.mark.parametrize(
    "path",
    [
        *(f"{base}/{kind}/generations" for base in BASES for kind in ("video", "audio")),
        # below /v1 itself that is OpenAI's
        *(f"{base}/chat/completions" for base in BASES if base != "/v1"),
    ],
)
def test_what_is_no_picture_is_refused__INF(client: httpx2.Client, path: str) -> None:
    reply = client.post(path, json={"model": "veo-3.1", "prompt": "a"}, headers=KEY)

    status, text = refusal(reply)
    assert (status, "makes pictures" in text) == (400, True)


@pytest.mark.parametrize("base", BASES)
def test_a_file_that_is_left_is_taken_as_input__R(served: Served, base: str) -> None:
    left = served.client.post(
        f"{base}/files", files={"file": ("a.png", png(40, 20), "image/png")}, headers=KEY
    )

    body = left.json()
    assert (left.status_code, body["code"], body["msg"]) == (200, 200, "success")
    url = body["data"]["publicUrl"]
    assert url.startswith(f"{served.url}/")
    assert picture(served, url).size == (40, 20)
    assert 7 * DAY_SECONDS - 60 < body["data"]["expireTime"] / 1000 - time.time() < 8 * DAY_SECONDS
    done = ended(served, create(served.client, base=base, image_url=url))
    assert (done["state"], done["modelType"]) == ("completed", "IMAGE_TO_IMAGE")


@pytest.mark.parametrize(
    ("send", "status", "said"),
    [
        pytest.param({"files": {"file": ("a.txt", b"text")}}, 415, "file", id="R no picture"),
        pytest.param({"files": {"file": ("a.png", b"\0" * 60_000_000)}}, 413, "file", id="R large"),
        pytest.param({"files": {"picture": png()}}, 400, "file", id="INF another name"),
        pytest.param({"files": [("file", png()), ("file", png())]}, 400, "file", id="INF two"),
        pytest.param({"files": {"file": (None, "text")}}, 400, "file", id="INF text"),
        pytest.param({"json": {"file": data_uri(png())}}, 400, "multipart", id="INF JSON"),
        pytest.param({"content": b"x"}, 415, "multipart", id="INF neither"),
    ],
)
@pytest.mark.parametrize("base", ["/api/v1", "/v1"])
def test_a_file_that_is_none_is_refused(
    client: httpx2.Client, base: str, send: dict[str, Any], status: int, said: str
) -> None:
    told = refusal(client.post(f"{base}/files", headers=KEY, **send))

    assert told[0] == status
    assert said in told[1]

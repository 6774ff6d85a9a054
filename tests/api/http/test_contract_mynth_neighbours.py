"""Mynth's contract, what lies beside generations: a test per documented statement.

`R` in an id is the provider's published client, `D` a page of its documents; `INF` is what we do
where both are silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.api.http.keyed import folder as folder
from tests.api.http.keyed import key as key
from tests.api.http.mynth import (
    Helpers,
    assert_error,
    created,
    data,
    ended,
    opened,
    png,
    uploaded,
)
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.making import encoded

HELPERS = Helpers()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """It asks for keys, has helpers, and takes up one task at a time."""
    with serving(folder, assistants=HELPERS.all, images_in_flight=1) as running:
        yield running


@pytest.fixture(autouse=True)
def _well_again() -> Iterator[None]:
    yield
    HELPERS.fails = ""


# 4.4 upload


def test_uploads_become_addresses_in_their_order__R(
    client: httpx2.Client, key: dict[str, str]
) -> None:
    urls = uploaded(client, png(40), png(50), png(60), headers=key)
    assert [opened(client, url).size for url in urls] == [(40, 40), (50, 50), (60, 60)]


# A picture of less than a kilobyte.
DOT = Image.new("RGB", (8, 8), "red")


def file(content: bytes, name: str = "images") -> tuple[str, tuple[str, bytes, str]]:
    return name, ("a.png", content, "image/png")


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        pytest.param([file(png())] * 11, 400, "VALIDATION_ERROR", id="R eleven"),
        pytest.param([file(encoded(DOT))], 400, "VALIDATION_ERROR", id="R too small"),
        pytest.param([file(bytes(10 * 1024**2 + 1))], 413, "PAYLOAD_TOO_LARGE", id="R too large"),
        pytest.param([file(bytes(2000))], 415, "UNSUPPORTED_MEDIA_TYPE", id="R no picture"),
        pytest.param([file(b"GIF89a" + bytes(2000))], 415, "UNSUPPORTED_MEDIA_TYPE", id="R gif"),
        pytest.param([file(png(), "file")], 400, "VALIDATION_ERROR", id="INF another part"),
        pytest.param(
            [file(png()), file(bytes(2000))], 415, "UNSUPPORTED_MEDIA_TYPE", id="INF one of two"
        ),
    ],
)
def test_an_upload_is_refused(
    client: httpx2.Client, key: dict[str, str], parts: Any, status: int, code: str
) -> None:
    reply = client.post("/image/upload", files=parts, headers=key)
    assert_error(reply, status, code, "images")


def test_an_upload_must_be_a_form__INF(client: httpx2.Client, key: dict[str, str]) -> None:
    reply = client.post("/image/upload", json={"images": []}, headers=key)
    assert_error(reply, 415, "UNSUPPORTED_MEDIA_TYPE")


def test_ten_uploads_are_taken__R(client: httpx2.Client, key: dict[str, str]) -> None:
    assert len(set(uploaded(client, *[png(20)] * 10, headers=key))) == 10


# 4.4 looks


def looked(served: Served, key: dict[str, str], what: str, **fields: Any) -> dict[str, Any]:
    """The task of a look at a picture, ended."""
    reply = served.client.post(f"/image/{what}", json=fields, headers=key)
    told = data(reply, 201)
    assert set(told) == {"taskId", "estimatedCost"}
    return ended(served, told["taskId"], key)


@pytest.mark.parametrize(
    ("what", "fields", "result"),
    [
        pytest.param("rate", {}, {"level": "nsfw"}, id="R rate"),
        pytest.param("rate", {"mode": "nsfw_sfw"}, {"level": "nsfw"}, id="R rate nsfw_sfw"),
        pytest.param(
            "rate",
            {
                "mode": "custom",
                "levels": [
                    {"value": "calm", "description": "no red"},
                    {"value": "loud", "description": "red"},
                ],
            },
            {"level": "loud"},
            id="R rate custom",
        ),
        pytest.param("alt", {}, {"alt": "64 by 64"}, id="R alt"),
        pytest.param("review", {}, {"score": 3, "summary": "high"}, id="R review"),
        pytest.param(
            "review", {"effort": "low"}, {"score": 3, "summary": "low"}, id="R review low"
        ),
    ],
)
def test_a_picture_is_looked_at(
    served: Served, key: dict[str, str], what: str, fields: dict[str, Any], result: dict[str, Any]
) -> None:
    (url,) = uploaded(served.client, png(), headers=key)

    task = looked(served, key, what, url=url, **fields)

    assert (task["type"], task["status"]) == (f"image.{what}", "completed")
    assert task["request"] == {"url": url} | fields
    assert task["cost"] == "0"
    assert task["result"].items() >= ({"url": url} | result).items()
    assert ("findings" in task["result"]) is (what == "review")
    status = f"/tasks/{task['id']}/result"
    assert data(served.client.get(status, headers=key))["result"] == task["result"]
    for other in ("/api/v1/generations/{}", "/api/v1/images/generations?task_id={}"):
        assert served.client.get(other.format(task["id"]), headers=key).status_code == 404


def test_a_review_has_findings_and_strengths__R(served: Served, key: dict[str, str]) -> None:
    (url,) = uploaded(served.client, png(), headers=key)
    result = looked(served, key, "review", url=url)["result"]
    assert [one["finding"] for one in result["findings"]] == ["dull"]
    assert [one["strength"] for one in result["strengths"]] == ["red"]
    assert set(result["findings"][0]) == {"finding", "category", "severity", "where", "confidence"}


@pytest.mark.parametrize(
    ("what", "code"),
    [("rate", "RATE_FAILED"), ("alt", "ALT_FAILED"), ("review", "REVIEW_FAILED")],
)
def test_a_look_that_fails_says_why__R(
    served: Served, key: dict[str, str], what: str, code: str
) -> None:
    (url,) = uploaded(served.client, png(), headers=key)
    HELPERS.fails = "the helper is away"
    task = looked(served, key, what, url=url)
    assert (task["status"], task["result"]) == ("failed", None)
    assert task["errors"] == [{"code": code, "message": "the helper is away"}]


@pytest.mark.parametrize(
    ("what", "fields", "field"),
    [
        pytest.param("rate", {}, "url", id="R rate nothing"),
        pytest.param("alt", {}, "url", id="R alt nothing"),
        pytest.param("review", {}, "url", id="R review nothing"),
        pytest.param("alt", {"url": "cat.png"}, "url", id="INF no address"),
        pytest.param("alt", {"url": "http://10.0.0.1/cat.png"}, "url", id="INF private address"),
        pytest.param("rate", {"url": "http://1.1.1.1/", "mode": "x"}, "mode", id="INF mode"),
        pytest.param(
            "rate", {"url": "http://1.1.1.1/", "mode": "custom"}, "levels", id="R no levels"
        ),
        pytest.param("review", {"url": "http://1.1.1.1/", "effort": "x"}, "effort", id="R effort"),
    ],
)
def test_a_look_is_refused(
    client: httpx2.Client, key: dict[str, str], what: str, fields: dict[str, Any], field: str
) -> None:
    reply = client.post(f"/image/{what}", json=fields, headers=key)
    assert_error(reply, 400, "VALIDATION_ERROR", field)


@pytest.mark.parametrize("what", ["rate", "alt", "review"])
def test_a_server_without_helpers_says_so__INF(
    tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    with serving(tmp_path_factory.mktemp("data")) as served:
        reply = served.client.post(f"/image/{what}", json={"url": "http://1.1.1.1/a.png"})
        said = assert_error(reply, 400, "VALIDATION_ERROR", "rating" if what == "rate" else None)
        assert "models.yaml" in said


# 4.4 models, me, balance


def test_models_need_no_key__R(client: httpx2.Client) -> None:
    listed = {one["id"]: one for one in data(client.get("/models"))}
    assert {"auto", "tiny-flux", "black-forest-labs/flux.2-pro"} <= set(listed)
    assert listed["black-forest-labs/flux.2-pro"] == {
        "id": "black-forest-labs/flux.2-pro",
        "displayName": None,
        "pricing": {"perImage": {"base": "0.03"}},
    }


def test_every_listed_model_can_be_asked_for_its_price__INF(
    client: httpx2.Client, key: dict[str, str]
) -> None:
    for one in data(client.get("/models")):
        wish = {"prompt": "a", "model": one["id"]}
        reply = client.post("/image/generate/estimate", json=wish, headers=key)
        if reply.status_code == 200:
            assert data(reply)["estimatedCost"] == one["pricing"]["perImage"]["base"]
        else:
            assert_error(reply, 400, "VALIDATION_ERROR", "model")


def test_the_document_needs_no_key__D(client: httpx2.Client) -> None:
    document = client.get("/openapi").json()
    assert document["openapi"].startswith("3.")
    assert {"/image/generate", "/tasks/{task_id}/status"} <= set(document["paths"])


def test_me_is_the_account_and_its_key__R(folder: Path, client: httpx2.Client) -> None:
    key = make_key(folder, "me", label="laptop")
    told = data(client.get("/me", headers=bearer(key)))
    assert told["userId"] == "me"
    assert told["auth"]["method"] == "api-key"
    assert set(told["auth"]["apiKey"]) == {"id", "name", "keyPreview"}
    assert told["auth"]["apiKey"]["name"] == "laptop"
    preview = told["auth"]["apiKey"]["keyPreview"].removesuffix("…")
    assert preview and preview not in key


def test_a_balance_reserves_what_is_unfinished__R(folder: Path, served: Served) -> None:
    key = bearer(make_key(folder, "payer", credits=100))
    served.script.gate.clear()
    blocker = created(served.client, headers=key, count=1)["taskId"]
    queued = created(served.client, headers=key, count=4)["taskId"]
    told = data(served.client.get("/balance", headers=key))
    served.script.gate.set()

    assert set(told) == {"balance", "reserved", "available", "currency"}
    assert (told["available"], told["currency"]) == ("0.95", "usd")
    assert float(told["balance"]) == pytest.approx(float(told["reserved"]) + 0.95)
    assert told["reserved"] in ("0.04", "0.05")
    for task_id in (blocker, queued):
        ended(served, task_id, key)
    told = data(served.client.get("/balance", headers=key))
    assert (told["balance"], told["reserved"], told["available"]) == ("0.95", "0", "0.95")


def test_a_spending_limit_is_told__R(folder: Path, served: Served) -> None:
    key = bearer(make_key(folder, "spender", spend_limit=10))
    ended(served, created(served.client, headers=key, count=3)["taskId"], key)
    assert data(served.client.get("/balance", headers=key))["apiKey"] == {
        "spendingLimit": "0.1",
        "spendingLimitPeriod": "month",
        "usedInPeriod": "0.03",
        "remainingInPeriod": "0.07",
    }

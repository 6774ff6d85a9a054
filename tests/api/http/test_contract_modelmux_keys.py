"""ModelMux's contract with keys: who may come in, what is paid and what comes back.

`S1` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from inference.errors import PipelineFailed
from tests.api.http.modelmux import PATH, account, create, ended
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.http.test_contract_modelmux_create import PRICES
from tests.api.making import png


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def key(folder: Path) -> dict[str, str]:
    """The header of a key whose account has credits."""
    return bearer(make_key(folder, "fox", credits=100_000))


@pytest.fixture(scope="module")
def server(folder: Path, key: dict[str, str]) -> Iterator[Served]:
    with serving(folder) as running:
        yield running


# 2.1 auth


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
def test_a_key_opens__S1(client: httpx2.Client, key: dict[str, str], name: str) -> None:
    text = key["Authorization"]
    headers = {name: text if name == "authorization" else text.removeprefix("Bearer ")}

    assert create(client, headers=headers).status_code == 200


ROUTES = [
    ("POST", PATH),
    ("GET", f"{PATH}/x"),
    ("GET", f"{PATH}/x/image"),
    ("HEAD", f"{PATH}/x"),
    ("HEAD", f"{PATH}/x/image"),
    ("GET", "/api/storage/file?key=generated/x/0.png"),
    ("POST", f"/modelmux{PATH}"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="S1 missing"),
        pytest.param({"Authorization": "Bearer nonsense"}, id="S1 invalid"),
        pytest.param({"x-api-key": "dk_" + "0" * 49}, id="S1 invalid x-api-key"),
        pytest.param({"Authorization": "Basic YTpi"}, id="INF other scheme"),
    ],
)
def test_no_key_no_entry(
    client: httpx2.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    reply = client.request(method, path, headers=headers)

    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        assert set(reply.json()) == {"error", "code"}
        assert reply.json()["code"] == "unauthorized"


def test_a_file_opens_by_signature_or_key__INF(
    served: Served, folder: Path, key: dict[str, str]
) -> None:
    done = ended(served, create(served.client, headers=key).json()["historyId"], key)
    bare = done["outputUrl"].split("%3F")[0]

    assert served.client.get(done["outputUrl"]).status_code == 200
    assert served.client.get(bare, headers=key).status_code == 200
    assert served.client.get(bare).status_code == 401
    spoilt = done["outputUrl"][:-4] + "0000"
    assert served.client.get(spoilt, headers=key).status_code == 200
    for headers, status, code in (
        ({}, 403, "forbidden"),
        ({"x-api-key": "nonsense"}, 401, "unauthorized"),
        ({"x-api-key": make_key(folder, "passer-by")}, 404, "not_found"),
    ):
        reply = served.client.get(spoilt, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_an_old_output_url_opens_with_the_key_still__INF(
    served: Served, key: dict[str, str]
) -> None:
    done = ended(served, create(served.client, headers=key).json()["historyId"], key)
    long_ago = replace(served.services.links, now_seconds=lambda: 0.0)
    old = {"key": long_ago.sign(f"generated/{done['historyId']}/0.png")}

    assert served.client.get("/api/storage/file", params=old).status_code == 403
    assert served.client.get("/api/storage/file", params=old, headers=key).status_code == 200


def test_a_generation_of_another_account_is_404__INF(
    served: Served, folder: Path, key: dict[str, str]
) -> None:
    stranger = {"x-api-key": make_key(folder, "stranger")}
    done = ended(served, create(served.client, headers=key).json()["historyId"], key)
    bare = done["outputUrl"].split("%3F")[0]

    for path in (f"{PATH}/{done['historyId']}", f"{PATH}/{done['historyId']}/image", bare):
        assert served.client.get(path, headers=key).status_code == 200
        reply = served.client.get(path, headers=stranger)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


# 2.2, 2.5 credits


@pytest.mark.parametrize(
    ("model", "resolution", "quality", "credits"),
    [pytest.param(*row, price, id=f"S1 {row}") for row, price in PRICES.items()],
)
def test_credits_are_charged_by_model_resolution_and_quality(
    served: Served,
    key: dict[str, str],
    model: str,
    resolution: str,
    quality: str | None,
    credits: int,
) -> None:
    before = account(served, key)
    fields = {"model": model, "resolution": resolution, "quality": quality}
    created = create(served.client, headers=key, **fields).json()

    done = ended(served, created["historyId"], key)

    after = account(served, key)
    assert (created["creditsCharged"], done["creditsUsed"]) == (credits, credits)
    assert (before["balance"] - after["balance"], after["held"]) == (credits, 0)


def test_credits_are_held_then_charged_when_it_runs__S1(
    served: Served, key: dict[str, str]
) -> None:
    before = account(served, key)
    served.script.gate.clear()
    first = create(served.client, headers=key).json()["historyId"]

    assert account(served, key)["balance"] == before["balance"] - 5

    served.script.gate.set()
    ended(served, first, key)
    assert account(served, key) == before | {"balance": before["balance"] - 5}


@pytest.mark.parametrize("how", ["S1 failed", "INF cancelled"])
def test_credits_come_back_when_nothing_comes_of_it(
    served: Served, key: dict[str, str], how: str
) -> None:
    before = account(served, key)
    if how == "INF cancelled":
        served.script.gate.clear()
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")
    history_id = create(served.client, headers=key).json()["historyId"]
    if how == "INF cancelled":
        served.client.post(f"/darkroom/generations/{history_id}/cancel", headers=key)

    told = ended(served, history_id, key)

    assert (told["status"], told["creditsUsed"]) == ("failed", 0)
    assert account(served, key) == before


def test_no_credits_is_402_and_nothing_is_kept__INF(served: Served, folder: Path) -> None:
    poor = {"x-api-key": make_key(folder, "poor", credits=9)}
    assert create(served.client, headers=poor).status_code == 200

    reply = create(served.client, headers=poor)

    assert (reply.status_code, reply.json()["code"]) == (402, "insufficient_credits")
    assert "costs 5 credits and the balance is 4" in reply.json()["error"]
    listed = served.client.get("/darkroom/generations", headers=poor).json()["generations"]
    assert len(listed) == 1


# 2.5 the table of statuses, with a key


@pytest.mark.parametrize(
    ("method", "path", "send", "status", "code"),
    [
        pytest.param("POST", PATH, {"json": {"prompt": "a"}}, 200, None, id="S1 200"),
        pytest.param("POST", PATH, {"json": {}}, 400, "invalid_request", id="S1 400"),
        pytest.param("GET", f"{PATH}/none", {}, 404, "not_found", id="S1 404"),
        pytest.param(
            *("POST", PATH, {"data": {"prompt": "a"}, "files": {"image": b"0" * 40_000}}),
            *(413, "payload_too_large"),
            id="S1 413",
        ),
        pytest.param(
            *("POST", PATH, {"data": {"prompt": "a"}, "files": {"image": b"text"}}),
            *(415, "unsupported_media_type"),
            id="S1 415",
        ),
        pytest.param("POST", PATH, {"json": {"prompt": "a"}}, 429, "rate_limited", id="S1 429"),
        pytest.param("GET", f"{PATH}/none", {}, 500, "internal_error", id="S1 500"),
    ],
)
def test_every_status_of_the_table(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    send: dict[str, Any],
    status: int,
    code: str | None,
) -> None:
    limits = {"rate_per_minute": 1} if status == 429 else {}
    headers = {"x-api-key": make_key(tmp_path, "fox", **limits)}
    with serving(tmp_path, max_picture_bytes=30_000) as served:
        if status == 429:
            assert create(served.client, headers=headers).status_code == 200
        if status == 500:
            monkeypatch.setattr(served.services.darkroom, "get", None)

        reply = served.client.request(method, path, headers=headers, **send)

        assert reply.status_code == status, reply.text
        if code is not None:
            assert (set(reply.json()), reply.json()["code"]) == ({"error", "code"}, code)
        assert ("retry-after" in reply.headers) == (status == 429)


# idempotency and references


def test_an_idempotency_key_makes_one_generation__INF(served: Served, key: dict[str, str]) -> None:
    before = account(served, key)
    headers = key | {"Idempotency-Key": "order-1"}
    first = create(served.client, headers=headers)
    ended(served, first.json()["historyId"], key)

    again = create(served.client, headers=headers)
    other = create(served.client, headers=headers, prompt="another")

    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert account(served, key)["balance"] == before["balance"] - 5


def test_several_references_are_counted_in_the_refusal__INF(
    served: Served, key: dict[str, str]
) -> None:
    """The model served here takes four; that all are seen is in what is said."""
    files = [(name, png()) for name in ("image[]", "image[]", "reference", "file", "images")]

    reply = served.client.post(PATH, data={"prompt": "a"}, files=files, headers=key)

    assert reply.status_code == 400
    assert "not 5" in reply.json()["error"]

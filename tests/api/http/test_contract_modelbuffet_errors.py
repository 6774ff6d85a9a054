"""Model Buffet's contract, errors: a test per row of what we do where the provider is silent.

`S0` in an id is the provider's own page; `INF` is ours.
"""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.api.http.modelbuffet import (
    EDIT,
    FIELDS,
    KEY,
    PATH,
    assert_error,
    data_uri,
    generate,
)
from tests.api.http.modelbuffet import server as server
from tests.api.http.served import Served, bearer, make_key, serving, until

JSON = {"Content-Type": "application/json"}
LONG = "prompt should have at most 4000 characters"
BAD = (400, "invalid_request", "invalid_request")


def fields(**changes: Any) -> dict[str, Any]:
    return {"json": FIELDS | changes}


# 1.2 errors: 400, 404, 415


@pytest.mark.parametrize(
    ("send", "error", "param", "named"),
    [
        pytest.param(fields(model=None), BAD, "model", "required", id="S0 no model"),
        pytest.param(fields(prompt=None), BAD, "prompt", "required", id="S0 no prompt"),
        pytest.param(fields(prompt=" "), BAD, "prompt", "empty", id="S0 empty prompt"),
        pytest.param(fields(prompt="a" * 4001), BAD, "prompt", LONG, id="S0 longer prompt"),
        pytest.param(fields(count=0), BAD, "count", "1", id="S0 count 0"),
        pytest.param(fields(count=9), BAD, "count", "8", id="S0 count 9"),
        pytest.param(fields(count="4"), BAD, "count", "integer", id="S0 count as text"),
        *(
            pytest.param(fields(aspect_ratio=one), BAD, "aspect_ratio", "21:9", id=f"S0 no {one}")
            for one in ("3:2", "4:3", "3:4", "2:1", "")
        ),
        pytest.param(
            fields(references=[{"url": data_uri(), "tag": "mood"}]),
            *(BAD, "references[0].tag", "palette"),
            id="S0 unknown tag, naming those there are",
        ),
        pytest.param(
            fields(references=[{"url": data_uri()}, {"url": data_uri(), "weight": 1.5}]),
            *(BAD, "references[1].weight", "1"),
            id="S0 weight over 1",
        ),
        pytest.param(
            fields(references=[{"url": data_uri(), "weight": -0.5}]),
            *(BAD, "references[0].weight", "0"),
            id="S0 weight below 0",
        ),
        pytest.param(
            fields(references=[{"url": data_uri()}] * 7),
            *(BAD, "references", "references should have at most 6 items, not 7"),
            id="S0 a seventh reference",
        ),
        pytest.param(
            fields(references=[{"tag": "pose"}]),
            *(BAD, "references[0].url", "required"),
            id="S0 reference without url",
        ),
        pytest.param(
            fields(references=[{"url": "/etc/passwd"}]),
            *(BAD, "references[0].url", "data URI"),
            id="INF reference that is no picture",
        ),
        pytest.param(fields(seed=-1), BAD, "seed", "4294967295", id="INF seed below 0"),
        pytest.param(fields(seed=2**32), BAD, "seed", "4294967295", id="INF seed too large"),
        pytest.param(fields(seed="7"), BAD, "seed", "integer", id="S0 seed as text"),
        pytest.param(fields(negative_prompt=1), BAD, "negative_prompt", "string", id="S0 negative"),
        pytest.param(fields(webhook="a.example"), BAD, "webhook", "http", id="S0 webhook no URL"),
        pytest.param(
            fields(webhook="http://10.0.0.1/hook"),
            BAD,
            "webhook",
            "private",
            id="INF webhook inside",
        ),
        pytest.param(
            {"content": b"{", "headers": JSON}, BAD, None, "JSON", id="INF body that is no JSON"
        ),
        pytest.param(
            {"content": b'{"model":"auto","prompt":"\\ud800"}', "headers": JSON},
            *(BAD, "prompt", "surrogate"),
            id="INF lone surrogate",
        ),
        pytest.param(
            {"content": b'{"references":[{"weight":NaN}]}', "headers": JSON},
            *(BAD, "references[0].weight", "NaN"),
            id="INF NaN",
        ),
        pytest.param(
            fields(model="flux-9"),
            *((404, "not_found", "model_not_found"), "model", "mystic-2-5-flexible"),
            id="INF unknown model, naming those served",
        ),
        pytest.param(
            {"content": b"prompt=a", "headers": {"Content-Type": "text/plain"}},
            *((415, "invalid_request", "unsupported_media_type"), None, "application/json"),
            id="INF other content type",
        ),
        pytest.param(
            {"data": FIELDS, "files": {"image": ("a.png", b"1")}},
            *((415, "invalid_request", "unsupported_media_type"), None, "application/json"),
            id="S0 a form instead of JSON",
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/modelbuffet"], ids=["native", "alias"])
def test_a_bad_creation_is_told(
    client: httpx2.Client,
    send: dict[str, Any],
    error: tuple[int, str, str],
    param: str | None,
    named: str,
    prefix: str,
) -> None:
    reply = client.post(prefix + PATH, **send)

    assert_error(reply, *error, param)
    assert named in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("pictures", "error", "param"),
    [
        pytest.param({}, BAD, "image", id="INF no image"),
        pytest.param({"image": None}, BAD, "image", id="INF null image"),
        pytest.param({"image": "x!"}, BAD, "image", id="INF image that is no picture"),
        pytest.param({"image": data_uri(), "mask": ""}, BAD, "mask", id="INF empty mask"),
        pytest.param({"image": "http://10.0.0.1/a.png"}, BAD, "image", id="INF image inside"),
        pytest.param(
            {"image": "AAEC"},
            *((415, "invalid_request", "unsupported_media_type"), "image"),
            id="INF bytes of something else",
        ),
    ],
)
def test_a_bad_edit_is_told(
    client: httpx2.Client, pictures: dict[str, Any], error: tuple[int, str, str], param: str
) -> None:
    reply = client.post(EDIT, json=FIELDS | pictures, headers=KEY)

    assert_error(reply, *error, param)


# 1.2 errors: 401, 402, 403


def test_keys_credits_and_rights__INF(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("data")
    poor = make_key(folder, "poor", credits=31)
    other = make_key(folder, "team", dialect="modelmux")
    with serving(folder) as served:
        none = served.client.post(PATH, json=FIELDS)
        wrong = served.client.post(PATH, json=FIELDS, headers=KEY)
        broke = served.client.post(PATH, json=FIELDS, headers=bearer(poor))
        foreign = served.client.post(PATH, json=FIELDS, headers={"x-api-key": other})
        three = served.client.post(PATH, json=FIELDS | {"count": 3}, headers=bearer(poor))

    assert_error(none, 401, "authentication", "unauthorized", None)
    assert none.headers["www-authenticate"] == "Bearer"
    assert_error(wrong, 401, "authentication", "unauthorized", None)
    assert_error(broke, 402, "billing", "insufficient_credits", None)
    assert_error(foreign, 403, "permission", "forbidden", None)
    assert (three.status_code, three.json()["credits_used"]) == (200, 24)


# 1.2 errors: 404, 405 by the owner of the path


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        pytest.param("GET", PATH, 405, "method_not_allowed", id="INF method"),
        pytest.param("PUT", f"/modelbuffet{EDIT}", 405, "method_not_allowed", id="INF alias"),
        pytest.param("POST", f"{PATH}/gen_0000000000/x", 404, "not_found", id="INF generate"),
        pytest.param("GET", "/v1/generations", 404, "not_found", id="INF generations"),
        pytest.param("GET", "/o/gen_0000000000", 404, "not_found", id="INF pictures"),
        pytest.param("GET", "/modelbuffet/v1/none", 404, "not_found", id="INF below the alias"),
    ],
)
def test_a_wrong_path_or_method_is_told_in_its_shape(
    client: httpx2.Client, method: str, path: str, status: int, code: str
) -> None:
    kind = "invalid_request" if status == 405 else "not_found"

    assert_error(client.request(method, path), status, kind, code, None)


# 1.2 errors: 413


def test_what_is_too_large_is_413__INF(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, max_body_bytes=20_000, max_picture_bytes=100) as served:
        body = generate(served.client, prompt="a" * 20_000)
        picture = served.client.post(EDIT, json=FIELDS | {"image": data_uri(64)})

    assert_error(body, 413, "invalid_request", "payload_too_large", None)
    assert_error(picture, 413, "invalid_request", "payload_too_large", "image")


# 1.2 errors: 429, 500, 503


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        pytest.param(
            {"max_account_tasks": 1}, (429, "rate_limit", "too_many_unfinished"), id="INF account"
        ),
        pytest.param({"max_queue_tasks": 1}, (503, "server", "overloaded"), id="INF server"),
    ],
)
def test_a_full_queue_is_told(
    tmp_path_factory: pytest.TempPathFactory, limit: dict[str, Any], error: tuple[int, str, str]
) -> None:
    with serving(tmp_path_factory.mktemp("data"), **limit) as served:
        served.script.gate.clear()
        first = generate(served.client, headers={"Prefer": "respond-async"})
        reply = generate(served.client)

    assert first.status_code == 202
    assert_error(reply, *error, None)
    assert int(reply.headers["retry-after"]) >= 1
    assert "x-ratelimit-limit" in reply.headers


def test_a_server_that_takes_no_work_is_503__INF(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("data"), disk_floor_bytes=2**60) as served:
        reply = generate(served.client)

    assert_error(reply, 503, "server", "unavailable", None)
    assert "retry-after" in reply.headers


def test_what_breaks_here_is_500__INF(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(served.services.darkroom, "submit", breaks)

    reply = generate(served.client)

    assert_error(reply, 500, "server", "internal_error", None)
    assert "secret" not in reply.text


def test_a_refused_creation_leaves_nothing_to_do__INF(served: Served) -> None:
    orders_before = len(served.script.orders)

    generate(served.client, count=9)
    generate(served.client, references=[{"url": data_uri()}])

    assert generate(served.client, count=1).status_code == 200
    until(lambda: len(served.script.orders) == orders_before + 1)

"""APIModels' contract, errors: a test per documented statement, each at every base.

`S4` in an id is the provider's own page; `R` is what their client reads; `INF` is what we do where
both are silent.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.http.apimodels import BASES, KEY, PATH, create, made, poll, refusal
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.making import data_uri, png

JSON = {"Content-Type": "application/json"}
GZIP = {"Content-Encoding": "gzip"}
BODY = {"model": "gpt-image-2", "prompt": "a", "aspect_ratio": "1:1"}


# 5.5 errors


@pytest.mark.parametrize("base", [pytest.param(base, id=base) for base in BASES])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"prompt": None}, "prompt is required", id="S4 no prompt"),
        pytest.param({"prompt": ""}, "prompt is required", id="S4 empty prompt"),
        pytest.param({"prompt": " "}, "prompt", id="S4 blank prompt"),
        pytest.param({"model": None}, "model is required", id="S4 no model"),
        pytest.param({"n": 11}, "n ", id="S4 n"),
        pytest.param({"aspect_ratio": "wide"}, "aspect_ratio", id="S4 aspect_ratio"),
        pytest.param({"aspect_ratio": "9:1"}, "8:1", id="S4 beyond 8:1"),
        pytest.param({"resolution": "8K"}, "resolution", id="S4 resolution"),
        pytest.param({"aspect_ratio": None, "size": "8K", "image": "AAEC"}, "size", id="S4 size"),
        pytest.param({"seed": -1}, "seed", id="S4 seed"),
        pytest.param({"image_url": "not a picture"}, "image_url", id="S4 image_url"),
        pytest.param({"image_url": data_uri(b"text")}, "image_url", id="S4 no picture"),
        pytest.param({"image_url": "http://10.0.0.1/a.png"}, "image_url", id="R private address"),
        pytest.param({"mask_url": data_uri(png())}, "image", id="INF mask alone"),
        pytest.param({"layer_decomposition": True}, "layer_decomposition", id="R layers"),
        pytest.param({"background": "transparent"}, "background", id="R background"),
        pytest.param({"scale": 4, "image": data_uri(png())}, "scale", id="T scale"),
        pytest.param({"scale": "4"}, "scale should be a valid number", id="INF scale as text"),
        pytest.param({"face_enhance": True}, "face_enhance", id="T face_enhance"),
        pytest.param({"lora_weights": "nobody's"}, "lora_weights", id="D lora_weights"),
        pytest.param({"up_expansion_ratio": 0.5}, "up_expansion_ratio", id="INF expansion"),
        pytest.param({"nsfw_checker": True}, "nsfw_checker", id="D nsfw_checker"),
    ],
)
def test_a_bad_field_is_named(
    client: httpx2.Client, base: str, fields: dict[str, Any], said: str
) -> None:
    status, text = refusal(create(client, base=base, **fields))

    assert status in (400, 415)
    assert (status == 415) == ("not a picture" in text)
    assert said in text


@pytest.mark.parametrize("base", BASES)
def test_an_unknown_model_is_told_with_those_served__R(served: Served, base: str) -> None:
    status, text = refusal(create(served.client, base=base, model="real-esrgan", prompt=None))

    names = ", ".join(served.services.catalog.names())
    assert (status, text) == (400, f"Invalid model: real-esrgan. Supported: {names}")


@pytest.mark.parametrize(
    ("send", "status", "said"),
    [
        pytest.param({"content": b"{", "headers": JSON}, 400, "JSON", id="S4 broken"),
        pytest.param({"content": b"[]", "headers": JSON}, 400, "object", id="S4 a list"),
        pytest.param({"json": {"prompt": "a\0b"}}, 400, "NUL", id="INF NUL"),
        pytest.param(
            {"content": b'{"prompt":"\\ud800"}', "headers": JSON}, 400, "prompt", id="INF surrogate"
        ),
        pytest.param({"content": b'{"seed":NaN}', "headers": JSON}, 400, "seed", id="INF NaN"),
        pytest.param({"content": b"a=1"}, 415, "application/json", id="INF no type"),
        pytest.param(
            {"content": gzip.compress(b"{}"), "headers": JSON | GZIP}, 415, "Content", id="INF gzip"
        ),
        pytest.param(
            {"data": BODY, "files": {"image": png()}}, 415, "application/json", id="INF a form"
        ),
    ],
)
@pytest.mark.parametrize("path", [PATH, f"/apimodels{PATH}", "/v1/images/generations-sync"])
def test_a_body_that_cannot_be_read_is_told(
    client: httpx2.Client, path: str, send: dict[str, Any], status: int, said: str
) -> None:
    told = refusal(client.post(path, **send))

    assert told[0] == status
    assert said in told[1]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/apimodels/v1/nothing", 404),
        ("POST", "/apimodels/nothing", 404),
        ("DELETE", PATH, 405),
        ("PUT", "/v1/images/generations-sync", 405),
        ("DELETE", "/v1/balance", 405),
        ("GET", "/v1/files", 405),
    ],
)
def test_a_wrong_path_or_method_is_told_in_the_envelope__INF(
    client: httpx2.Client, method: str, path: str, status: int
) -> None:
    reply = client.request(method, path)

    assert refusal(reply)[0] == status
    assert ("allow" in reply.headers) == (status == 405)


def test_a_full_queue_is_429__INF(tmp_path: Path) -> None:
    with serving(tmp_path, max_account_tasks=1) as served:
        served.script.gate.clear()
        assert create(served.client).status_code == 200
        reply = create(served.client)
        assert refusal(reply)[0] == 429
        assert int(reply.headers["retry-after"]) >= 1


def test_what_breaks_here_is_500__S4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as served:
        monkeypatch.setattr(served.services.darkroom, "get", None)
        for base in BASES:
            assert refusal(poll(served.client, "clnone", base=base))[0] == 500


# with keys

# Without those whose shape is another's as long as nothing tells whose they are.
ROUTES = [
    *(("POST", f"{base}/images/generations-sync") for base in BASES),
    *(("POST", f"{base}/images/edit") for base in BASES if base != "/v1"),
    *(("GET", f"{base}/images/generations?task_id=x") for base in BASES),
    *(("GET", f"{base}/balance") for base in BASES),
    *(("POST", f"{base}/files") for base in BASES),
    *(("GET", f"{base}/video/generations?task_id=x") for base in BASES),
    *(("POST", f"{base}/video/generations") for base in BASES),
    *(("POST", f"{base}/images/generations") for base in BASES if base != "/v1"),
    *(("GET", f"{base}/models") for base in BASES if base != "/v1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def key(folder: Path) -> dict[str, str]:
    return bearer(make_key(folder, "fox", credits=1000))


@pytest.fixture(scope="module")
def keyed(folder: Path, key: dict[str, str]) -> Any:
    with serving(folder) as running:
        yield running


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: f"S4 {value}")
@pytest.mark.parametrize("headers", [{}, KEY, {"x-api-key": "dk_0"}], ids=["none", "bad", "bad x"])
def test_no_key_no_entry(keyed: Served, method: str, path: str, headers: dict[str, str]) -> None:
    reply = keyed.client.request(method, path, headers=headers)

    assert refusal(reply)[0] == 401
    assert reply.headers["www-authenticate"] == "Bearer"


def test_no_credits_is_402_and_nothing_is_kept__S4(keyed: Served, folder: Path) -> None:
    poor = bearer(make_key(folder, "poor", credits=3))
    assert create(keyed.client, headers=poor).status_code == 200

    status, text = refusal(create(keyed.client, headers=poor))

    assert (status, "balance is 1" in text) == (402, True)
    listed = keyed.client.get("/darkroom/generations", headers=poor).json()["generations"]
    assert len(listed) == 1


@pytest.mark.parametrize("base", BASES)
def test_a_balance_is_in_dollars__R(keyed: Served, folder: Path, base: str) -> None:
    team = base.strip("/").replace("/", "-")
    rich = bearer(make_key(folder, team, credits=1234))

    reply = keyed.client.get(f"{base}/balance", headers=rich)

    data = {"balance": 12.34, "credits": 1234, "metered": True}
    assert reply.json() == {"code": 200, "msg": "success", "data": data}


def test_a_balance_follows_what_a_credit_is_worth__INF(tmp_path: Path) -> None:
    headers = bearer(make_key(tmp_path, "team", credits=200))
    with serving(tmp_path, credit_usd="0.025") as served:
        made(create(served.client, headers=headers))
        told = served.client.get("/api/v1/balance", headers=headers).json()["data"]

    assert told == {"balance": 4.95, "credits": 198, "metered": True}


def test_a_task_of_another_account_is_404__S4(
    keyed: Served, folder: Path, key: dict[str, str]
) -> None:
    stranger = bearer(make_key(folder, "stranger"))
    task_id = made(create(keyed.client, headers=key))

    assert poll(keyed.client, task_id, headers=key).status_code == 200
    assert refusal(poll(keyed.client, task_id, headers=stranger)) == (404, "there is no such task")


def test_too_many_requests_are_429__INF(keyed: Served, folder: Path) -> None:
    hasty = bearer(make_key(folder, "hasty", rate_per_minute=1))
    assert create(keyed.client, headers=hasty).status_code == 200

    reply = create(keyed.client, headers=hasty)

    assert refusal(reply)[0] == 429
    assert int(reply.headers["retry-after"]) >= 1

"""OpenAI's contract, errors: the class that OpenAI's own client raises for each.

`V` in an id is what the client (3.51) reads; `K` is common knowledge of the hosted service; `INF`
is what we do where both are silent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from inference.errors import ModelFailed, OutOfMemory
from tests.api.http.openai_client import EDITS, GENERATIONS, client_of, fault
from tests.api.http.served import Served, make_key, serving, until
from tests.api.making import png

PROMPT = "a red circle"


def test_an_unknown_model_is_told_with_those_served__V(served: Served) -> None:
    with (
        client_of(served) as ai,
        pytest.raises(openai.NotFoundError, match="gpt-image-2") as caught,
    ):
        ai.images.generate(prompt=PROMPT, model="flux-9")

    error = caught.value
    assert (error.code, error.param) == ("model_not_found", "model")
    assert error.type == "invalid_request_error"
    assert error.request_id


@pytest.mark.parametrize("key", ["sk-wrong", "dk_" + "a" * 49])
def test_a_wrong_key_is_an_authentication_error__V(tmp_path: Path, key: str) -> None:
    make_key(tmp_path)
    with serving(tmp_path) as served, client_of(served, key=key) as ai:
        for ask in (lambda: ai.images.generate(prompt=PROMPT), ai.models.list):
            with pytest.raises(openai.AuthenticationError) as caught:
                ask()
            assert caught.value.code == "invalid_api_key"
            assert caught.value.response.headers["www-authenticate"] == "Bearer"


def test_the_right_key_is_taken__V(tmp_path: Path) -> None:
    key = make_key(tmp_path, dialect="openai")
    with serving(tmp_path) as served, client_of(served, key=key) as ai:
        assert ai.images.generate(prompt=PROMPT).data
        assert list(ai.images.generate(prompt=PROMPT, stream=True))
        assert list(ai.models.list())


def test_a_key_of_another_dialect_is_a_permission_error__V(tmp_path: Path) -> None:
    key = make_key(tmp_path, dialect="modelmux")
    with (
        serving(tmp_path) as served,
        client_of(served, key=key) as ai,
        pytest.raises(openai.PermissionDeniedError, match="modelmux"),
    ):
        ai.images.generate(prompt=PROMPT)


@pytest.mark.parametrize("stream", [pytest.param(False, id="K"), pytest.param(True, id="K stream")])
def test_no_credits_is_a_rate_limit_error__K(tmp_path: Path, stream: bool) -> None:
    key = make_key(tmp_path, credits=1)
    with serving(tmp_path) as served, client_of(served, key=key) as ai:
        with pytest.raises(openai.RateLimitError) as caught:
            ai.images.generate(prompt=PROMPT, n=2, stream=stream)
        assert (caught.value.code, caught.value.type) == (
            "insufficient_quota",
            "insufficient_quota",
        )
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert ai.images.generate(prompt=PROMPT).data


def test_too_many_requests_are_a_rate_limit_error__V(tmp_path: Path) -> None:
    key = make_key(tmp_path, rate_per_minute=2)
    with serving(tmp_path) as served, client_of(served, key=key) as ai:
        raw = ai.images.with_raw_response.generate(prompt=PROMPT)
        assert raw.headers["x-ratelimit-limit-requests"] == "2"
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        assert raw.headers["x-ratelimit-reset-requests"] == "30s"
        ai.images.generate(prompt=PROMPT)
        with pytest.raises(openai.RateLimitError) as caught:
            ai.images.generate(prompt=PROMPT)
        error = caught.value
        assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
        assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
        assert int(error.response.headers["retry-after"]) >= 1
        assert "x-should-retry" not in error.response.headers


def test_a_full_queue_is_a_rate_limit_error__INF(tmp_path: Path) -> None:
    with serving(tmp_path, max_account_tasks=1) as served, client_of(served) as ai:
        served.script.gate.clear()
        stream = ai.images.generate(prompt=PROMPT, stream=True)
        with pytest.raises(openai.RateLimitError) as caught:
            ai.images.generate(prompt=PROMPT)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        stream.close()


def test_an_overloaded_server_is_an_internal_error__K(tmp_path: Path) -> None:
    with serving(tmp_path, max_queue_tasks=1) as served, client_of(served) as ai:
        served.script.gate.clear()
        stream = ai.images.generate(prompt=PROMPT, stream=True)
        with pytest.raises(openai.InternalServerError) as caught:
            ai.images.generate(prompt=PROMPT)
        assert (caught.value.status_code, caught.value.type) == (503, "server_error")
        stream.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(OutOfMemory("too large"), "out_of_memory", id="V out of memory"),
        pytest.param(ModelFailed("/srv/weights"), "model_failed", id="V model failed"),
    ],
)
def test_a_failure_is_an_internal_error(served: Served, error: Any, code: str) -> None:
    """Half of the pictures is no reply, and repeating the request would change nothing."""
    served.script.fails = lambda job, index: error if index == 1 else None

    with client_of(served) as ai, pytest.raises(openai.InternalServerError) as caught:
        ai.images.generate(prompt=PROMPT, n=2)

    told = caught.value
    assert (told.status_code, told.type, told.code) == (500, "server_error", code)
    assert "/srv" not in told.message, "where a model lies is no caller's business"
    assert "too large" in told.message or "could not be loaded" in told.message
    assert told.response.headers["x-should-retry"] == "false"


def test_a_cancelled_request_is_an_internal_error__INF(served: Served) -> None:
    served.script.gate.clear()
    send: dict[str, Any] = {"json": {"prompt": PROMPT}, "headers": {"Idempotency-Key": "cancelled"}}
    task_id = served.leave(GENERATIONS, send["json"], send["headers"])
    until(lambda: served.newest()["state"] == "running")
    served.client.post(f"/darkroom/generations/{task_id}/cancel")
    assert served.end(task_id)["state"] == "cancelled"

    reply = served.client.post(GENERATIONS, **send)

    assert (reply.status_code, fault(reply)["code"]) == (500, "cancelled")
    assert reply.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("POST", "/v1/chat/completions", 404, id="INF what we do not do"),
        pytest.param("POST", "/openai/v1/images/nothing", 404, id="INF below the alias"),
        pytest.param("GET", EDITS, 405, id="INF another method"),
        pytest.param("GET", "/v1/images/files/a%00b/0.png", 404, id="INF a strange id"),
        pytest.param("GET", "/v1/images/files/a/0.png", 403, id="INF an unsigned link"),
    ],
)
def test_a_wrong_path_is_told_in_shape(
    client: httpx2.Client, method: str, path: str, status: int
) -> None:
    reply = client.request(method, path)

    assert reply.status_code == status
    assert fault(reply)["message"]
    assert reply.headers["x-request-id"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("send", "status", "named"),
    [
        pytest.param({"content": b"{", "headers": JSON}, 400, "JSON", id="V no JSON"),
        pytest.param({"content": b"[]", "headers": JSON}, 400, "object", id="V no object"),
        pytest.param(
            {"content": b"prompt=a", "headers": {"Content-Type": "text/plain"}},
            *(415, "application/json"),
            id="INF another type",
        ),
        pytest.param(
            {"content": b'{"prompt":"\\ud800"}', "headers": JSON}, 400, "prompt", id="INF surrogate"
        ),
        pytest.param(
            {"content": b'{"prompt":"a","n":NaN}', "headers": JSON}, 400, "n is", id="INF NaN"
        ),
        pytest.param(
            {"json": {"prompt": "a"}, "headers": {"Idempotency-Key": "x" * 256}},
            *(400, "255"),
            id="INF a long key",
        ),
    ],
)
def test_a_bad_body_is_told(
    client: httpx2.Client, send: dict[str, Any], status: int, named: str
) -> None:
    reply = client.post(GENERATIONS, **send)

    assert reply.status_code == status, reply.text
    assert named in fault(reply)["message"]


def test_a_body_over_the_limit_is_413__K(tmp_path: Path) -> None:
    with serving(tmp_path, max_body_bytes=100) as served:
        reply = served.client.post(EDITS, data={"prompt": "a"}, files={"image": png()})
        assert (reply.status_code, fault(reply)["code"]) == (413, "too_large")

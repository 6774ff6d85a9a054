"""What every path has in common: ids, the owner's shape of errors, who may come in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.settings import Settings
from tests.api.http.served import Served, make_key, serving

PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/darkroom", 404),
        ("GET", "/darkroom/nowhere", 404),
        ("GET", "/darkroom/generations/none", 404),
        ("GET", "/darkroom/generations/a%00b", 404),
        ("GET", "/darkroom/generations/%ff", 404),
        ("GET", "/darkroom/generations/" + "a" * 5000, 404),
        ("GET", "/darkroom/generations/none/images/" + "9" * 5000, 404),
        ("GET", "/darkroom/generations/../../etc/passwd", 404),
        ("GET", "/generationsx", 404),
        ("POST", "/livez", 405),
        ("PUT", "/darkroom/generations", 405),
    ],
)
def test_what_no_dialect_owns_is_answered_as_a_problem(
    client: httpx2.Client, method: str, path: str, status: int
) -> None:
    reply = client.request(method, path)

    assert (reply.status_code, reply.headers["content-type"]) == (status, PROBLEM)
    assert reply.json()["status"] == status
    assert reply.json()["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/generations/x/y/z", 404, "not_found"),
        ("GET", "/modelmux", 404, "not_found"),
        ("GET", "/modelmux/nowhere", 404, "not_found"),
        ("GET", "/modelmux/api/v1/generations/none", 404, "not_found"),
        ("PATCH", "/api/v1/generations", 405, "method_not_allowed"),
        ("PATCH", "/modelmux/api/v1/generations", 405, "method_not_allowed"),
        ("POST", "/api/v1/generations", 415, "unsupported_media_type"),
    ],
)
def test_what_a_dialect_owns_is_answered_in_its_shape(
    client: httpx2.Client, method: str, path: str, status: int, code: str
) -> None:
    reply = client.request(method, path)

    assert reply.status_code == status
    assert set(reply.json()) == {"error", "code"}
    assert reply.json()["code"] == code


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/darkroom/generations", "GET, POST"),
        ("/darkroom/generations/x", "GET, DELETE"),
        ("/api/v1/generations", "POST"),
        ("/modelmux/api/v1/generations", "POST"),
        ("/", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_every_right_one(
    client: httpx2.Client, path: str, allow: str
) -> None:
    reply = client.patch(path)

    assert (reply.status_code, reply.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/", "/playground/page.js", "/livez", "/readyz"])
def test_what_can_be_read_can_be_asked_for_by_head(client: httpx2.Client, path: str) -> None:
    head, whole = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")


def test_a_request_keeps_its_own_id_if_it_is_plain(client: httpx2.Client) -> None:
    def answered(given: str) -> str:
        return client.get("/livez", headers={"X-Request-Id": given}).headers["x-request-id"]

    assert answered("trace-1.a_b") == "trace-1.a_b"
    assert answered("a b") != "a b"
    assert answered("x" * 65) != "x" * 65
    assert len({client.get("/livez").headers["x-request-id"] for _ in range(3)}) == 3


@pytest.mark.parametrize("path", ["/darkroom/queue", "/api/v1/generations/x"])
def test_a_bug_is_logged_with_its_id_and_told_without_its_insides(
    served: Served, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("the secret of row 7")

    monkeypatch.setattr(type(served.services.darkroom), "queue", broken)
    monkeypatch.setattr(type(served.services.darkroom), "get", broken)

    reply = served.client.get(path)

    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "ZeroDivision" not in reply.text
    logged = capsys.readouterr().out
    assert "request_failed" in logged
    assert reply.headers["x-request-id"] in logged
    assert "the secret of row 7" in logged
    assert ("code" in reply.json()) == path.startswith("/api")


def test_requests_are_logged_without_the_query_where_signatures_are(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.client.get("/darkroom/queue?signature=c4nary")
    logged = capsys.readouterr().out
    # Where it is shown in colours, they stand between a name and its value.
    assert re.search(r"/darkroom/queue\b.*status\S*=\S*200", logged)
    assert "c4nary" not in logged


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "", "[::2]", "[", "a@b"]
)
def test_a_loopback_server_answers_to_no_other_name(client: httpx2.Client, host: str) -> None:
    reply = client.get("/darkroom/queue", headers={"Host": host})

    assert reply.status_code in (400, 403)
    assert reply.status_code == 403 or host == ""
    assert "DARKROOM_PUBLIC_URL" in reply.text or host == ""


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_a_loopback_server_answers_to_loopback_names(client: httpx2.Client, host: str) -> None:
    assert client.get("/darkroom/queue", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:3000",
        "https://127.0.0.1",
        "null",
        "",
        "file://",
        "chrome-extension://abc",
    ],
)
@pytest.mark.parametrize("path", ["/darkroom/generations", "/api/v1/generations"])
def test_a_page_of_another_origin_cannot_submit(
    client: httpx2.Client, origin: str, path: str
) -> None:
    reply = client.post(path, json={"prompt": "a"}, headers={"Origin": origin})

    assert reply.status_code == 403
    body = reply.json()
    assert body.get("code") == "forbidden" or body.get("type") == "urn:darkroom:forbidden"


def test_the_servers_own_page_can_submit(served: Served) -> None:
    headers = {"Origin": served.url}

    reply = served.client.post("/darkroom/generations", json={"prompt": "a"}, headers=headers)

    assert reply.status_code == 202


def test_a_public_name_is_answered_and_its_page_can_submit(tmp_path: Path) -> None:
    with serving(tmp_path, public_url="https://pictures.example") as served:
        headers = {"Host": "pictures.example", "Origin": "https://pictures.example"}
        body = {"prompt": "a"}
        reply = served.client.post("/darkroom/generations", json=body, headers=headers)
        assert reply.status_code == 202
        image = served.end(reply.json()["id"])["images"][0]
        assert image["url"].startswith("https://pictures.example/darkroom/files/")
        path = image["url"].removeprefix("https://pictures.example")
        assert served.client.get(path).status_code == 200
        headers["Origin"] = "http://pictures.example:81"
        assert served.client.post("/darkroom/generations", headers=headers).status_code == 403


def test_a_server_for_all_answers_to_any_name(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    with serving(tmp_path, host="0.0.0.0") as served:
        assert served.client.get("/livez", headers={"Host": "gpu7.lan:8000"}).status_code == 200
        named = {"Host": "gpu7.lan:8000", "Authorization": f"Bearer {key}"}
        assert served.client.get("/darkroom/queue", headers=named).status_code == 200
        strange = named | {"Origin": "http://evil.example"}
        assert served.client.post("/darkroom/generations", headers=strange).status_code == 403


def test_the_document_describes_no_reply_that_is_never_given(client: httpx2.Client) -> None:
    document = client.get("/darkroom/openapi.json").json()

    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    operations = [one for path in document["paths"].values() for one in path.values()]
    assert len(operations) >= 15
    assert all("422" not in one["responses"] for one in operations)
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert not any(path.startswith("/modelmux") for path in document["paths"])


def test_the_document_names_types_by_dialect_and_never_by_module(client: httpx2.Client) -> None:
    document = client.get("/darkroom/openapi.json").json()

    text, schemas = json.dumps(document), document["components"]["schemas"]
    assert {"DarkroomModel", "OpenaiModel", "MynthModelList", "GenerationPage"} <= set(schemas)
    assert "__" not in text
    led_to = {name.rpartition("/")[2] for name in re.findall(r'"\$ref": "([^"]+)"', text)}
    assert led_to and led_to <= set(schemas)


def test_alive_and_ready(client: httpx2.Client) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    reply = client.get("/readyz")
    assert (reply.status_code, reply.json()["ready"]) == (200, True)
    assert set(reply.json()["checks"].values()) == {"ok"}


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_are_answered_to_head_too(client: httpx2.Client, path: str) -> None:
    head = client.head(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == client.get(path).headers["content-length"]


def test_a_busy_server_is_ready(served: Served) -> None:
    served.script.gate.clear()
    for _ in range(3):
        served.client.post("/darkroom/generations", json={"prompt": "a"})

    assert served.client.get("/readyz").status_code == 200


def test_a_server_is_not_ready_for_a_reason(tmp_path: Path) -> None:
    with serving(tmp_path, disk_floor_bytes=2**62) as served:
        reply = served.client.get("/readyz")
        assert (reply.status_code, reply.json()["ready"]) == (503, False)
        reasons = [why for why in reply.json()["checks"].values() if why != "ok"]
        assert len(reasons) == 1
        assert served.client.get("/livez").status_code == 200
        refused = served.client.post("/darkroom/generations", json={"prompt": "a"})
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:darkroom:unavailable")


def test_a_silent_worker_is_not_ready(served: Served) -> None:
    served.script.idle_seconds = Settings().worker_silence_seconds * 2
    try:
        reply = served.client.get("/readyz")
        assert (reply.status_code, reply.json()["ready"]) == (503, False)
        assert served.client.get("/livez").status_code == 200
    finally:
        served.script.idle_seconds = 0.0

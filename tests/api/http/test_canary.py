"""Secrets and prompts are looked for where they must not be: logs, errors and the database.

A real `darkroom serve` at log level debug is sent a canary wherever a caller can put a secret, by
every dialect and on as many ways into an error as there are.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from api.dialects import DIALECTS
from api.keys import hash_of, new_key
from tests.api.http.served import ROOT, bearer, make_key, until
from tests.api.making import encoded

# `darkroom` over an engine that needs no torch.
SCRIPTED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import api.build
from tests.api.scripted import ScriptedEngine
api.build.build_engine = lambda *_: ScriptedEngine()
from api.cli.commands import main
main()
"""
JSON = {"Content-Type": "application/json"}
# What makes a creation valid, by its path; every field of its document may be added.
CREATIONS: dict[str, dict[str, Any]] = {
    "/darkroom/generations": {"prompt": "a"},
    "/api/v1/generations": {"prompt": "a"},
    "/v1/images/generate": {"prompt": "a", "model": "mystic-2-5-flexible", "count": 1},
    "/v1/images/edit": {"prompt": "a", "model": "mystic-2-5-flexible", "count": 1},
    "/v1/images/generations": {"prompt": "a"},
    "/v1/images/edits": {"prompt": "a"},
    "/v1/images/variations": {},
    "/image/generate": {"prompt": "a"},
    "/api/v1/images/generations": {"prompt": "a", "model": "gpt-image-2"},
    "/api/v1/images/generations-sync": {"prompt": "a", "model": "gpt-image-2"},
    "/api/v1/images/edit": {"prompt": "a", "model": "gpt-image-2"},
    "/api/v1/generate": {"prompt": "a", "model": "eigen-image"},
}
# Fields whose values say what to make and nothing about anybody; errors may repeat those.
PLAIN = {
    *("model", "mode", "width", "height", "aspect_ratio", "aspectRatio", "resolution", "quality"),
    # names of what a model offers, repeated so that the caller sees which is not among them
    *("profile", "loras", "lora_weights", "sampler", "weight"),
    *("count", "n", "seed", "size", "style", "num_inference_steps", "guidance_scale", "strength"),
    *("output_format", "output_quality", "output_compression", "priority", "background", "stream"),
    *("moderation", "partial_images", "response_format", "input_fidelity", "num_images", "format"),
}


@dataclass
class Canaries:
    """Texts that no other text contains, by what they stand for."""

    texts: dict[str, str] = field(default_factory=dict)

    def of(self, what: str) -> str:
        return self.texts.setdefault(what, f"canary{len(self.texts)}x{os.urandom(6).hex()}")


@dataclass
class Run:
    """What a server was sent and what came of it, read once it has ended."""

    canaries: Canaries
    secrets: dict[str, str]
    output: str = ""
    errors: list[str] = field(default_factory=list)
    statuses: set[tuple[str, int]] = field(default_factory=set)
    kept: bytes = b""

    def everything(self) -> dict[str, str]:
        return self.canaries.texts | self.secrets


class Talk:
    """Sends requests and remembers every error."""

    def __init__(self, run: Run, client: httpx2.Client) -> None:
        self.run = run
        self.client = client

    def send(self, method: str, path: str, **asked: Any) -> httpx2.Response:
        reply = self.client.request(method, path, **asked)
        where = path.partition("?")[0]
        self.run.statuses.add((where, reply.status_code))
        if reply.status_code >= 400:
            self.run.errors.append(f"{method} {where} {reply.status_code} {reply.text}")
            self.run.errors.append(repr(reply.headers))
        return reply


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("canary")
    data, log = folder / "data", folder / "log"
    data.mkdir()
    # more than a provider's published limit lets through
    right = make_key(data, rate_per_minute=10**6)
    canaries = Canaries()
    run = Run(canaries, {"right key": right, "wrong key": new_key()})
    settings = {
        "LOG_LEVEL": "debug",
        "S3_SECRET_ACCESS_KEY": canaries.of("setting"),
        "ALLOWED_TARGETS": "127.0.0.1",
        "SYNC_WAIT_SECONDS": "5",
        "FETCH_SECONDS": "2",
    }
    environment = os.environ | {f"DARKROOM_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-c", SCRIPTED, "serve", "--port", "0", "--data-dir", str(data)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--models", str(ROOT / "models.yaml")],
            stdout=output,
            stderr=output,
            env=environment | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        until(lambda: "listens on" in log.read_text() or server.poll() is not None)
        found = re.search(r"listens on (http://[\d.]+:\d+)", log.read_text())
        assert found, log.read_text()
        with httpx2.Client(base_url=found[1], timeout=90, trust_env=False) as client:
            talk(Talk(run, client), data)
            until(lambda: "webhook_postponed" in log.read_text())
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    finally:
        server.kill()
        server.wait()
    run.output = log.read_text()
    run.kept = b"".join(path.read_bytes() for path in data.glob("darkroom.db*"))
    return run


def talk(to: Talk, data: Path) -> None:
    """Everything that is sent, the breaking of the server last."""
    canaries, keyed = to.run.canaries, {"Authorization": f"Bearer {to.run.secrets['right key']}"}
    document = to.client.get("/darkroom/openapi.json").json()["paths"]
    for path, body in CREATIONS.items():
        wrong_keys(to, path, body)
        for headers, fields in hostile(canaries, document[path]["post"], body):
            to.send("POST", path, json=body | fields, headers=keyed | headers)
        for content in (b'{"prompt":"%b', b'{"prompt":"%b",}', b"%b", b'{"prompt":["%b"]}'):
            broken = content.replace(b"%b", canaries.of("broken body").encode())
            to.send("POST", path, content=broken, headers=keyed | JSON)
        part = {"image": (canaries.of("file name"), canaries.of("file").encode(), "image/png")}
        text = {name: str(value) for name, value in body.items()}
        to.send("POST", path, data=text, files=part, headers=keyed)
    what_is_left_here(to, keyed)
    what_is_read(to, keyed)
    what_breaks(to, keyed, data)


def wrong_keys(to: Talk, path: str, body: dict[str, Any]) -> None:
    wrong = to.run.secrets["wrong key"]
    basic = to.run.canaries.of("password")
    for headers in (
        bearer(wrong),
        {"x-api-key": wrong},
        {"Authorization": f"Bearer {to.run.canaries.of('mistyped key')}"},
        {"Authorization": f"Basic {basic}"},
        {"Authorization": basic},
    ):
        reply = to.send("POST", path, json=body, headers=headers)
        assert reply.status_code == 401
        to.send("GET", f"{path}?key={wrong}&api_key={wrong}", headers=headers)


def hostile(
    canaries: Canaries, operation: dict[str, Any], body: dict[str, Any]
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Headers and fields with canaries in them: good ones, bad ones and of every wrong type."""
    number = itertools.count()
    yield {"Idempotency-Key": canaries.of("idempotency key")}, {"prompt": canaries.of("prompt")}
    yield {"Idempotency-Key": canaries.of("idempotency key")}, {"prompt": canaries.of("prompt 2")}
    yield {"Idempotency-Key": canaries.of("long key") * 20}, {}
    for name in ("Cookie", "User-Agent", "Referer", "X-Forwarded-For", "X-Custom", "Accept"):
        yield {name: canaries.of("header")}, {}
    yield {"X-Request-Id": canaries.of("header") + " not plain"}, {}
    yield {"Origin": f"http://{canaries.of('origin')}.example"}, {}
    content = operation["requestBody"]["content"]
    schema = next(iter(content.values()))["schema"]
    # where dialects share a path, each has a schema
    fields = {name for one in schema.get("anyOf", [schema]) for name in one["properties"]}
    for name in {*fields, *body, "negative_prompt", "user"} - PLAIN:
        text = canaries.of(f"field {name}")
        address = f"user:{text}@127.0.0.1:9/{text}?token={text}#{text}"
        for value in (
            text,
            [text],
            {text: text},
            text + "\0",
            text * 2000,
            f"https://{address}",
            f"http://{address.partition('@')[2]}",
            f"http://10.0.0.1/?token={text}",
            f"https://hooks.invalid/{text}?token={text}",
            f"ftp://{text}/",
            f"data:image/png;base64,{text}",
            f"data:image/png;base64,{text}=!",
            [f"https://user:{text}@10.0.0.1/?token={text}"],
            {"url": text, "custom": [{"url": f"http://127.0.0.1:9/?token={text}"}]},
            [{"image": text, "tag": "style"}, {"image": f"http://127.0.0.1:9/?{text}"}],
        ):
            yield {"Idempotency-Key": f"{text}-{next(number)}"}, {name: value}


def what_is_left_here(to: Talk, keyed: dict[str, str]) -> None:
    """Registered webhooks and uploads, good and bad, and a link to one as a picture."""
    canaries, secrets = to.run.canaries, to.run.secrets
    text = canaries.of("hook query")
    good = {"url": f"http://127.0.0.1:9/{text}?token={text}"}
    hook = to.send("POST", "/darkroom/hooks", headers=keyed, json=good).json()
    secrets["hook secret"] = hook["secret"]
    for wrong in (
        {"url": f"http://10.0.0.1/{text}?token={text}"},
        {"url": f"https://user:{text}@hooks.invalid/?token={text}"},
        {"url": f"https://hooks.invalid/{text}"},
        good | {"events": [text]},
        good | {"events": text, "secret": hook["secret"]},
    ):
        to.send("POST", "/darkroom/hooks", headers=keyed, json=wrong)
        to.send("PUT", f"/darkroom/hooks/{hook['id']}", headers=keyed, json=wrong)
    file = (canaries.of("file name"), canaries.of("file").encode(), "image/png")
    to.send("POST", "/darkroom/uploads", headers=keyed, files={"images": file})
    picture = (canaries.of("file name"), encoded(Image.new("RGB", (16, 16))), "image/png")
    kept = to.send("POST", "/darkroom/uploads", headers=keyed, files={"images": picture}).json()
    url = kept["uploads"][0]["url"]
    secrets["signature of an upload"] = url.partition("signature=")[2]
    assert to.client.get(url).status_code == 200
    to.send("GET", url + "0")
    for image in (url, url + "0"):
        wish = {"prompt": "a", "image": image}
        to.send("POST", "/darkroom/generations", headers=keyed, json=wish)
    to.send("DELETE", url.partition("?")[0], headers=keyed)


def what_is_read(to: Talk, keyed: dict[str, str]) -> None:
    """A picture by its signed link, and other paths with canaries in their queries."""
    secret = to.send("GET", "/darkroom/account/webhook-secret", headers=keyed).json()["secret"]
    to.run.secrets["webhook secret"] = secret
    made = to.send(
        "POST",
        "/darkroom/generations",
        headers=keyed,
        json={"prompt": to.run.canaries.of("prompt")},
    ).json()
    done = to.send("GET", f"{made['links']['self']}?wait=60", headers=keyed).json()
    url = done["images"][0]["url"]
    assert to.client.get(url).status_code == 200
    to.run.secrets["signature"] = url.partition("signature=")[2]
    to.send("GET", url + "0")
    to.send("GET", "/api/storage/file", params={"key": to.run.canaries.of("file key")})
    for path in (*CREATIONS, "/", "/nowhere", "/darkroom/generations/none", "/v1/models"):
        text = to.run.canaries.of("query")
        for method in ("GET", "PATCH"):
            to.send(method, f"{path}?token={text}&cursor={text}", headers=keyed)


def what_breaks(to: Talk, keyed: dict[str, str], data: Path) -> None:
    """Faults that nobody foresaw, in the midst of a transaction and of a file's writing."""
    text = to.run.canaries.of("prompt of a fault")
    with sqlite3.connect(data / "darkroom.db") as connection:
        connection.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON tasks BEGIN SELECT RAISE(ABORT, 'broken'); END"
        )
    connection.close()
    for path, body in CREATIONS.items():
        if "prompt" in body:
            headers = keyed | {"Idempotency-Key": to.run.canaries.of("key of a fault")}
            to.send("POST", path, json=body | {"prompt": text}, headers=headers)
    label = to.run.canaries.of("idempotency key")
    headers = keyed | {"Idempotency-Key": label}
    to.send("POST", "/darkroom/generations", json={"prompt": text, "image": text}, headers=headers)
    with sqlite3.connect(data / "darkroom.db") as connection:
        connection.execute("DROP TABLE idempotency")
    connection.close()
    to.send("POST", "/darkroom/generations", json={"prompt": text}, headers=headers)


def hits(text: str, secrets: dict[str, str]) -> set[str]:
    return {what for what, secret in secrets.items() if secret in text}


def test_the_log_holds_none(run: Run) -> None:
    assert hits(run.output, run.everything()) == set()
    for what in ("right key", "wrong key"):
        assert hash_of(run.secrets[what]) not in run.output
    # it did log, and about every kind of thing
    for event in ("task_accepted", "task_ended", "request_failed", '"request"', '"debug"'):
        assert event in run.output
    assert "Traceback" in run.output


def test_no_error_holds_any(run: Run) -> None:
    told = "\n".join(run.errors)
    assert hits(told, run.everything()) == set()
    assert len(run.errors) > 500


def test_the_database_holds_no_key(run: Run) -> None:
    allowed = {
        "webhook secret",
        "hook secret",
        *(what for what in run.canaries.texts if what != "setting"),
    }
    kept = run.kept.decode("latin-1")
    assert hits(kept, run.everything()) - allowed == set()
    for what in ("header", "password", "mistyped key", "query", "file key", "broken body"):
        assert run.canaries.texts[what] not in kept
    assert hash_of(run.secrets["right key"]) in kept
    assert run.canaries.texts["prompt"] in kept, "what was asked for is kept"


@pytest.mark.parametrize("path", CREATIONS)
def test_every_creation_went_well_and_badly(run: Run, path: str) -> None:
    """Or what was looked for was never anywhere."""
    met = {status for where, status in run.statuses if where == path}
    assert {401, 400} <= met
    if "edit" not in path and "variation" not in path:
        assert met & {200, 201, 202}
        assert met & {409, 422}, "an idempotency key with another body"
        assert met & {500, 503}, "a fault of the database"


def test_every_dialect_is_tried() -> None:
    owners = {dialect.name for dialect in DIALECTS for path in CREATIONS if dialect.prefix_of(path)}
    assert owners == {dialect.name for dialect in DIALECTS}

"""`darkroom destinations`, on a data folder of its own and a real S3 server."""

from __future__ import annotations

import getpass
import logging
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from api.cli import destinations as cli_destinations
from api.cli.commands import app
from tests.api.http.served import bearer, make_key, serving
from tests.api.s3server import BUCKET, KEY_ID, SECRET, S3Server

HEAD = ["name", "url", "endpoint", "region", "access key id", "public url"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs beside a data folder with one account, and may reach loopback."""
    here = tmp_path / "here"
    (here / "data").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("DARKROOM_ALLOWED_TARGETS", "127.0.0.1")
    make_key(here / "data", "team")
    return here / "data"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Commands set up logging for a whole process, onto streams that end with a test's command."""
    kept, handlers, level = structlog.get_config(), logging.root.handlers, logging.root.level
    yield
    structlog.configure(**kept)
    logging.root.handlers = handlers
    logging.root.setLevel(level)


def darkroom(*arguments: object, code: int = 0, given: str | None = None) -> Result:
    words = ["destinations", *map(str, arguments)]
    result = CliRunner().invoke(app, words, input=given)
    assert result.exit_code == code, (result.output, result.exception)
    assert SECRET not in result.output
    return result


def add(name: str, *flags: str, code: int = 0, secret: str = SECRET, **changes: Any) -> Result:
    url = changes.pop("url", f"s3://{BUCKET}/x")
    values = {"endpoint": "http://127.0.0.1:1", "access_key_id": KEY_ID} | changes
    given = [f"--{flag.replace('_', '-')}={value}" for flag, value in values.items()]
    return darkroom("add", "team", name, url, *given, *flags, code=code, given=secret + "\n")


def rows() -> list[list[str]]:
    lines = darkroom("list", "team").stdout.splitlines()
    return [re.split(r"  +", line) for line in lines]


def kept(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("darkroom.db*"))


def test_a_destination_is_added_listed_and_removed(folder: Path) -> None:
    said = add("site", "--region=eu-1", "--public-url=https://cdn.example/")
    add("plain")

    assert said.stdout == f"site of team is s3://{BUCKET}/x\n"
    assert SECRET.encode() in kept(folder), "it is needed to sign"
    common = [f"s3://{BUCKET}/x", "http://127.0.0.1:1"]
    assert rows() == [
        HEAD,
        ["plain", *common, "us-east-1", KEY_ID, "-"],
        ["site", *common, "eu-1", KEY_ID, "https://cdn.example"],
    ]
    assert darkroom("remove", "team", "site").stdout == "site of team is forgotten\n"
    assert [row[0] for row in rows()] == ["name", "plain"]
    gone = darkroom("remove", "team", "site", code=2)
    assert gone.stderr == "darkroom: there is no destination 'site' (its name)\n"


@pytest.mark.parametrize("how", ["flag", "stdin", "prompt"])
def test_a_secret_comes_in_three_ways_and_works(
    s3_server: S3Server, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(text: str) -> str:
        asked.append(text)
        return SECRET

    place: dict[str, Any] = {"endpoint": s3_server.endpoint}
    place["url"] = f"s3://{BUCKET}/{secrets.token_hex(8)}"
    flags = [f"--secret-access-key={SECRET}"] if how == "flag" else []
    if how == "prompt":

        class Terminal:
            stdin = type("Stdin", (), {"isatty": staticmethod(lambda: True)})

        monkeypatch.setattr(cli_destinations, "sys", Terminal)
        monkeypatch.setattr(getpass, "getpass", answer)
    add("site", *flags, secret=SECRET if how == "stdin" else "wrong", **place)

    assert darkroom("test", "team", "site").stdout == "site of team takes pictures\n"
    assert asked == (["Secret access key: "] if how == "prompt" else [])


def test_who_leaves_at_the_prompt_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        stdin = type("Stdin", (), {"isatty": staticmethod(lambda: True)})

    def leave(text: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_destinations, "sys", Terminal)
    monkeypatch.setattr(getpass, "getpass", leave)
    add("site", code=130)
    assert rows() == [HEAD]


def test_a_test_that_fails_says_why(s3_server: S3Server) -> None:
    add("site", secret="wrong", endpoint=s3_server.endpoint)
    failed = darkroom("test", "team", "site", code=1)
    assert failed.stderr == "darkroom: the secret access key is wrong\n"
    missing = darkroom("test", "team", "none", code=2)
    assert "there is no destination 'none'" in missing.stderr


def test_a_name_is_replaced_only_when_told(s3_server: S3Server) -> None:
    prefix = secrets.token_hex(8)
    add("site", secret="wrong")
    refused = add("site", code=2)
    assert "there is a destination 'site' already" in refused.stderr
    darkroom("test", "team", "site", code=1)

    add("site", "--replace", url=f"s3://{BUCKET}/{prefix}", endpoint=s3_server.endpoint)

    darkroom("test", "team", "site")
    assert rows()[1][1] == f"s3://{BUCKET}/{prefix}"
    assert "there is no destination 'other'" in add("other", "--replace", code=2).stderr


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"url": "https://x.example"}, "the URL"),
        ({"endpoint": "http://10.0.0.1"}, "--endpoint"),
        ({"region": "eu.x"}, "--region"),
        ({"access_key_id": "a b"}, "--access-key-id"),
        ({"secret": ""}, "--secret-access-key"),
        ({"public_url": "javascript:x"}, "--public-url"),
    ],
)
def test_what_is_wrong_is_told_by_its_flag(changes: dict[str, str], flag: str) -> None:
    refused = add("site", code=2, **changes)
    assert refused.stderr.startswith("darkroom: ") and refused.stderr.count("\n") == 1
    assert flag.removeprefix("--").replace("-", "_") in refused.stderr or flag in refused.stderr
    assert f"({flag})" in refused.stderr
    assert rows() == [HEAD]


def test_a_server_without_keys_has_an_account_too(folder: Path) -> None:
    with serving(folder.parent / "open") as served:
        served.make()
    flags = [f"--data-dir={folder.parent / 'open'}"]
    place = ["--endpoint=http://127.0.0.1:1", "--access-key-id=x"]
    said = darkroom("add", "", "site", "s3://b12/x", *place, *flags, given=SECRET)
    assert said.stdout == "site of (no key) is s3://b12/x\n"
    assert "s3://b12/x" in darkroom("list", "", *flags).stdout


def test_the_name_and_the_account_must_be_right() -> None:
    assert "(its name)" in add("No", code=2).stderr
    unknown = darkroom("list", "none", code=2)
    assert unknown.stderr == "darkroom: there is no such account\n"


def test_a_private_endpoint_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARKROOM_ALLOWED_TARGETS")
    assert "private address" in add("site", code=2).stderr
    monkeypatch.setenv("DARKROOM_ALLOWED_TARGETS", "http://x")
    assert "DARKROOM_ALLOWED_TARGETS" in add("site", code=2).stderr


def test_a_running_server_uses_what_was_added(s3_server: S3Server, folder: Path) -> None:
    key = bearer(make_key(folder, "team"))
    with serving(folder, allowed_targets=("127.0.0.1",)) as served:
        add("site", url=f"s3://{BUCKET}/{secrets.token_hex(8)}", endpoint=s3_server.endpoint)
        wish = {"prompt": "a", "destination": "site"}
        made = served.client.post("/darkroom/generations", json=wish, headers=key).json()
        where = f"/darkroom/generations/{made['id']}?wait=60"
        told = served.client.get(where, headers=key).json()
    assert (told["state"], told["error"]) == ("succeeded", None)
    assert told["images"][0]["destination_url"].startswith(f"s3://{BUCKET}/")

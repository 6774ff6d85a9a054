"""Tokens for pages: one task, two hours, made here; every other text is refused alike."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from api.errors import Unauthorized
from api.folder import DataFolder
from api.links import load_links, rotate
from api.tokens import AUDIENCE, PREFIX, TTL_SECONDS, Grant, Tokens, is_token, load_tokens

TASK = "tsk_01KAG0XJ5TQ4Y4N3J6P4K6T4X2"


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return load_tokens(tmp_path / "token_keys")


def forged(tokens: Tokens, *, secret: bytes | None = None, **changes: Any) -> str:
    """A token like ours but for what is named; None leaves a claim out."""
    key = tokens.keys()[0]
    claims = {"aud": AUDIENCE, "sub": TASK, "acc": "team", "exp": int(time.time()) + 60} | changes
    given = {name: value for name, value in claims.items() if value is not None}
    return PREFIX + jwt.encode(given, secret or key.secret, "HS256", headers={"kid": key.id})


def part(values: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def test_a_token_tells_whose_its_task_is(tokens: Tokens) -> None:
    token = tokens.make(TASK, "team")
    assert is_token(token)
    assert tokens.grant_of(token, TASK) == Grant("team", None)
    assert tokens.grant_of(tokens.make(TASK, "", "key1"), TASK) == Grant("", "key1")
    assert tokens.grant_of(forged(tokens), TASK) == Grant("team", None)


def test_a_token_holds_for_two_hours(tokens: Tokens) -> None:
    claims = jwt.decode(tokens.make(TASK, "team")[4:], options={"verify_signature": False})
    assert (claims["exp"] - claims["iat"], TTL_SECONDS) == (7200, 7200)
    assert abs(claims["iat"] - time.time()) < 60


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"sub": "tsk_another"}, id="of another task"),
        pytest.param({"exp": int(time.time()) - 1}, id="expired"),
        pytest.param({"exp": None}, id="that never ends"),
        pytest.param({"aud": "another"}, id="for something else"),
        pytest.param({"aud": None}, id="for anything"),
        pytest.param({"acc": None}, id="of nobody"),
        pytest.param({"acc": 7}, id="of a number"),
        pytest.param({"key": 7}, id="by a key that is a number"),
        pytest.param({"sub": None}, id="of no task"),
        pytest.param({"secret": bytes(32)}, id="by another secret"),
    ],
)
def test_a_token_is_refused(tokens: Tokens, changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized, match="not valid for this task"):
        tokens.grant_of(forged(tokens, **changes), TASK)


@pytest.mark.parametrize("text", ["", "pat_", "pat_a.b.c", "dk_key", "pat_" + "a" * 9000])
def test_no_token_is_refused_alike(tokens: Tokens, text: str) -> None:
    with pytest.raises(Unauthorized, match="not valid for this task"):
        tokens.grant_of(text, TASK)


def test_a_token_cannot_choose_its_algorithm(tokens: Tokens) -> None:
    claims = {"aud": AUDIENCE, "sub": TASK, "acc": "team", "exp": int(time.time()) + 60}
    header = {"alg": "none", "typ": "JWT", "kid": tokens.keys()[0].id}
    for text in (f"{part(header)}.{part(claims)}.", f"{part(header)}.{part(claims)}.AAAA"):
        with pytest.raises(Unauthorized):
            tokens.grant_of(PREFIX + text, TASK)


def test_no_changed_token_passes(tokens: Tokens) -> None:
    token = tokens.make(TASK, "team")
    for place in range(len(PREFIX), len(token), 3):
        letter = "A" if token[place] != "A" else "Q"
        with pytest.raises(Unauthorized):
            tokens.grant_of(token[:place] + letter + token[place + 1 :], TASK)


def test_the_secret_is_kept_apart_from_that_of_links(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    made = load_tokens(folder.token_keys).make(TASK, "team")
    load_links(folder.link_keys, ttl_seconds=60)

    assert folder.token_keys.stat().st_mode & 0o777 == 0o600
    assert load_tokens(folder.token_keys).grant_of(made, TASK) == Grant("team", None)
    with pytest.raises(Unauthorized):
        load_tokens(folder.link_keys).grant_of(made, TASK)


def test_tokens_of_the_last_key_hold_after_another_comes(tmp_path: Path) -> None:
    path = tmp_path / "token_keys"
    made = load_tokens(path).make(TASK, "team")
    rotate(path)
    assert load_tokens(path).grant_of(made, TASK) == Grant("team", None)
    assert load_tokens(path).make(TASK, "team") != made


def test_a_file_without_keys_is_no_file_of_keys(tmp_path: Path) -> None:
    (tmp_path / "token_keys").write_text("")
    with pytest.raises(ValueError, match="holds no key"):
        load_tokens(tmp_path / "token_keys")

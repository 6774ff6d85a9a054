"""Tokens for pages: whoever holds one may watch one task until it expires, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from api.errors import Unauthorized
from api.links import LinkKey, key_file

PREFIX = "pat_"
TTL_SECONDS = 2 * 3600
ALGORITHM = "HS256"
AUDIENCE = "darkroom-task"
CLAIMS = ["aud", "sub", "acc", "exp"]


class NoToken(Unauthorized):
    """A token that does not hold, always told alike."""

    def __init__(self) -> None:
        super().__init__("this token is not valid for this task, or no longer")


@dataclass(frozen=True, slots=True)
class Grant:
    """Whose task a token opens, and the API key that it ends with; an open server has none."""

    account: str
    key_id: str | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Signs with the first key, accepts any of them."""

    keys: Callable[[], tuple[LinkKey, ...]]
    ttl_seconds: int = TTL_SECONDS

    def make(self, task_id: str, account: str, key_id: str | None = None) -> str:
        """A token for one task of an account, by the API key that it was made for."""
        key, now = self.keys()[0], int(time.time())
        claims: dict[str, Any] = {"aud": AUDIENCE, "sub": task_id, "acc": account, "iat": now}
        claims["exp"] = now + self.ttl_seconds
        if key_id is not None:
            claims["key"] = key_id
        return PREFIX + jwt.encode(claims, key.secret, ALGORITHM, headers={"kid": key.id})

    def grant_of(self, token: str, task_id: str) -> Grant:
        """By whom the task may be watched; raises NoToken unless the token is for it."""
        try:
            claims = self._claims(token.removeprefix(PREFIX))
        except jwt.InvalidTokenError:
            claims = {}
        account, key_id = claims.get("acc"), claims.get("key")
        if claims.get("sub") != task_id or not isinstance(account, str):
            raise NoToken
        if not isinstance(key_id, str | None):
            raise NoToken
        return Grant(account, key_id)

    def _claims(self, text: str) -> dict[str, Any]:
        key_id = jwt.get_unverified_header(text).get("kid")
        key = next((key for key in self.keys() if key.id == key_id), None)
        if key is None:
            raise jwt.InvalidTokenError
        # The algorithm is ours to say: one that the token names could be "none".
        claims: dict[str, Any] = jwt.decode(
            text,
            key.secret,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            options={"require": CLAIMS},
        )
        return claims


def is_token(text: str | None) -> bool:
    """Whether a text claims to be a token."""
    return text is not None and text.startswith(PREFIX)


def load_tokens(path: Path) -> Tokens:
    """Tokens by the keys in a file, which is made on the first start; raises ValueError."""
    return Tokens(key_file(path))

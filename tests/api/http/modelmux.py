"""What a ModelMux client does, for the tests of its contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2

from tests.api.http.served import Served, until

PATH = "/api/v1/generations"
KEY = {"Authorization": "Bearer any-key"}


def create(
    client: httpx2.Client, *, headers: Mapping[str, str] = KEY, **fields: Any
) -> httpx2.Response:
    body = {"prompt": "a red fox in fresh snow"} | fields
    return client.post(PATH, json=body, headers=dict(headers))


def ended(served: Served, history_id: str, headers: Mapping[str, str] = KEY) -> dict[str, Any]:
    """The poll's reply once the status is final, asking as a client would."""
    told: dict[str, Any] = {}

    def is_final() -> bool:
        reply = served.client.get(f"{PATH}/{history_id}", headers=dict(headers))
        assert reply.status_code == 200
        told.clear()
        told.update(reply.json())
        return told["status"] in ("completed", "failed")

    until(is_final)
    return told


def account(served: Served, headers: Mapping[str, str]) -> dict[str, Any]:
    """Balance and what is held, as the account itself is told."""
    told = served.client.get("/darkroom/account", headers=dict(headers)).json()
    return {"balance": told["balance"], "held": told["held"]}

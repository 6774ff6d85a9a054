"""The models of a running Darkroom, moved and told of over its own API."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote

import httpx2

from api.cli.remote import ANSWER_SECONDS, found, json_of, refusal
from api.cli.states import news_of, state_of
from api.cli.terminal import Failure

LOOK_SECONDS = 0.2
# A device takes a command up between two steps; what it told of before may be another failure.
SETTLE_SECONDS = 5.0


def manage(
    url: str, key: str | None, name: str, action: str, device: str | None = None
) -> Iterator[str]:
    """What becomes of a model on a server's devices, or on one; raises UsageError or Failure."""
    with closing(found(url, key).client) as client:
        try:
            path = f"/darkroom/admin/models/{quote(name)}/{action}"
            only = {} if device is None else {"device": device}
            reply = client.post(path, params=only, timeout=ANSWER_SECONDS)
            if reply.status_code != 202:
                raise refusal(reply)
            yield from _watch(client, name, action, device)
        except httpx2.HTTPError as error:
            raise Failure(f"lost the server: {error}") from None


def devices(url: str, key: str | None) -> list[Mapping[str, Any]]:
    """What a server tells of its devices; raises UsageError or Failure."""
    with closing(found(url, key).client) as client:
        try:
            return _devices(client)
        except httpx2.HTTPError as error:
            raise Failure(f"lost the server: {error}") from None


def _watch(client: httpx2.Client, name: str, action: str, only: str | None) -> Iterator[str]:
    told: dict[str, tuple[object, ...]] = {}
    begin, has_moved = time.monotonic(), False
    while True:
        states = _states(client, name, only)
        for device, model in states.items():
            if told.get(device) != (news := news_of(model)):
                told[device] = news
                yield f"{device}: {state_of(model)}"
        failed = [one["reason"] for one in states.values() if one["state"] == "failed"]
        has_moved = has_moved or not failed or time.monotonic() - begin > SETTLE_SECONDS
        if failed and has_moved:
            raise Failure(failed[0])
        if all(_is_done(model, action) for model in states.values()):
            for device, model in states.items():
                yield from _lacking(device, model)
            return
        time.sleep(LOOK_SECONDS)


def _states(client: httpx2.Client, name: str, only: str | None) -> dict[str, Mapping[str, Any]]:
    """A model on each device that works, or on one."""
    states = {
        device["device"]: model
        for device in _devices(client)
        for model in device["models"]
        if model["name"] == name and device["alive"] and only in (None, device["device"])
    }
    if not states:
        raise Failure(f"no device that {name} may be on works any more")
    return states


def _devices(client: httpx2.Client) -> list[Mapping[str, Any]]:
    reply = client.get("/darkroom/devices", timeout=ANSWER_SECONDS)
    if reply.is_error:
        raise refusal(reply)
    told: list[Mapping[str, Any]] = json_of(reply)["devices"]
    return told


def _lacking(device: str, model: Mapping[str, Any]) -> Iterator[str]:
    """The options of a model that the device cannot do, and why."""
    for name, option in model["options"].items():
        if option["reason"]:
            asked, got = option["requested"], option["effective"]
            yield f"{device}: {name} is {got}, not {asked}: {option['reason']}"


def _is_done(model: Mapping[str, Any], action: str) -> bool:
    """Whether a model on a device is as was asked."""
    match action:
        case "load":
            return bool(model["state"] == "ready")
        case "pin":
            return bool(model["state"] == "ready" and model["pinned"])
        case "unload":
            return bool(model["state"] == "unloaded")
        case _:
            return not model["pinned"]

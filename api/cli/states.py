"""What a running server's models are doing, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Of what is fetched, so many parts are told of on the way.
_TOLD_PARTS = 20


def state_of(model: Mapping[str, Any]) -> str:
    """Of one model on one device: "ready, pinned", or "loading, 3.2 of 23.8 GB fetched"."""
    words, (done, whole) = [model["state"]], _fetched(model)
    if whole:
        unit, size = ("GB", 1e9) if whole >= 10**8 else ("MB", 1e6)
        words.append(f"{done / size:.1f} of {whole / size:.1f} {unit} fetched")
    if model["pinned"]:
        words.append("pinned")
    return ", ".join(words)


def news_of(model: Mapping[str, Any]) -> tuple[object, ...]:
    """Another value where there is something new to tell of a model."""
    done, whole = _fetched(model)
    return model["state"], model["pinned"], _TOLD_PARTS * done // max(1, whole)


def lines_of(devices: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every device, and what each model on it is doing."""
    for device in devices:
        yield f"{device['device']}, {device['name']}{'' if device['alive'] else ', NOT ALIVE'}"
        for model in device["models"]:
            reason = f", {model['reason']}" if model["reason"] else ""
            yield f"  {model['name']}: {state_of(model)}{reason}"


def _fetched(model: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes that are here, of how many; a server of an earlier version does not say."""
    return model.get("fetched_bytes", 0), model.get("fetch_bytes", 0)

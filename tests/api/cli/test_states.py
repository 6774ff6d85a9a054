"""What a running server's models are doing, in words; and which entries a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.cli.pull import chosen
from api.cli.states import lines_of, news_of, state_of
from api.cli.terminal import UsageError
from inference.catalog import Catalog

GB = 10**9


def model(**changes: Any) -> dict[str, Any]:
    told = {"name": "far", "state": "loading", "pinned": False, "reason": ""}
    return told | {"fetched_bytes": 0, "fetch_bytes": 0} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "loading"),
        ({"state": "ready", "pinned": True}, "ready, pinned"),
        (
            {"fetched_bytes": 32 * GB // 10, "fetch_bytes": 238 * GB // 10},
            "loading, 3.2 of 23.8 GB fetched",
        ),
        ({"fetched_bytes": 0, "fetch_bytes": 4 * 10**6}, "loading, 0.0 of 4.0 MB fetched"),
    ],
)
def test_a_state_is_told_in_words(changes: dict[str, Any], words: str) -> None:
    assert state_of(model(**changes)) == words


def test_a_server_of_an_earlier_version_tells_no_bytes() -> None:
    old = {"name": "far", "state": "loading", "pinned": False, "reason": ""}
    assert state_of(old) == "loading" and news_of(old) == news_of(model())


def test_a_long_download_is_told_of_twenty_times() -> None:
    news = {news_of(model(fetched_bytes=done, fetch_bytes=1000)) for done in range(1000)}
    assert len(news) == 20
    assert news_of(model(state="ready")) not in news


def test_every_device_and_model_has_a_line() -> None:
    failed = model(name="gone", state="failed", reason="no such folder")
    devices = [
        {"device": "cuda:0", "name": "a card", "alive": True, "models": [model(), failed]},
        {"device": "cuda:1", "name": "another", "alive": False, "models": []},
    ]
    assert list(lines_of(devices)) == [
        "cuda:0, a card",
        "  far: loading",
        "  gone: failed, no such folder",
        "cuda:1, another, NOT ALIVE",
    ]


def test_assistants_are_chosen_like_models() -> None:
    entry = {"name": "rater", "family": "sdxl", "source": "owner/name"}
    named: dict[str, Any] = {"models": {"sd": entry | {"name": "sd"}}, "rater": {"clip": "a/b"}}
    catalog, path = Catalog.model_validate(named), Path("models.yaml")
    assert chosen(catalog, [], path) == (["sd"], ["rater"])
    assert chosen(catalog, ["rater"], path) == ([], ["rater"])
    assert chosen(catalog, ["sd"], path) == (["sd"], [])
    with pytest.raises(UsageError, match=r"no model 'viewer' in models.yaml, only sd, rater"):
        chosen(catalog, ["viewer"], path)
    named["models"]["rater"] = entry
    both = Catalog.model_validate(named)
    assert chosen(both, ["rater"], path) == (["rater"], []), "the model is meant"
    assert chosen(both, [], path) == (["sd", "rater"], ["rater"])

"""A task record to translate, and the golden files beside."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.tasks import Findings, Output, Task, TaskState
from inference.job import ImageRequest, Job, Mode

GOLDEN = Path(__file__).parent / "golden"

OUTPUTS = tuple(
    Output(
        index=index,
        key=f"outputs/V1StGXR8Z5jdHi6BmyT/1/{index}.png",
        media_type="image/png",
        width=144,
        height=80,
        seed=2**32 - 1 + index if index == 0 else index - 1,
        size_bytes=1234 + index,
        sha256=f"{index}" * 64,
    )
    for index in range(2)
)

TASK = Task(
    id="V1StGXR8Z5jdHi6BmyT",
    dialect="modelmux",
    account="",
    state=TaskState.QUEUED,
    request=ImageRequest(
        model="nano-banana-pro", prompt="a red fox", aspect_ratio="16:9", resolution="2k", count=2
    ),
    job=Job(
        id="V1StGXR8Z5jdHi6BmyT",
        model="tiny-flux",
        mode=Mode.GENERATE,
        prompt="a red fox",
        negative_prompt="",
        images=(),
        width=144,
        height=80,
        seeds=(2**32 - 1, 0),
        num_inference_steps=8,
        guidance_scale=4.0,
        strength=0.8,
    ),
    credits=10,
    attempt=0,
    created_ms=1733011200000,
    started_ms=None,
    finished_ms=None,
    cancel_requested=False,
    error_kind=None,
    error_message=None,
    outputs=(),
)

STATES: dict[str, dict[str, Any]] = {
    "queued": {},
    "running": {
        "state": TaskState.RUNNING,
        "attempt": 1,
        "started_ms": 1733011201000,
        "outputs": OUTPUTS[:1],
    },
    "succeeded": {
        "state": TaskState.SUCCEEDED,
        "attempt": 1,
        "started_ms": 1733011201000,
        "finished_ms": 1733011230000,
        "outputs": OUTPUTS,
    },
    "failed": {
        "state": TaskState.FAILED,
        "attempt": 3,
        "started_ms": 1733011201000,
        "finished_ms": 1733011230000,
        "error_kind": "out_of_memory",
        "error_message": "picture 0 does not fit the device",
        # for our own API alone
        "findings": Findings(reason="no folder /srv/weights"),
    },
    "cancelled": {
        "state": TaskState.CANCELLED,
        "cancel_requested": True,
        "finished_ms": 1733011230000,
    },
}


@pytest.fixture
def task_in() -> Callable[[str], Task]:
    """One task, in the state of that name."""
    return lambda state: replace(TASK, **STATES[state])


@pytest.fixture
def golden() -> Callable[[str], dict[str, Any]]:
    """A golden file's content."""

    def load(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
        return content

    return load

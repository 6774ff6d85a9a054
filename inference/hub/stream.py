"""The bytes of one file of the hub as they come, until nobody wants them any more. No torch.

The hub's own client hands on ten megabytes at a time, and hears nothing while the hub says nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from http import HTTPStatus
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from inference.hub.partial import Part
from inference.hub.repository import is_of_the_line

Result = TypeVar("Result")

# Whoever waits looks this often whether it was stopped.
LOOK_SECONDS = 0.1
# What breaks off is asked for again after so long, until nothing came for so many times.
_AGAIN_SECONDS = 1.0
_MOST_TRIES = 5


def complete(part: Part, url: str, check: Callable[[], None]) -> None:
    """Bring what a part lacks of the file at an address, again where the line breaks.

    `check` raises where it is to end. Raises PartLost, and what the hub's client raises.
    """
    tries = 0
    while True:
        begun = part.size_bytes
        try:
            return _append(part, url, check)
        except Exception as error:
            if not is_of_the_line(error):
                raise
            check()
            tries = 0 if part.size_bytes > begun else tries + 1
            if tries > _MOST_TRIES:
                raise
        until = time.monotonic() + _AGAIN_SECONDS
        while time.monotonic() < until:
            check()
            time.sleep(LOOK_SECONDS)


def _append(part: Part, url: str, check: Callable[[], None]) -> None:
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if begun := part.size_bytes:
        headers["Range"] = f"bytes={begun}-"
    with http_stream_backoff(
        "GET",
        url,
        headers=headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        retry_on_exceptions=(),
        retry_on_status_codes=(408, 429),
    ) as response:
        hf_raise_for_status(response)
        if begun and response.status_code == HTTPStatus.OK:
            # it knows of no ranges, and begins anew
            part.clear()
        for piece in response.iter_bytes():
            check()
            part.write(piece)


def unless(is_over: Callable[[], bool], work: Callable[[], Result]) -> Result | None:
    """What `work` returns, or None as soon as it is over; then it is left to itself."""
    future = Future[Result]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # a daemon: a hub that says nothing must not keep the process from ending
    threading.Thread(target=run, daemon=True).start()
    while not is_over():
        if wait([future], timeout=LOOK_SECONDS).done:
            return future.result()
    return None

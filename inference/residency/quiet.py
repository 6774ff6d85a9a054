"""Keeps what a load changes for the whole process away from pictures in the making.

While diffusers and transformers construct a module in 16 bits, torch's default dtype is theirs,
on every thread: tensors that a pipeline or scheduler creates meanwhile would come out in 16 bits,
and the picture would be another. A load therefore waits, before it sets the default, until no
worker is within a step, and workers wait until it is set back. That is for the construction only,
tenths of a second; reading the weights goes on beside the steps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Quiet:
    """Many steps at a time, or one construction; a construction that waits goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._steps = 0
        self._constructing = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within, torch's defaults stay as they are."""
        with self._changed:
            self._changed.wait_for(lambda: not self._constructing)
            self._steps += 1
        try:
            yield
        finally:
            with self._changed:
                self._steps -= 1
                self._changed.notify_all()

    def begin(self) -> None:
        """Wait until no step is under way, and let none begin until `end`."""
        with self._changed:
            self._constructing += 1
            self._changed.wait_for(lambda: not self._steps)

    def end(self) -> None:
        """Let steps begin again."""
        with self._changed:
            self._constructing -= 1
            self._changed.notify_all()


QUIET = Quiet()


@contextmanager
def loading(quiet: Quiet = QUIET) -> Iterator[None]:
    """A load on this thread, which is no worker's; one at a time in the process."""
    own, usual, real = threading.get_ident(), torch.get_default_dtype(), torch.set_default_dtype
    is_held = False

    def set_default_dtype(wanted: torch.dtype) -> None:
        nonlocal is_held
        if threading.get_ident() == own and wanted != usual and not is_held:
            quiet.begin()
            is_held = True
        real(wanted)
        if threading.get_ident() == own and wanted == usual and is_held:
            is_held = False
            quiet.end()

    torch.set_default_dtype = set_default_dtype
    try:
        yield
    finally:
        torch.set_default_dtype = real
        if is_held:
            real(usual)
            quiet.end()

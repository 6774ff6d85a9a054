"""Small local models beside the served ones: loaded when they are first used."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
import transformers

from inference.errors import ModelFailed
from inference.hub.download import Download
from inference.hub.files import whole_model
from inference.loading import LOAD_LOCK, place_of
from inference.residency.quiet import loading

T = TypeVar("T")

# A hub id or a folder, and the hub id's revision.
Place = tuple[str, str | None]

RETRY_SECONDS = 30.0


class Late(Generic[T]):
    """What `load` makes at the first `get` of what it `needs`; used by one thread.

    What lies on the hub is fetched first. A failure is told again for a while before it is tried
    again: a broken checkpoint may be large.
    """

    def __init__(
        self,
        load: Callable[[], T],
        needs: Sequence[Place] = (),
        download: Download | None = None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._load = load
        self._needs = needs
        self._download = download
        self._retry_seconds = retry_seconds
        self._made: T | None = None
        self._failed: tuple[ModelFailed, float] | None = None

    def get(self) -> T:
        """The loaded thing; raises ModelFailed with the reason."""
        if self._made is not None:
            return self._made
        if self._failed and time.monotonic() - self._failed[1] < self._retry_seconds:
            raise self._failed[0]
        try:
            for place in self._needs:
                place_of(whole_model("", *place), self._download)
            with LOAD_LOCK, loading():
                self._made = self._load()
        except Exception as error:
            # whatever a checkpoint can be wrong about ends here
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            self._failed = (ModelFailed(reason), time.monotonic())
            raise self._failed[0] from error
        return self._made


def load_part(kind: str, source: str, revision: str | None, **options: Any) -> Any:
    """What a transformers Auto class reads at a folder or hub id, running none of its code."""
    reader: Any = getattr(transformers, kind)
    folder = place_of(whole_model("", source, revision))
    return reader.from_pretrained(folder, trust_remote_code=False, **options)


def load_weights(kind: str, source: str, revision: str | None, device: str) -> Any:
    """A model from safetensors, ready to be asked."""
    transformers.utils.logging.disable_progress_bar()
    # on a CPU half precision is the slow way
    dtype = torch.float32 if device == "cpu" else "auto"
    model = load_part(kind, source, revision, use_safetensors=True, dtype=dtype)
    return model.to(device).eval()

"""The checkpoints that one model takes its references by: read when first asked for, then kept.

A thread of their own reads them into RAM while the device goes on; only the result is put on the
device here. What could not be read fails the pictures that need it, and the model serves all else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

import structlog

from inference.coalesce import Attached, Rendezvous
from inference.errors import ReferenceFailed
from inference.job import ReferenceTag
from inference.loading import first_line
from inference.model_spec import ModelSpec
from inference.references.adapters import load_controlnet, load_image_adapter, load_redux
from inference.references.image_rows import ImageAdapter, ImageRows
from inference.references.spec import ReferenceSpec, Way

log = structlog.get_logger()

# What could not be loaded is not tried again for so long: many requests may need it.
_RETRY_SECONDS = 10.0


class ReferenceShelf:
    """What was loaded for a model's tags, by where it is from. For the device's thread alone."""

    def __init__(
        self, spec: ModelSpec, pipe: Any, denoiser: Attached, device: str, rendezvous: Rendezvous
    ) -> None:
        self.attached: list[Attached] = []
        self._spec = spec
        self._pipe = pipe
        self._denoiser = denoiser
        self._device = device
        self._rendezvous = rendezvous
        self._kept: dict[Hashable, Any] = {}
        self._coming: dict[Hashable, Future[Any]] = {}
        self._failed: dict[Hashable, tuple[str, float]] = {}
        adapts = any(entry.by is Way.IP_ADAPTER for entry in spec.references.values())
        # a denoiser of several models has it once
        if adapts and not any(isinstance(data, ImageRows) for data in denoiser.row_data):
            denoiser.row_data.append(ImageRows(denoiser.module))

    @property
    def held_bytes(self) -> int:
        """What all that is on the device takes."""
        modules = [module for part in self._kept.values() for module in _modules(part)]
        weights = [one for module in modules for one in module.parameters()]
        return sum(one.numel() * one.element_size() for one in weights)

    def ready(self, tags: Sequence[ReferenceTag]) -> bool:
        """Whether `get` would not have to wait; what is missing is being read from now on."""
        # all of them, so that reading the second does not wait for the first
        found = [self._is_ready(tag) for tag in tags]
        return all(found)

    def get(self, tag: ReferenceTag) -> Any:
        """What a tag of the model's is taken by, on the device; raises ReferenceFailed."""
        entry = self._spec.references[tag]
        key = _place_of(entry)
        if key not in self._kept:
            try:
                if key in self._failed:
                    raise ReferenceFailed(self._failed[key][0])
                if key not in self._coming:
                    self._start_reading(key, tag)
                self._kept[key] = self._placed(self._coming.pop(key).result(), entry.by)
            except Exception as error:
                # whatever a checkpoint can be wrong about
                reason = first_line(error)
                self._failed.setdefault(key, (reason, time.monotonic() + _RETRY_SECONDS))
                raise ReferenceFailed(f"reference {tag.value!r}: {reason}"[:500]) from None
            log.info("reference.loaded", model=self._spec.name, tag=tag.value)
        return self._kept[key]

    def let_go(self) -> None:
        """Free the device of it all; nothing is being made."""
        for attached in self.attached:
            self._rendezvous.detach(attached)
        self.attached.clear()
        self._kept.clear()

    def _is_ready(self, tag: ReferenceTag) -> bool:
        key = _place_of(self._spec.references[tag])
        if key in self._kept:
            return True
        if key in self._failed:
            if time.monotonic() < self._failed[key][1]:
                return True
            del self._failed[key]
        if key not in self._coming:
            self._start_reading(key, tag)
        return self._coming[key].done()

    def _start_reading(self, key: Hashable, tag: ReferenceTag) -> None:
        future = self._coming[key] = Future()
        read = self._reader(self._spec.references[tag])

        def fill() -> None:
            try:
                future.set_result(read())
            except BaseException as error:
                future.set_exception(error)

        # a daemon: a download that hangs must not keep the process from ending
        threading.Thread(target=fill, name="reference-reader", daemon=True).start()

    def _reader(self, entry: ReferenceSpec) -> Callable[[], Any]:
        rules, denoiser = self._spec.rules, self._denoiser.module
        if entry.by is Way.CONTROLNET:
            return lambda: load_controlnet(entry, rules.controlnet, denoiser)
        if entry.by is Way.REDUX:
            return lambda: load_redux(entry, denoiser)
        return lambda: load_image_adapter(entry, self._pipe, rules.denoisers[0])

    def _placed(self, part: Any, way: Way) -> Any:
        placed = part.to(self._device)
        if way is Way.CONTROLNET:
            attached = self._rendezvous.attach(placed)
            # its rows are as large as the denoiser's, for which that was measured
            attached.budget_tokens = self._denoiser.budget_tokens
            self.attached.append(attached)
        return placed


def _place_of(entry: ReferenceSpec) -> Hashable:
    """Equal where one checkpoint serves two tags."""
    knows_several = entry.control_mode is not None
    where = (entry.source, entry.revision, entry.subfolder, entry.file)
    return entry.by, where, entry.image_encoder, entry.image_encoder_subfolder, knows_several


def _modules(part: Any) -> list[Any]:
    if isinstance(part, ImageAdapter):
        return [*part.processors.values(), part.projection, part.image_encoder]
    if hasattr(part, "image_embedder"):
        return [part.image_encoder, part.image_embedder]
    return [part]

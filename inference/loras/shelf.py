"""The LoRAs of one model on one device: read when first asked for, kept while there is room.

Reading may mean a download, and cutting the rank of a full-size one takes seconds, so a thread of
its own does both, on the CPU, while the device goes on; only the result is put on the device here.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import structlog
import torch

from inference.errors import LoraFailed
from inference.faults import without_tensors
from inference.hub.download import Download
from inference.job import Lora
from inference.loras.files import find, read
from inference.loras.layers import fit
from inference.loras.mix import Adapter, Layers, LoraRows, Mix, Pair
from inference.loras.rank import truncate
from inference.model_spec import ModelSpec

log = structlog.get_logger()

COMPUTED = (torch.float32, torch.bfloat16, torch.float16)
_Key = tuple[str, int | None]
_Read = tuple[Hashable, Layers]

# Read at the same time; more wait their turn.
_MOST_READERS = 4
# Kept though nobody has fetched them yet: what was asked for may have been cancelled.
_MOST_COMING = 8
# What could not be read is not tried again for so long: many requests may name it.
_RETRY_SECONDS = 10.0


class LoraShelf:
    """Adapters by name and rank, least recently used first to go once they exceed `limit_bytes`.

    One that a picture still uses stays until that is done, and counts until then. Its methods are
    for the device's thread alone.
    """

    def __init__(
        self,
        spec: ModelSpec,
        pipe: Any,
        modules: Mapping[str, torch.nn.Module],
        device: str,
        limit_bytes: int,
    ) -> None:
        self.rows = {name: LoraRows(module, name, limit_bytes) for name, module in modules.items()}
        self.limit_bytes = limit_bytes
        self._spec = spec
        self._pipe = pipe
        self._modules = modules
        self._device = device
        self._kept: OrderedDict[_Key, Adapter] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[_Key, Adapter] = weakref.WeakValueDictionary()
        self._coming: OrderedDict[_Key, Future[_Read]] = OrderedDict()
        self._downloads: dict[_Key, Download] = {}
        self._failed: dict[_Key, tuple[LoraFailed, float]] = {}
        self._paths: dict[str, str] = {}

    @property
    def held_bytes(self) -> int:
        """What all adapters on the device take, and what was gathered from them."""
        gathered = sum(rows.held_bytes for rows in self.rows.values())
        return sum(adapter.held_bytes for adapter in self._alive.values()) + gathered

    def ready(self, loras: Sequence[Lora]) -> bool:
        """Whether `mix` would not have to wait; what is missing is being read from now on."""
        # all of them, so that reading the second does not wait for the first
        found = [self._is_ready(self._key(lora)) for lora in loras if lora.strength]
        return all(found)

    def mix(self, loras: Sequence[Lora]) -> Mix:
        """What a job's LoRAs come to; raises LoraFailed. Nothing is read for a strength of 0."""
        parts = []
        for lora in loras:
            assert lora.strength is not None, "a job's strengths are decided"
            if lora.strength:
                parts.append((self._get(self._key(lora)), lora.strength))
        return Mix(tuple(parts))

    def _key(self, lora: Lora) -> _Key:
        """What it is kept under; a fetched one's name is of its content, so its path adds none."""
        if lora.path is not None:
            self._paths[lora.name] = lora.path
        return lora.name, lora.rank

    def let_go(self) -> None:
        """Leave the device; what is asked for again is read again."""
        gone = [*self._kept.values()]
        self._kept.clear()
        for rows in self.rows.values():
            rows.forget(gone)

    @property
    def fetched_bytes(self) -> tuple[int, int]:
        """How much is here, and of how many bytes, of what is on its way from the hub."""
        coming = [key for key, future in self._coming.items() if not future.done()]
        found = [self._downloads[key].bytes for key in coming]
        return sum(done for done, _ in found), sum(whole for _, whole in found)

    def stop(self) -> None:
        """Let nothing come from the hub any more; what is here of it stays."""
        for one in self._downloads.values():
            one.stop()

    def _is_ready(self, key: _Key) -> bool:
        if key in self._alive or self._failure(key) is not None:
            return True
        future = self._coming.get(key)
        if future is None:
            if sum(not one.done() for one in self._coming.values()) < _MOST_READERS:
                self._start_reading(key)
            return False
        return future.done()

    def _start_reading(self, key: _Key) -> None:
        done = [one for one, future in self._coming.items() if future.done()]
        for one in done[: max(0, len(self._coming) - _MOST_COMING)]:
            del self._coming[one], self._downloads[one]
        future = self._coming[key] = Future()
        download = self._downloads[key] = Download()

        def fill() -> None:
            try:
                future.set_result(self._read(*key, download))
            except BaseException as error:
                future.set_exception(error)

        # a daemon: a download that hangs must not keep the process from ending
        threading.Thread(target=fill, name="lora-reader", daemon=True).start()

    def _failure(self, key: _Key) -> LoraFailed | None:
        error, until = self._failed.get(key, (None, 0.0))
        if error is not None and time.monotonic() > until:
            del self._failed[key]
            return None
        return error

    def _get(self, key: _Key) -> Adapter:
        adapter = self._alive.get(key)
        if adapter is None:
            if (failure := self._failure(key)) is not None:
                # always the same object, to which each raise would add its frames
                raise without_tensors(failure)
            try:
                adapter = self._alive[key] = self._load(key)
            except LoraFailed as error:
                failed = LoraFailed(f"LoRA {key[0]!r}: {error}"[:500])
                self._failed = dict([*self._failed.items()][-100:])
                self._failed[key] = failed, time.monotonic() + _RETRY_SECONDS
                raise failed from None
        self._kept[key] = adapter
        self._kept.move_to_end(key)
        self._let_go()
        return adapter

    def _let_go(self) -> None:
        while sum(adapter.held_bytes for adapter in self._kept.values()) > self.limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            for rows in self.rows.values():
                rows.forget([oldest])

    def _load(self, key: _Key) -> Adapter:
        coming = self._coming.pop(key, None)
        self._downloads.pop(key, None)
        stamp, layers = coming.result() if coming is not None else self._read(*key)
        adapter = Adapter(key[0], stamp, self._placed(layers))
        if adapter.held_bytes > self.limit_bytes:
            raise LoraFailed(f"{adapter.held_bytes} bytes are more than LoRAs may take")
        log.info("lora.loaded", model=self._spec.name, lora=key[0], bytes=adapter.held_bytes)
        return adapter

    def _read(self, name: str, rank: int | None, download: Download | None = None) -> _Read:
        """What a file holds for this model, in float32 on the CPU; on any thread."""
        found = find(self._spec, name, self._paths.get(name), download)
        # a file has at most four times the bytes that it takes here, by its narrower dtype
        if found.stamp[1] > 4 * self.limit_bytes:
            raise LoraFailed(f"{found.stamp[1]} bytes are too many")
        weights, metadata = read(found.path)
        layers = fit(weights, metadata, self._pipe, self._modules)
        if rank is not None:
            layers = {
                component: {path: truncate(*pair, rank) for path, pair in pairs.items()}
                for component, pairs in layers.items()
            }
        return (*found.stamp, rank), layers

    def _placed(self, layers: Layers) -> Layers:
        """On the device, in the dtype that its layer computes in."""
        return {
            component: {path: self._place(component, path, pair) for path, pair in pairs.items()}
            for component, pairs in layers.items()
        }

    def _place(self, component: str, path: str, pair: Pair) -> Pair:
        module = self._modules[component]
        weight = getattr(module.get_submodule(path), "weight", None)
        dtype = weight.dtype if weight is not None else None
        if dtype not in COMPUTED:
            # a quantized layer computes in what the rest of its model is in
            dtype = next((one.dtype for one in module.parameters() if one.dtype in COMPUTED), None)
        down, up = (half.to(self._device, dtype or torch.float32).contiguous() for half in pair)
        if not (down.isfinite().all() and up.isfinite().all()):
            raise LoraFailed(f"{path} holds values beyond {dtype}")
        return down, up

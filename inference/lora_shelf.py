"""The LoRAs of one model on one device: read when first asked for, kept while there is room."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
import torch

from inference.catalog import ModelSpec
from inference.errors import LoraFailed
from inference.job import Lora
from inference.lora import Adapter, Layers, LoraRows, Mix, Pair
from inference.lora_files import find, read
from inference.lora_layers import fit
from inference.lora_rank import truncate

log = structlog.get_logger()

_COMPUTED = (torch.float32, torch.bfloat16, torch.float16)
_Key = tuple[str, int | None]


class LoraShelf:
    """Adapters by name and rank, least recently used first to go once they exceed `limit_bytes`.

    One that a picture still uses stays until that is done, and counts until then. Used by the
    device's thread alone.
    """

    def __init__(
        self,
        spec: ModelSpec,
        pipe: Any,
        modules: Mapping[str, torch.nn.Module],
        device: str,
        limit_bytes: int,
    ) -> None:
        self.rows = {name: LoraRows(module, name) for name, module in modules.items()}
        self.limit_bytes = limit_bytes
        self._spec = spec
        self._pipe = pipe
        self._modules = modules
        self._device = device
        self._kept: OrderedDict[_Key, Adapter] = OrderedDict()
        self._alive: weakref.WeakValueDictionary[_Key, Adapter] = weakref.WeakValueDictionary()

    @property
    def held_bytes(self) -> int:
        """What all adapters on the device take, and what was gathered from them."""
        gathered = sum(rows.held_bytes for rows in self.rows.values())
        return sum(adapter.held_bytes for adapter in self._alive.values()) + gathered

    def mix(self, loras: Sequence[Lora]) -> Mix:
        """What a job's LoRAs come to; raises LoraFailed. Nothing is read for a strength of 0."""
        parts = []
        for lora in loras:
            assert lora.strength is not None, "a job's strengths are decided"
            if lora.strength:
                parts.append((self._get((lora.name, lora.rank)), lora.strength))
        return Mix(tuple(parts))

    def _get(self, key: _Key) -> Adapter:
        adapter = self._alive.get(key)
        if adapter is None:
            adapter = self._load(*key)
            self._alive[key] = adapter
        self._kept[key] = adapter
        self._kept.move_to_end(key)
        self._let_go()
        return adapter

    def _let_go(self) -> None:
        while sum(adapter.held_bytes for adapter in self._kept.values()) > self.limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            for rows in self.rows.values():
                rows.forget([oldest])

    def _load(self, name: str, rank: int | None) -> Adapter:
        found = find(self._spec, name)
        try:
            # a file has at most four times the bytes that it takes here, by its narrower dtype
            if found.stamp[1] > 4 * self.limit_bytes:
                raise LoraFailed(f"{found.stamp[1]} bytes are too many")
            weights, metadata = read(found.path)
            layers = fit(weights, metadata, self._pipe, self._modules)
            adapter = Adapter(name, (*found.stamp, rank), self._placed(layers, rank))
            if adapter.held_bytes > self.limit_bytes:
                raise LoraFailed(f"{adapter.held_bytes} bytes are more than LoRAs may take")
        except LoraFailed as error:
            raise LoraFailed(f"LoRA {name!r}: {error}"[:500]) from None
        log.info("lora.loaded", model=self._spec.name, lora=name, bytes=adapter.held_bytes)
        return adapter

    def _placed(self, layers: Layers, rank: int | None) -> Layers:
        """On the device, in the dtype that its layer computes in, cut to the rank."""
        return {
            component: {
                path: self._place(component, path, pair if rank is None else truncate(*pair, rank))
                for path, pair in pairs.items()
            }
            for component, pairs in layers.items()
        }

    def _place(self, component: str, path: str, pair: Pair) -> Pair:
        module = self._modules[component]
        weight = getattr(module.get_submodule(path), "weight", None)
        dtype = weight.dtype if weight is not None else None
        if dtype not in _COMPUTED:
            # a quantized layer computes in what the rest of its model is in
            dtype = next((one.dtype for one in module.parameters() if one.dtype in _COMPUTED), None)
        down, up = (half.to(self._device, dtype or torch.float32).contiguous() for half in pair)
        if not (down.isfinite().all() and up.isfinite().all()):
            raise LoraFailed(f"{path} holds values beyond {dtype}")
        return down, up

"""Models and devices as our own API tells of them; pure, no I/O."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from api.dialects.darkroom.translate import to_time
from inference.catalog import Catalog
from inference.model_spec import ModelSpec
from inference.options.spec import requested
from inference.status import DeviceStatus, EngineStatus, ModelStatus


def to_models(catalog: Catalog, status: EngineStatus) -> dict[str, Any]:
    """A `ModelList`."""
    return {"models": [_model(catalog, spec, status) for spec in catalog.models.values()]}


def _model(catalog: Catalog, spec: ModelSpec, status: EngineStatus) -> dict[str, Any]:
    state = status.model(spec.name)
    aliases = [
        name
        for name, alias in catalog.aliases.items()
        if any(spec.name in alias.models_for(mode) for mode in spec.modes)
    ]
    defaults = spec.defaults.model_dump(exclude={"size"})
    return {
        "name": spec.name,
        "description": spec.description,
        "family": spec.family,
        "license": spec.license,
        "state": state.state.value,
        "reason": state.reason,
        "fetched_bytes": state.fetched_bytes,
        "fetch_bytes": state.fetch_bytes,
        "dtype": state.dtype or spec.dtype,
        "options": {name: asdict(one) for name, one in (state.options or requested(spec)).items()},
        "modes": {mode.value: {"lane": state.lanes.get(mode)} for mode in spec.modes},
        "sizes": [_size(*size) for size in spec.sizes],
        "limits": spec.limits.model_dump(),
        "defaults": defaults | {"size": _size(*spec.default_size)},
        "qualities": {name: quality.model_dump() for name, quality in spec.qualities.items()},
        "loras": {
            name: {"strength": lora.strength, "rank": lora.rank, "trigger": lora.trigger}
            for name, lora in spec.loras.items()
        },
        "profiles": list(spec.profiles),
        "references": [tag.value for tag in spec.references],
        "samplers": list(spec.samplers),
        "takes_negative_prompt": spec.takes_negative_prompt,
        "max_sequence_length": spec.max_sequence_length,
        "price": spec.price,
        "aliases": aliases,
    }


def _size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


def to_devices(status: EngineStatus) -> dict[str, Any]:
    """A `DeviceList`."""
    return {"devices": [_device(device) for device in status.devices]}


def _device(device: DeviceStatus) -> dict[str, Any]:
    models = [to_device_model(model) for model in device.models]
    return asdict(device) | {"models": models}


def to_managed(name: str, status: EngineStatus) -> dict[str, Any]:
    """A `ManagedModel`."""
    places = [
        to_device_model(model) | {"device": device.device}
        for device in status.devices
        for model in device.models
        if model.name == name
    ]
    return {"name": name, "devices": places}


def to_device_model(model: ModelStatus) -> dict[str, Any]:
    """A `DeviceModel`."""
    used_at = model.last_used_at
    used_ms = None if used_at is None else int(used_at * 1000)
    return asdict(model) | {"last_used_at": to_time(used_ms)}

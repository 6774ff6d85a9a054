"""A model built from its configs alone: its parts without memory, to be counted and run on shapes.

Nothing of the weights is read; files of them count by their headers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights

from inference.errors import EngineError, ModelFailed
from inference.hub.checkpoint import Part, shapes_of
from inference.loading import first_line
from inference.misfits import missing_weight

Module = torch.nn.Module

# No model has so many, and each takes time to build.
_MOST_LAYERS = 1000


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A pipeline's index, and its parts that have weights, on no device."""

    index: Mapping[str, Any]
    parts: Mapping[str, Module]

    def part(self, *names: str) -> Module | None:
        """The first of these that it has."""
        return next((self.parts[name] for name in names if name in self.parts), None)


def build(folders: Sequence[Path], dtype: torch.dtype) -> Blueprint:
    """The parts that the index of the first folder names; later folders' replace others.

    Raises ModelFailed where a config is not there, or is none of its class.
    """
    index = _read(folders[0] / "model_index.json", "model_index.json")
    parts = {}
    for name, kind in index.items():
        if name.startswith("_") or not isinstance(kind, list) or None in kind:
            continue
        if len(kind) != 2:
            raise ModelFailed(f"{name}: model_index.json does not say which class of which library")
        places = [folder / name for folder in folders if (folder / name).is_dir()]
        if not places:
            raise ModelFailed(f"{name}: named in model_index.json, and there is no such folder")
        config = places[-1] / "config.json"
        told = _read(config, f"{name}/config.json") if config.is_file() else {}
        for key, layers in _too_many(told):
            raise ModelFailed(f"{name}: its config has {layers} as its {key}")
        own = told.get("_class_name", kind[1]) if len(places) > 1 else kind[1]
        module = _part(name, str(kind[0]), str(own), places[-1])
        if module is not None:
            # not its own `to`, which warns of what is kept wider
            parts[name] = Module.to(module, "meta", dtype)
    return Blueprint(index, parts)


def see_file(file: Path) -> None:
    """That a single file of weights is whole, by its header; raises ValueError or OSError."""
    if file.suffix == ".safetensors":
        shapes_of(file)
    elif file.suffix == ".gguf":
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ValueError(f"{file.name} is no gguf file")


def reason(error: Exception) -> str:
    """What an error says, in one line that names the file where the system does."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, EngineError | ValueError):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}"


def size_bytes(module: Module) -> int:
    """What the parameters take, each once."""
    return sum(one.nbytes for one in {id(one): one for one in module.parameters()}.values())


def streamed_bytes(module: Module, *, leaves: bool) -> int:
    """The most of it that lies on the device where it comes by blocks, or by single layers.

    One computes while the next is copied; what is in no block comes together.
    """
    if leaves:
        own = [
            sum(one.nbytes for one in layer.parameters(recurse=False)) for layer in module.modules()
        ]
        return sum(sorted(own)[-2:])
    blocks = [
        size_bytes(block)
        for child in module.children()
        if isinstance(child, torch.nn.ModuleList)
        for block in child
    ]
    return size_bytes(module) - sum(blocks) + sum(sorted(blocks)[-2:])


def misfits(module: Module, part: Part) -> list[str]:
    """What a part's files hold otherwise than its config says; for modules of diffusers alone."""
    if not isinstance(module, diffusers.ModelMixin):
        return []
    held = {name: shape for file in part.files for name, shape in shapes_of(file).items()}
    wanted = {name: tuple(one.shape) for name, one in module.state_dict().items()}
    lacks = missing_weight(module, part)
    found = [f"{lacks} is missing in its files"] if lacks is not None else []
    found += [
        f"{name} is {_shown(held[name])} in its files and {_shown(shape)} by its config"
        for name, shape in wanted.items()
        if name in held and math.prod(held[name]) != math.prod(shape)
    ][:1]
    return found


def _too_many(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Numbers of layers, in a config and those within, that no model has."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _too_many(value)
        elif isinstance(value, int) and value > _MOST_LAYERS and "layers" in key:
            yield key, value


def _part(name: str, library: str, kind: str, folder: Path) -> Module | None:
    try:
        found = _class(library, kind)
    except (ImportError, AttributeError, RuntimeError):
        raise ModelFailed(f"{name}: {library} has no {kind}") from None
    if not (isinstance(found, type) and issubclass(found, Module)):
        return None
    if not (folder / "config.json").is_file():
        raise ModelFailed(f"{name}: no config.json")
    try:
        return _empty(found, folder)
    except Exception as error:
        # whatever a config can be wrong about
        raise ModelFailed(f"{name}: its config makes no {kind}: {first_line(error)}") from error


def _class(library: str, kind: str) -> Any:
    if library in ("diffusers", "transformers"):
        return getattr(diffusers if library == "diffusers" else transformers, kind)
    return getattr(import_module(f"diffusers.pipelines.{library}"), kind)


def _empty(kind: type[Any], folder: Path) -> Module:
    """As its own library makes it before it reads weights."""
    if issubclass(kind, transformers.PreTrainedModel):
        config = kind.config_class.from_pretrained(folder)
        with torch.device("meta"):
            made: Module = kind(config)
            return made
    with init_empty_weights():
        plain: Module = kind.from_config(kind.load_config(folder))
        return plain


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelFailed(f"{name}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelFailed(f"{name} is no JSON") from None
    if not isinstance(told, dict):
        raise ModelFailed(f"{name} is no table")
    return told


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a number"

"""What models.yaml names of the hub, and which of a repository's files that takes. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from os.path import exists
from typing import Any

from inference.catalog import Catalog
from inference.errors import HubFailed
from inference.model_spec import ModelSpec
from inference.references.spec import ReferenceSpec, Way

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TEXTS = (".json", ".txt", ".model", ".jinja")
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")

# The content of one of a repository's JSON files.
ReadJson = Callable[[str], Mapping[str, Any]]


class Kind(StrEnum):
    """A pipeline with its parts, one part in a folder of its own, or one file."""

    PIPELINE = "pipeline"
    PART = "part"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Something of a repository, and which entry it is for.

    `path` is the folder of a part or the name of a file; no file is the only one of safetensors
    that lies at the top. Of the parts in `without` no weights are read.
    """

    owner: str
    repository: str
    revision: str | None = None
    kind: Kind = Kind.PIPELINE
    path: str = ""
    without: tuple[str, ...] = ()


def is_hub_id(source: str) -> bool:
    """Whether a source names a repository of the hub, and no place on this machine."""
    is_file = source.endswith((".safetensors", ".gguf"))
    is_place = is_file or source.startswith(("builtin:", ".", "/", "~")) or exists(source)
    return not is_place and _HUB_ID.fullmatch(source) is not None


def wanted(catalog: Catalog, models: Iterable[str], assistants: Iterable[str] = ()) -> list[Wanted]:
    """All that the entries of models and assistants name of the hub, each once."""
    chosen = set(assistants)
    named = [one for name in models for one in sources_of(catalog.models[name])]
    named += [one for one in assistants_of(catalog) if assistant_of(one) in chosen]
    found = [one for one in named if is_hub_id(one.repository)]
    places = [(one.repository, one.revision, one.kind, one.path, one.without) for one in found]
    return [one for number, one in enumerate(found) if places.index(places[number]) == number]


def assistant_of(one: Wanted) -> str:
    """The key of models.yaml that names it."""
    return one.owner.partition(",")[0]


def needed(one: Wanted, names: Sequence[str], read: ReadJson) -> list[str]:
    """The files, of all the `names` of a repository, that are read where this is loaded.

    Texts come first. Raises HubFailed where something is missing.
    """
    match one.kind:
        case Kind.PIPELINE:
            return _of_pipeline(one, names, read)
        case Kind.PART:
            return [*_texts(names, one.path), *_weights_or_fail(one, names, one.path, read)]
        case Kind.FILE:
            return [_file(one, names)]


def assistants_of(catalog: Catalog) -> Iterator[Wanted]:
    """What the models are read from that help around the pictures, on the hub and elsewhere."""
    rater, enhancer, viewer = catalog.rater, catalog.enhancer, catalog.viewer
    if rater is not None and rater.classifier is not None:
        yield whole_model("rater, classifier", rater.classifier, rater.classifier_revision)
    if rater is not None and rater.clip is not None:
        yield whole_model("rater, clip", rater.clip, rater.clip_revision)
    if enhancer is not None and enhancer.folder is not None:
        yield whole_model("enhancer", enhancer.folder, enhancer.revision)
    if viewer is not None and viewer.captioner is not None:
        yield whole_model("viewer", viewer.captioner, viewer.revision)


def weights_of(spec: ModelSpec) -> Iterator[Wanted]:
    """What a model is read from, on the hub and elsewhere; its own source comes first."""
    gguf = spec.quantization if spec.quantization and spec.quantization.file else None
    replaced = spec.rules.denoisers[:1] if gguf is not None else ()
    yield Wanted(owner=spec.name, repository=spec.source, revision=spec.revision, without=replaced)
    if gguf is not None:
        whose = f"{spec.name}, quantization"
        yield one_file(whose, gguf.source or gguf.file, gguf.revision, gguf.file)


def sources_of(spec: ModelSpec) -> Iterator[Wanted]:
    """All that an entry names: what it is read from, then what its requests may need beside."""
    yield from weights_of(spec)
    for name, lora in spec.loras.items():
        yield one_file(f"{spec.name}, LoRA {name}", lora.source, lora.revision, lora.file)
    for tag, entry in spec.references.items():
        yield from of_reference(f"{spec.name}, {tag}", entry)


def whole_model(owner: str, source: str, revision: str | None) -> Wanted:
    """A model of transformers, which has a repository for itself."""
    return Wanted(owner=owner, repository=source, revision=revision, kind=Kind.PART)


def one_file(owner: str, source: str, revision: str | None, path: str) -> Wanted:
    """A file of a repository; without a path the only one of safetensors at its top."""
    return Wanted(owner=owner, repository=source, revision=revision, kind=Kind.FILE, path=path)


def of_reference(owner: str, entry: ReferenceSpec) -> list[Wanted]:
    """What one tag is taken by: of an IP-Adapter its file, then its image encoder."""
    whole = Wanted(owner=owner, repository=entry.source, revision=entry.revision)
    match entry.by:
        case Way.REDUX:
            return [whole]
        case Way.CONTROLNET:
            return [replace(whole, kind=Kind.PART, path=entry.subfolder)]
        case Way.IP_ADAPTER:
            file = replace(whole, kind=Kind.FILE, path=_joined(entry.subfolder, entry.file))
            return [file, _image_encoder(whole, entry)]
    return []


def _image_encoder(whole: Wanted, entry: ReferenceSpec) -> Wanted:
    """In a place of its own, or beside the adapter's file."""
    folder = entry.image_encoder_subfolder
    if entry.image_encoder:
        other = replace(whole, repository=entry.image_encoder, revision=None)
        return replace(other, kind=Kind.PART, path=folder)
    return replace(whole, kind=Kind.PART, path=folder or _joined(entry.subfolder, "image_encoder"))


def _of_pipeline(one: Wanted, names: Sequence[str], read: ReadJson) -> list[str]:
    if "model_index.json" not in names:
        raise HubFailed(f"{one.repository} is no pipeline of diffusers: no model_index.json in it")
    parts = components(read("model_index.json"))
    texts = ["model_index.json", *(name for part in parts for name in _texts(names, part))]
    weights = [
        name
        for part in parts
        if part not in one.without
        for name in _weights(one, names, part, read)
    ]
    return [*texts, *weights]


def components(index: Mapping[str, Any]) -> list[str]:
    """The parts that a model_index.json names, but for those that are left out."""
    return [
        name
        for name, kind in index.items()
        if not name.startswith("_") and isinstance(kind, list) and None not in kind
    ]


def _texts(names: Sequence[str], folder: str) -> list[str]:
    """Configs, tokenizers, and indexes of weights; nothing that only pickled weights have."""
    inside = [name for name in names if _is_inside(name, folder)]
    return [
        name
        for name in inside
        if name.endswith(_TEXTS) and not any(f"{end}." in name for end in _PICKLED)
    ]


def _weights_or_fail(one: Wanted, names: Sequence[str], folder: str, read: ReadJson) -> list[str]:
    found = _weights(one, names, folder, read)
    if not found:
        raise HubFailed(f"{_place(one.repository, folder)} has no safetensors file")
    return found


def _weights(one: Wanted, names: Sequence[str], folder: str, read: ReadJson) -> list[str]:
    """The files of a folder's weights; none in the folder of a tokenizer or scheduler."""
    beside = [name for name in names if _folder_of(name) == folder]
    indexes = [name for name in beside if name.endswith(".safetensors.index.json")]
    files = [name for name in beside if name.endswith(".safetensors")]
    if indexes:
        # the shortest name has no variant in it, such as .fp16
        index = min(indexes, key=len)
        named = [_joined(folder, part) for part in _shards(index, read(index))]
        if missing := [name for name in named if name not in names]:
            raise HubFailed(f"{one.repository} has no {', '.join(missing[:3])}, which it lists")
        return named
    if not files and any(name.endswith(_PICKLED) for name in beside):
        place = _place(one.repository, folder)
        raise HubFailed(f"{place} has pickled weights alone, which may run anything")
    return sorted(files, key=lambda name: (len(name), name))[:1]


def _shards(index: str, told: Mapping[str, Any]) -> list[str]:
    parts = told.get("weight_map")
    names: list[Any] = [*parts.values()] if isinstance(parts, Mapping) else [None]
    if not all(isinstance(name, str) for name in names):
        raise HubFailed(f"{index} is no index of weights")
    return sorted(set(names))


def _file(one: Wanted, names: Sequence[str]) -> str:
    if one.path:
        if one.path not in names:
            raise HubFailed(f"{one.repository} has no file {one.path}")
        return one.path
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if len(found) != 1:
        told = f"name one of {', '.join(found[:5])} as its file" if found else "no safetensors file"
        raise HubFailed(f"{one.repository}: {told}")
    return found[0]


def _is_inside(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}/") if folder else "/" not in name


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _place(repository: str, folder: str) -> str:
    return f"{folder} of {repository}" if folder else repository

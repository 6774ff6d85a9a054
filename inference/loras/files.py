"""From a LoRA's name to the tensors of its file: found, and read as safetensors or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference.errors import HubFailed, LoraFailed, ModelFailed
from inference.hub import cache
from inference.hub.download import Download
from inference.hub.fetch import bring
from inference.hub.files import one_file
from inference.loading import locate
from inference.loras.spec import HUB, folders_of
from inference.model_spec import ModelSpec

log = structlog.get_logger()

Weights = dict[str, Tensor]

# a zip, as torch.save writes one, and pickle's own first byte
_PICKLED = (b"PK\x03\x04", b"\x80")


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and what tells it from another of the same name: its size and time of change."""

    path: Path
    stamp: tuple[str, int, int]


def find(
    spec: ModelSpec, name: str, fetched: str | None = None, download: Download | None = None
) -> Found:
    """The file behind a LoRA's name; raises LoraFailed with the reason there is none.

    `fetched` is where it lies, if the service has put it there. What lies on the hub comes as a
    `download`, which tells how far it is, and may be stopped.
    """
    if fetched is not None:
        path = Path(fetched)
    else:
        place = _listed if name in spec.loras else _own
        path = place(spec, name, download)
    try:
        status = path.stat()
    except OSError as error:
        raise LoraFailed(f"LoRA {name!r}: {path.name}: {error.strerror}") from None
    return Found(path, (str(path), status.st_size, status.st_mtime_ns))


def read(path: Path) -> tuple[Weights, Mapping[str, str]]:
    """Tensors and metadata of a safetensors file, on the CPU; raises LoraFailed for anything else.

    By what the file holds, not by its name; nothing in it is ever run.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(_PICKLED) and head[8:] != b"{":
        raise LoraFailed(f"{path.name} is a pickled file, which may run anything; use safetensors")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as opened:
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return weights, opened.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise LoraFailed(f"{path.name} is no whole safetensors file: {first_line(error)}") from None


def _listed(spec: ModelSpec, name: str, download: Download | None) -> Path:
    entry = spec.loras[name]
    try:
        source = locate(entry.source)
    except ModelFailed as error:
        raise LoraFailed(str(error)) from None
    path = Path(source)
    if not path.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source) is None:
            raise LoraFailed(f"LoRA {name!r}: {source} is not there")
        path = _from_hub(source, entry.file, entry.revision, download)
    return path if path.is_file() else _one_of(path, entry.file)


def _own(spec: ModelSpec, name: str, download: Download | None) -> Path:
    """What a request brought itself; the door has looked at its form, and this at where it is."""
    kind, _, rest = name.partition(":")
    if kind == "hub" and HUB in spec.loras_from:
        owner, repository, *file = rest.split("/", 2)
        inner = file[0] if file else ""
        return _one_of(_from_hub(f"{owner}/{repository}", inner, None, download), inner)
    for source in folders_of(spec) if kind == "folder" else ():
        folder = Path(source).resolve()
        path = (folder / rest).resolve()
        if path.is_relative_to(folder) and path.is_file():
            return path
    raise LoraFailed(f"LoRA {name!r} is not there")


def _one_of(folder: Path, file: str) -> Path:
    if file:
        return folder / file
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise LoraFailed(f"{folder.name} holds no .safetensors file")
    raise LoraFailed(f"name one of {', '.join(path.name for path in found[:5])} as its file")


def _from_hub(repository: str, file: str, revision: str | None, download: Download | None) -> Path:
    """The repository's folder in the hub's cache, fetched if the file is not there."""
    wanted = one_file("", repository, revision, file)
    if cache.find(wanted) is None:
        log.info("lora.fetching", source=repository, file=file)
    try:
        return bring(wanted, download)
    except HubFailed as error:
        raise LoraFailed(f"it cannot be had from the hub: {error}") from None


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]

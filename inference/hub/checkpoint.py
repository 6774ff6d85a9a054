"""A model's folder as files: which parts it has, how large they are, and which are the same.

No weight is read, only the headers of safetensors files; and no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

# Bytes of a number by the name that safetensors has for its type.
_WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
}
_FLOATS = ("F64", "F32", "F16", "BF16")
# Coarse numbers, which are read as any others where nothing says that they were quantized.
_COARSE = ("F8_E4M3", "F8_E5M2")
# Keys of a config that differ between copies of the same.
_HISTORY = ("_name_or_path", "_diffusers_version", "transformers_version", "torch_dtype", "dtype")
_READ_BYTES = 1 << 22
# What the format allows.
_MOST_HEADER_BYTES = 100_000_000
# What often lies where weights should, by how it begins.
_OTHERS = {
    b"version https://git-lfs": "is a pointer of git-lfs and not the weights: run git lfs pull",
    b"<": "is a web page, and no safetensors file",
}

Stamp = tuple[int, int, int]
# Of files that were read whole, by where they are and what they were then.
_DIGESTS: dict[tuple[Path, Stamp], str] = {}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a pipeline: the folder of its config, and the files of its weights."""

    config: Path
    files: tuple[Path, ...]

    def size_bytes(self, float_bytes: int) -> int:
        """What the weights take in memory, each floating-point number so many bytes."""
        wide = _FLOATS if self.names_quantization() else (*_FLOATS, *_COARSE)
        return sum(_file_bytes(file, _stamp(file), float_bytes, wide) for file in self.files)

    def names_quantization(self) -> bool:
        """Whether its config says what its weights were narrowed by, so that they are read so."""
        told = json.loads(self.config.read_text())
        return isinstance(told, dict) and bool(told.get("quantization_config"))

    def outline(self) -> str:
        """Equal for parts of equal content, and rarely for others; reads configs and headers."""
        told = hashlib.sha256(_settings(self.config))
        for file in self.files:
            told.update(_header(file))
        return told.hexdigest()

    def identity(self) -> Hashable:
        """Equal for parts that are known to be of equal content; reads nothing of the weights.

        Those of the same files, and those whose digests somebody has asked for.
        """
        known = [_DIGESTS.get((file.resolve(), _stamp(file))) for file in self.files]
        if None in known:
            return tuple((file.resolve(), _stamp(file)) for file in self.files)
        return (_settings(self.config), *known)

    def digest(self) -> str:
        """Equal for parts of equal content, and for no others; reads all of the files once."""
        told = hashlib.sha256(_settings(self.config))
        for file in self.files:
            told.update(_digest(file.resolve(), _stamp(file)).encode())
        return told.hexdigest()


def parts_of(*folders: Path) -> dict[str, Part]:
    """The parts with weights in a pipeline's folders by name; a later folder's replace others."""
    found: dict[str, Part] = {}
    for folder in folders:
        for config in sorted(folder.glob("*/config.json")):
            if files := _weights(config.parent):
                found[config.parent.name] = Part(config, files)
    return found


def stamp_of(*folders: Path) -> frozenset[tuple[str, str, int, int, int]]:
    """Another one once a file of the weights is another; reads none."""
    return frozenset(
        (name, str(file), *_stamp(file))
        for name, part in parts_of(*folders).items()
        for file in part.files
    )


def cached_folder(hub_id: str, revision: str | None) -> Path | None:
    """Where a hub's pipeline lies on this machine, if it does."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors; raises ValueError where it is not whole."""
    length, tensors = _read_header(file)
    end = max((one["data_offsets"][1] for one in tensors.values()), default=0)
    if file.stat().st_size != length + end:
        raise ValueError(f"{file.name} is not whole")
    return {name: tuple(one["shape"]) for name, one in tensors.items()}


def dtypes_of(file: Path) -> dict[str, str]:
    """The types of a file's tensors, as safetensors calls them; raises ValueError."""
    return {name: one["dtype"] for name, one in _read_header(file)[1].items()}


def part_in(folder: Path) -> Part | None:
    """The part whose config and weights lie in a folder."""
    config, files = folder / "config.json", _weights(folder)
    return Part(config, files) if files and config.is_file() else None


def _weights(folder: Path) -> tuple[Path, ...]:
    """The files that are loaded from a part's folder: those of its index, or the one without."""
    indexes = sorted(folder.glob("*.safetensors.index.json"), key=lambda path: len(path.name))
    if indexes:
        files = [folder / name for name in _named(indexes[0])]
        return tuple(file for file in files if file.is_file())
    files = sorted(folder.glob("*.safetensors"), key=lambda path: (len(path.name), path.name))
    # the shortest name has no variant in it, such as .fp16
    return tuple(files[:1])


def _named(index: Path) -> list[str]:
    try:
        files = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{index.name} is no index of weights") from None
    return sorted(files)


def _settings(config: Path) -> bytes:
    """What a part's config says of the part, and not of who wrote it."""
    told = json.loads(config.read_text())
    return json.dumps(
        {key: told[key] for key in told if key not in _HISTORY}, sort_keys=True
    ).encode()


def _stamp(file: Path) -> Stamp:
    told = file.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns


def _header(file: Path) -> bytes:
    """The table that a safetensors file begins with; raises ValueError where it is none."""
    if not S_ISREG((status := file.stat()).st_mode):
        # a pipe would be waited for
        raise ValueError(f"{file.name} is no file")
    with file.open("rb") as stream:
        first = stream.read(32)
        length = int.from_bytes(first[:8], "little")
        if first[8:9] != b"{" or length > _MOST_HEADER_BYTES:
            raise ValueError(f"{file.name} {_what(first)}")
        if length > status.st_size - 8:
            raise ValueError(f"{file.name} is not whole")
        stream.seek(8)
        return stream.read(length)


def _what(first: bytes) -> str:
    """What is no safetensors file, by its first bytes."""
    for begin, words in _OTHERS.items():
        if first.lstrip().startswith(begin):
            return words
    if not first:
        return "is empty"
    return "is not whole" if len(first) < 9 else "is no safetensors file"


def _read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and what is said of each tensor; raises ValueError."""
    header = _header(file)
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        is_sound = all(_is_sound(one) for one in tensors.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise ValueError(f"{file.name} has a header that is none of safetensors")
    return 8 + len(header), tensors


def _is_sound(tensor: Mapping[str, Any]) -> bool:
    begin, end = tensor["data_offsets"]
    numbers = [begin, end, *tensor["shape"]]
    return isinstance(tensor["dtype"], str) and all(
        isinstance(one, int) and one >= 0 for one in numbers
    )


@lru_cache(maxsize=512)
def _file_bytes(file: Path, stamp: Stamp, float_bytes: int, wide: Sequence[str]) -> int:
    _, tensors = _read_header(file)
    size = 0
    for tensor in tensors.values():
        kind = tensor["dtype"]
        width = float_bytes if kind in wide else _WIDTHS.get(kind, 1)
        size += math.prod(tensor["shape"]) * width
    return size


def _digest(file: Path, stamp: Stamp) -> str:
    if (known := _DIGESTS.get((file, stamp))) is not None:
        return known
    told = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_READ_BYTES):
            told.update(piece)
    return _DIGESTS.setdefault((file, stamp), told.hexdigest())

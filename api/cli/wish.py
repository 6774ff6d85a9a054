"""What `darkroom generate` asks for and what it is told, whoever makes the picture."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from api.cli.terminal import UsageError
from inference.job import ImageRole, ReferenceTag
from inference.sizes import parse_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A picture that goes along, as encoded bytes; `tag` and `weight` are of a reference."""

    role: ImageRole
    field: str
    data: bytes
    tag: ReferenceTag | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The fields of a request that were set, and its pictures."""

    fields: Mapping[str, Any]
    pictures: Sequence[Given] = ()

    @classmethod
    def read(
        cls,
        *,
        size: str | None,
        images: Sequence[Path] = (),
        mask: Path | None = None,
        references: Sequence[str] = (),
        loras: Sequence[str] = (),
        **fields: Any,
    ) -> Wish:
        """The wish of a command line; raises UsageError."""
        if size is not None:
            fields |= _sides(size)
        if loras:
            fields["loras"] = [_lora(text) for text in loras]
        pictures = [_given(ImageRole.SOURCE, "image", path) for path in images]
        pictures += [_given(ImageRole.MASK, "mask", path) for path in [mask] if path is not None]
        pictures += [_reference(text) for text in references]
        set_fields = {name: value for name, value in fields.items() if value is not None}
        return cls(fields=set_fields, pictures=pictures)

    @property
    def count(self) -> int:
        """How many pictures are asked for."""
        return int(self.fields.get("count", 1))

    def with_model(self, name: str) -> Wish:
        """The same wish of a model."""
        return Wish(fields={**self.fields, "model": name}, pictures=self.pictures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Nothing is drawn yet, for this reason."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`step` of `steps` are done of picture `index`."""

    index: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Picture `index`, as encoded bytes."""

    index: int
    seed: int
    data: bytes


Update = Waiting | Step | Made
Updates = Generator[Update, None, None]


def _sides(size: str) -> dict[str, int]:
    try:
        sides = parse_size(size)
    except ValueError as error:
        raise UsageError(str(error), "width") from None
    assert isinstance(sides, tuple), "text is parsed or refused"
    return {"width": sides[0], "height": sides[1]}


def _lora(text: str) -> dict[str, Any]:
    """`name` or `name=strength`; a name may hold colons."""
    name, equals, strength = text.partition("=")
    if not equals:
        return {"name": name}
    try:
        return {"name": name, "strength": float(strength)}
    except ValueError:
        raise UsageError(f"{strength!r} is no strength", "loras") from None


def _reference(text: str) -> Given:
    """`tag=file` or `tag:weight=file`."""
    before, equals, path = text.partition("=")
    name, colon, number = before.partition(":")
    if not equals or name not in list(ReferenceTag):
        tags = ", ".join(ReferenceTag)
        raise UsageError(f"{text!r} is not TAG=FILE or TAG:WEIGHT=FILE of {tags}", "references")
    try:
        weight = float(number) if colon else None
    except ValueError:
        raise UsageError(f"{number!r} is no weight", "references") from None
    given = _given(ImageRole.REFERENCE, "references", Path(path))
    return replace(given, tag=ReferenceTag(name), weight=weight)


def _given(role: ImageRole, field: str, path: Path) -> Given:
    try:
        return Given(role=role, field=field, data=path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", field) from None

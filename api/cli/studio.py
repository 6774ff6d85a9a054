"""Pictures for the gallery: wishes in, pictures out, by an engine in this process."""

from __future__ import annotations

import io
import queue
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from api.cli.paper import Cell
from api.cli.terminal import Failure
from api.workshop import EnginePort
from inference.catalog import Catalog
from inference.events import Event, Failed, ImageDone
from inference.job import ImageRequest, ImageRole, InputImage, Job, Lora, ReferenceTag
from inference.resolve import follow, resolve

Wish = Mapping[str, Any]
Pictures = dict[str, Image.Image]


class Studio:
    """Makes what is wished for, all of a row at once.

    A wish holds the fields of an `ImageRequest`, and its pictures as `image`, `mask` and
    `references` of (tag, weight, picture). Raises Refused for what no model can do.
    """

    def __init__(self, catalog: Catalog, engine: EnginePort) -> None:
        self._catalog = catalog
        self._engine = engine
        self._count = 0

    def one(self, **wish: Any) -> Image.Image:
        """The picture of one wish."""
        return self.row({"": wish})[0].picture

    def row(self, wishes: Mapping[str, Wish]) -> list[Cell]:
        """The pictures of several, each under its label."""
        jobs = [self._job(wish) for wish in wishes.values()]
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        for job, pictures in jobs:
            encoded = {key: _png(picture) for key, picture in pictures.items()}
            self._engine.submit(job, encoded, events.put)
        made: dict[str, Image.Image] = {}
        while len(made) < len(jobs):
            match events.get():
                case ImageDone(job_id=name, picture=picture):
                    made[name] = picture
                case Failed(error=error):
                    raise Failure(str(error))
        return [Cell(label, made[job.id]) for label, (job, _) in zip(wishes, jobs, strict=True)]

    def _job(self, wish: Wish) -> tuple[Job, Pictures]:
        fields = {"model": "tiny-flux", "seed": 7, **wish}
        images, pictures = _given(fields)
        request = ImageRequest(images=images, loras=_loras(fields.pop("loras", {})), **fields)
        self._count += 1
        job = resolve(self._catalog, request, job_id=f"gallery-{self._count}")
        source = job.key_of(ImageRole.SOURCE)
        if source is not None:
            job = follow(self._catalog, request, job, pictures[source].size)
        return job, pictures


def _given(fields: dict[str, Any]) -> tuple[tuple[InputImage, ...], Pictures]:
    """A wish's pictures, taken out of its fields."""
    pictures: Pictures = {}
    images: list[InputImage] = []
    for name, role in (("image", ImageRole.SOURCE), ("mask", ImageRole.MASK)):
        if (picture := fields.pop(name, None)) is not None:
            pictures[name] = picture
            images.append(InputImage(role=role, key=name))
    references: Sequence[tuple[str, float, Image.Image]] = fields.pop("references", ())
    for number, (tag, weight, picture) in enumerate(references):
        key = f"reference-{number}"
        pictures[key] = picture
        tagged = ReferenceTag(tag)
        images.append(InputImage(role=ImageRole.REFERENCE, key=key, tag=tagged, weight=weight))
    return tuple(images), pictures


def _loras(strengths: Mapping[str, float]) -> tuple[Lora, ...]:
    return tuple(Lora(name=name, strength=strength) for name, strength in strengths.items())


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

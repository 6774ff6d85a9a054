"""Pictures from an engine started for them, in this process."""

from __future__ import annotations

import queue
from collections.abc import Iterator

from PIL import UnidentifiedImageError

from api.cli.own_engine import own_engine
from api.cli.terminal import Failure, UsageError, say
from api.cli.wish import Given, Made, Step, Update, Updates, Waiting, Wish
from api.outputs import encode_output
from api.settings import Settings
from inference.catalog import Catalog, load_catalog
from inference.errors import CatalogError, Refused
from inference.events import Cancelled, Event, Failed, ImageDone, Progress
from inference.job import ImageRequest, ImageRole, InputImage, Job, Lora
from inference.loras.spec import is_address
from inference.pixels import decode
from inference.resolve import follow, resolve

JOB_ID = "generate"


def make(wish: Wish, settings: Settings) -> Updates:
    """Start an engine, make the pictures, close it; raises UsageError or Failure."""
    try:
        catalog = load_catalog(settings.models)
        job = _job(wish, catalog)
    except Refused as error:
        raise UsageError(str(error), error.field) from None
    except CatalogError as error:
        raise UsageError(str(error)) from None
    yield Waiting(why=f"loading {job.model}")
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with own_engine(catalog, settings) as engine:
        pictures = [given.data for given in wish.pictures]
        keys = [image.key for image in job.images]
        engine.submit(job, dict(zip(keys, pictures, strict=True)), events.put)
        for _ in job.seeds:
            yield from _one_picture(job, events)


def _one_picture(job: Job, events: queue.SimpleQueue[Event]) -> Iterator[Update]:
    """What happens until one more picture has ended, well or not."""
    while True:
        match events.get():
            case Progress(index=index, step=step, steps=steps):
                yield Step(index=index, step=step, steps=steps)
            case ImageDone(index=index, picture=picture):
                yield Made(
                    index=index, seed=job.seeds[index], data=encode_output(picture, job, index).data
                )
                return
            case Failed(index=index, error=error):
                if len(job.seeds) == 1:
                    raise Failure(str(error))
                say(f"darkroom: picture {index + 1}: {error}")
                return
            case Cancelled():
                return


def _job(wish: Wish, catalog: Catalog) -> Job:
    names = catalog.names()
    model = "auto" if "auto" in names else names[0]
    images = tuple(
        InputImage(role=given.role, key=str(number), tag=given.tag, weight=given.weight)
        for number, given in enumerate(wish.pictures)
    )
    fields = {"model": model, **wish.fields}
    fields["loras"] = tuple(Lora(**one) for one in wish.fields.get("loras", ()))
    request = ImageRequest(images=images, **fields)
    job = resolve(catalog, request, job_id=JOB_ID)
    if any(is_address(lora.name) for lora in job.loras):
        raise UsageError("a LoRA's address takes a server that fetches it", "loras")
    sizes = [(given.role, _size_of(given)) for given in wish.pictures]
    sources = [size for role, size in sizes if role is ImageRole.SOURCE]
    return follow(catalog, request, job, sources[0]) if sources else job


def _size_of(given: Given) -> tuple[int, int]:
    """Width and height of a picture, upright; raises UsageError for what is none."""
    try:
        return decode(given.data).size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        what = f"{given.field} is not a picture that can be read: {error}"
        raise UsageError(what, given.field) from None

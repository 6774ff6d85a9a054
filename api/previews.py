"""Previews as the files that callers of other APIs expect in their place."""

from __future__ import annotations

import io

from PIL import Image

from api.outputs import encode_output
from api.tasks import ImageFormat, Task


def as_partial(preview: bytes, task: Task, index: int) -> bytes:
    """A preview of picture `index` as a file of the size and format that the picture will have.

    Slow: call it in a thread.
    """
    job, wanted = task.job, task.delivery
    with Image.open(io.BytesIO(preview)) as small:
        picture = small.convert("RGB").resize((job.width, job.height), Image.Resampling.BICUBIC)
    return encode_output(
        picture,
        job,
        index,
        format=wanted.format or ImageFormat.PNG,
        quality=wanted.quality,
        embed_parameters=False,
        mark_ai_origin=False,
    ).data

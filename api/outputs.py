"""Finished pictures as files: PNG with the recipe inside, and small previews."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inference.job import Job, Mode

PREVIEW_MEDIA_TYPE = "image/webp"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture:
    """A picture's file and what is recorded of it; `sha256` is of the file, as hex."""

    data: bytes
    media_type: str
    extension: str
    width: int
    height: int
    sha256: str


def encode_output(picture: Image.Image, job: Job, index: int) -> EncodedPicture:
    """Picture `index` of a job as a PNG file. Slow: call it in a thread."""
    recipe = PngInfo()
    recipe.add_text("parameters", parameters(job, index))
    buffer = io.BytesIO()
    # Level 1: 50 ms and 631 KB for 1024²; level 6 takes 174 ms to save a quarter of that.
    picture.save(buffer, "PNG", compress_level=1, pnginfo=recipe)
    data = buffer.getvalue()
    return EncodedPicture(
        data=data,
        media_type="image/png",
        extension="png",
        width=picture.width,
        height=picture.height,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def encode_preview(picture: Image.Image) -> bytes:
    """A preview as a small WebP file."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=60, method=0)
    return buffer.getvalue()


def parameters(job: Job, index: int) -> str:
    """How the picture was made, in the form that image tools read back from PNG files."""
    facts = {
        "Steps": job.num_inference_steps,
        "CFG scale": f"{job.guidance_scale:g}",
        "Seed": job.seeds[index],
        "Size": f"{job.width}x{job.height}",
        "Model": job.model,
    }
    if job.mode is not Mode.GENERATE:
        facts["Denoising strength"] = f"{job.strength:g}"
    lines = [job.prompt]
    if job.negative_prompt:
        lines.append(f"Negative prompt: {job.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
    return "\n".join(lines)

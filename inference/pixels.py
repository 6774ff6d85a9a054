"""Pictures at the engine's door: decoded, oriented, sized. PIL only, no torch."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from inference.feather import feathered
from inference.job import DEFAULT_WEIGHT, ImageRole, Job, ReferenceTag
from inference.sizes import shrunk


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that is to guide, what is to be taken from it, and how much, 0 to 1."""

    picture: Image.Image
    tag: ReferenceTag
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What one job was given, decoded: pictures to change, where, and what guides."""

    sources: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None
    references: tuple[Reference, ...] = ()


def decoded(job: Job, encoded: Mapping[str, bytes]) -> Pictures:
    """The pictures a job was given, by their keys, each in its place."""
    found = [(image, decode(encoded[image.key])) for image in job.images]
    if (most := job.downsizing_mp) is not None:
        found = [(image, shrink(picture, most)) for image, picture in found]
    masks = [picture for image, picture in found if image.role is ImageRole.MASK]
    return Pictures(
        sources=tuple(picture for image, picture in found if image.role is ImageRole.SOURCE),
        mask=masks[0] if masks else None,
        references=tuple(
            Reference(picture, image.tag, DEFAULT_WEIGHT if image.weight is None else image.weight)
            for image, picture in found
            if image.tag is not None
        ),
    )


def decode(data: bytes) -> Image.Image:
    """The picture in encoded bytes, EXIF orientation applied; the bytes were checked before."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        # 16 bits a pixel; Pillow's own way to 8 bits clips: anything above 255 turns white
        return upright.convert("I").point(lambda value: value / 257).convert("L")
    if "A" not in upright.getbands() and upright.has_transparency_data:
        return upright.convert("RGBA")
    return upright


def as_rgb(picture: Image.Image) -> Image.Image:
    """The picture in three colours, transparent parts laid on white."""
    if "A" in picture.getbands():
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as RGB, cropped about its centre to the ratio of `width` × `height` pixels."""
    picture = as_rgb(picture)
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def shrink(picture: Image.Image, megapixels: float) -> Image.Image:
    """The picture in its own ratio with at most so many million pixels; a smaller one as it is."""
    size = shrunk(*picture.size, megapixels)
    if size == picture.size:
        return picture
    # a palette's numbers, and pure black and white, have nothing in between
    smooth = {"P": "RGB", "1": "L"}.get(picture.mode, picture.mode)
    return picture.convert(smooth).resize(size, Image.Resampling.LANCZOS)


def fill_area(picture: Image.Image, area: int, unit: int) -> Image.Image:
    """The picture as RGB in its own ratio, of about `area` pixels and sides made of `unit`s."""
    scale = math.sqrt(area / (picture.width * picture.height))
    width, height = (max(1, round(side * scale / unit)) * unit for side in picture.size)
    return fit(picture, width, height)


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """One RGB picture of several, left to right, all as tall as the first."""
    height = pictures[0].height
    scaled = [fit(one, max(1, round(one.width * height / one.height)), height) for one in pictures]
    joined = Image.new("RGB", (sum(one.width for one in scaled), height))
    left = 0
    for one in scaled:
        joined.paste(one, (left, 0))
        left += one.width
    return joined


def as_mask(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A mask as 8-bit grey, white where the picture is to be redrawn.

    A mask that is transparent anywhere is redrawn there, whatever its colours say.
    """
    alpha = picture.getchannel("A") if "A" in picture.getbands() else None
    if alpha is not None and alpha.getextrema() != (255, 255):
        grey = ImageOps.invert(alpha)
    else:
        grey = picture.convert("L")
    if grey.size == (width, height):
        return grey
    return ImageOps.fit(grey, (width, height), Image.Resampling.BILINEAR)


def keep_outside(made: Image.Image, pictures: Pictures, blur_px: int = 0) -> Image.Image:
    """The painted picture where the mask is white, the source's own pixels where it is black.

    Pipelines pass the whole source through their autoencoder, which changes every pixel of it. In
    the grey of a soft mask, and in the `blur_px` around it, the two blend.
    """
    assert pictures.sources and pictures.mask is not None, "checked at the door"
    width, height = made.size
    source = fit(pictures.sources[0], width, height)
    mask = feathered(as_mask(pictures.mask, width, height), blur_px)
    return Image.composite(made.convert("RGB"), source, mask)

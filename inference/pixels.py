"""Pictures at the engine's door: decoded, oriented, sized. PIL only, no torch."""

from __future__ import annotations

import io

from PIL import Image, ImageOps


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


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as RGB, cropped about its centre to the ratio of `width` × `height` pixels.

    Transparent parts are laid on white.
    """
    if "A" in picture.getbands():
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    if picture.size == (width, height):
        return picture.convert("RGB")
    return ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.LANCZOS)


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

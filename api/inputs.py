"""Pictures from outside: judged by their header, decoded under limits, rewritten as plain PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageOps
from PIL.AvifImagePlugin import AvifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from api.errors import BadRequest, TooLarge, UnsupportedMedia
from api.tasks import ImageFormat

# Opened by class: `Image.open` compares the size with a limit of Pillow's own, which only warns.
_READERS: tuple[tuple[ImageFormat, Callable[[bytes], bool], type[ImageFile]], ...] = (
    (ImageFormat.PNG, lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), PngImageFile),
    (ImageFormat.JPEG, lambda head: head.startswith(b"\xff\xd8\xff"), JpegImageFile),
    (ImageFormat.WEBP, lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", WebPImageFile),
    (ImageFormat.AVIF, lambda head: head[4:12] in (b"ftypavif", b"ftypmif1"), AvifImageFile),
)
_NAMES = {
    ImageFormat.PNG: "PNG",
    ImageFormat.JPEG: "JPEG",
    ImageFormat.WEBP: "WebP",
    ImageFormat.AVIF: "AVIF",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What one input picture may be: encoded bytes, width × height in millions, and which files."""

    max_bytes: int
    max_megapixels: float
    formats: frozenset[ImageFormat] = frozenset(ImageFormat)


def rewrite(data: bytes, *, field: str, limits: PictureLimits) -> bytes:
    """The picture as a PNG without metadata, turned as its EXIF says; mode L, RGB or RGBA.

    Slow: call it in a thread. Raises TooLarge, UnsupportedMedia or BadRequest, naming the field.
    """
    if not data:
        raise BadRequest(f"{field} is empty", field=field)
    if len(data) > limits.max_bytes:
        raise TooLarge(f"{field} has more than {limits.max_bytes} bytes", field=field)
    with _open(data, field, limits.formats) as picture:
        _check_header(picture, field, limits)
        try:
            return _encode(_plain(picture))
        except Exception as error:
            raise _broken(field) from error


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height in pixels of what `rewrite` returned, by its header alone."""
    with PngImageFile(io.BytesIO(png)) as picture:
        return picture.size


def _open(data: bytes, field: str, formats: frozenset[ImageFormat]) -> ImageFile:
    """The picture with its header read and no pixel decoded."""
    taken = [(matches, reader) for format, matches, reader in _READERS if format in formats]
    reader = next((reader for matches, reader in taken if matches(data[:16])), None)
    if reader is None:
        *others, last = (_NAMES[format] for format in ImageFormat if format in formats)
        names = f"{', '.join(others)} and {last}" if others else last
        raise UnsupportedMedia(f"{field} is not a picture that is taken; {names} are", field=field)
    try:
        return reader(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        # some readers look at the size themselves, with a limit above ours
        raise TooLarge(f"{field} has too many pixels", field=field) from error
    except Exception as error:
        raise _broken(field) from error


def _broken(field: str) -> BadRequest:
    # Decoders raise OSError, SyntaxError, ValueError, struct.error and more on mangled files;
    # whichever it is, the file is at fault.
    return BadRequest(f"{field} is damaged and cannot be decoded", field=field)


def _check_header(picture: ImageFile, field: str, limits: PictureLimits) -> None:
    width, height = picture.size
    if width * height > limits.max_megapixels * 1e6:
        raise TooLarge(
            f"{field} has {width}x{height} pixels, more than {limits.max_megapixels:g} million",
            field=field,
        )
    if getattr(picture, "is_animated", False):
        raise UnsupportedMedia(f"{field} is animated; send a still picture", field=field)


def _plain(picture: Image.Image) -> Image.Image:
    """Pixels only: oriented, 8 bits a channel, nothing else in the file."""
    picture.load()
    turned = ImageOps.exif_transpose(picture)
    if turned.mode in ("I", "I;16", "I;16B", "I;16L"):
        plain = turned.point(lambda value: value / 256).convert("L")
    elif turned.has_transparency_data:
        plain = turned.convert("RGBA")
    else:
        plain = turned.convert("L" if turned.mode in ("1", "L") else "RGB")
    # The encoder would carry a colour profile over from here.
    plain.info = {}
    return plain


def _encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

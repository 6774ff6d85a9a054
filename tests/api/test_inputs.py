"""Pictures from outside: what is taken comes out plain, the rest is named and refused."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from api.errors import ApiError, BadRequest, TooLarge, UnsupportedMedia
from api.inputs import PictureLimits, rewrite
from tests.api.making import encoded

LIMITS = PictureLimits(max_bytes=300_000, max_megapixels=1.0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG whose header claims that size, one row of pixels inside."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1 + 3 * min(width, 1000))))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def webp(width: int, height: int) -> bytes:
    """A lossless WebP whose header claims that size."""
    data = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(201)
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def photo(width: int = 40, height: int = 20) -> Image.Image:
    picture = Image.new("RGB", (width, height), "red")
    picture.paste("blue", (0, 0, width // 2, height // 2))
    return picture


def reopened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        picture.load()
        return picture


def take(data: bytes) -> Image.Image:
    return reopened(rewrite(data, field="image", limits=LIMITS))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_what_is_taken(form: str) -> None:
    taken = take(encoded(photo(), form))
    assert taken.size == (40, 20) and taken.mode == "RGB"
    corner, far = taken.getpixel((2, 2)), taken.getpixel((38, 18))
    assert isinstance(corner, tuple) and isinstance(far, tuple)
    assert corner[2] > 180 > corner[0] and far[0] > 180 > far[2]


@pytest.mark.parametrize(
    ("mode", "comes_out"),
    [
        ("1", "L"), ("L", "L"), ("LA", "RGBA"), ("P", "RGB"), ("RGB", "RGB"),
        ("RGBA", "RGBA"), ("I;16", "L"),
    ],
)  # fmt: skip
def test_every_mode_comes_out_plain(mode: str, comes_out: str) -> None:
    taken = take(encoded(Image.new(mode, (8, 8), 1 if mode == "1" else None)))
    assert taken.mode == comes_out


def test_sixteen_bits_keep_their_brightness() -> None:
    assert take(encoded(Image.new("I;16", (8, 8), 32768))).getpixel((0, 0)) == 128


def test_transparent_palettes_keep_their_holes() -> None:
    picture = photo().convert("P")
    colour = picture.getpixel((0, 0))
    taken = take(encoded(picture, transparency=colour))
    pixel = taken.getpixel((0, 0))
    assert taken.mode == "RGBA" and isinstance(pixel, tuple) and pixel[3] == 0


@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 20)), (3, (40, 20)), (6, (20, 40))])
def test_orientation_is_applied_once(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    taken = take(encoded(photo(), "JPEG", exif=exif))
    assert taken.size == size
    assert 0x0112 not in taken.getexif()
    assert take(encoded(taken)).size == size


def test_nothing_but_pixels_is_kept() -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    notes = PngInfo()
    notes.add_text("Comment", "secret prompt")
    data = encoded(
        photo(), exif=exif, pnginfo=notes, icc_profile=b"secret profile" * 10, dpi=(1, 1)
    )
    plain = rewrite(data, field="image", limits=LIMITS)
    assert b"secret" in data and b"secret" not in plain
    kinds, at = [], 8
    while at < len(plain):
        kinds.append(plain[at + 4 : at + 8])
        at += 12 + struct.unpack(">I", plain[at : at + 4])[0]
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def animated(form: str) -> bytes:
    others = [Image.new("RGB", (40, 20), colour) for colour in ("green", "white")]
    return encoded(photo(), form, save_all=True, append_images=others, duration=50)


BIG_WEBP = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
BAD: dict[str, tuple[bytes, type[ApiError]]] = {
    "nothing": (b"", BadRequest),
    "one byte": (b"\x89", UnsupportedMedia),
    "text": (b"hello, I am a picture", UnsupportedMedia),
    "svg": (SVG, UnsupportedMedia),
    "svg after a BOM": (b"\xef\xbb\xbf" + SVG, UnsupportedMedia),
    "gif": (encoded(photo(), "GIF"), UnsupportedMedia),
    "bmp": (encoded(photo(), "BMP"), UnsupportedMedia),
    "tiff": (encoded(photo(), "TIFF"), UnsupportedMedia),
    "zip": (b"PK\x03\x04" + bytes(100), UnsupportedMedia),
    "only a png signature": (b"\x89PNG\r\n\x1a\n", BadRequest),
    "only a jpeg signature": (b"\xff\xd8\xff\xe0", BadRequest),
    "only a webp signature": (BIG_WEBP, BadRequest),
    "an mp4 that says avif": (b"\x00\x00\x00\x1cftypavif" + bytes(40), BadRequest),
    "100 megapixels": (png(10_000, 10_000), TooLarge),
    "200 megapixels": (png(20_000, 10_000), TooLarge),
    "the largest png": (png(2**31 - 1, 2**31 - 1), TooLarge),
    "a pixel too many": (png(1001, 1000), TooLarge),
    "no pixels": (png(0, 10), BadRequest),
    "100 megapixels of webp": (webp(10_000, 10_000), TooLarge),
    "the largest webp": (webp(16_383, 16_383), TooLarge),
    "truncated jpeg": (encoded(photo(), "JPEG")[:-40], BadRequest),
    "truncated png": (encoded(photo())[:60], BadRequest),
    "truncated webp": (encoded(photo(), "WEBP")[:40], BadRequest),
    "truncated avif": (encoded(photo(), "AVIF")[:-40], BadRequest),
    "jpeg named png": (b"\x89PNG\r\n\x1a\n" + encoded(photo(), "JPEG"), BadRequest),
    "moving png": (animated("PNG"), UnsupportedMedia),
    "moving webp": (animated("WEBP"), UnsupportedMedia),
    "moving avif": (animated("AVIF"), UnsupportedMedia),
    "text bomb": (
        png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))),
        BadRequest,
    ),
    "profile bomb": (
        png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000)))),
        BadRequest,
    ),
    "too many bytes": (encoded(photo()) + bytes(300_000), TooLarge),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str) -> None:
    data, error = BAD[name]
    with pytest.raises(error) as refused:
        rewrite(data, field="mask", limits=LIMITS)
    assert refused.value.field == "mask"
    assert "mask" in str(refused.value)


@pytest.mark.parametrize(
    "name", ["100 megapixels", "100 megapixels of webp", "the largest png", "text bomb"]
)
def test_refusing_costs_little(name: str) -> None:
    data, error = BAD[name]
    tracemalloc.start()
    started = time.perf_counter()
    for _ in range(10):
        with pytest.raises(error):
            rewrite(data, field="image", limits=LIMITS)
    seconds = (time.perf_counter() - started) / 10
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # a full decode of the first takes 0.4 s and 400 MB
    assert seconds < 0.2 and peak_bytes < 20 * 2**20


SOUND = [encoded(photo(), form) for form in ("PNG", "JPEG", "WEBP", "AVIF")]


@given(
    sound=st.sampled_from(SOUND),
    cuts=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=6)), min_size=1, max_size=8),
    keep=st.integers(1, 2000),
)
def test_no_mutation_gets_out_of_hand(
    sound: bytes, cuts: list[tuple[int, bytes]], keep: int
) -> None:
    mangled = bytearray(sound)
    for at, replacement in cuts:
        at %= len(mangled)
        mangled[at : at + len(replacement)] = replacement
    try:
        taken = take(bytes(mangled[:keep]))
    except ApiError as refused:
        assert refused.field == "image"
    else:
        assert taken.mode in ("L", "RGB", "RGBA")

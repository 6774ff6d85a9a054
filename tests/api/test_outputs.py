"""Finished pictures as files, with the recipe and their origin inside."""

from __future__ import annotations

import hashlib
import io
import zlib
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageStat

from api.outputs import EncodedPicture, encode_output, encode_preview, parameters
from api.tasks import ImageFormat
from inference.job import Job, Mode
from tests.api.making import job_of

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
FORMATS = list(ImageFormat)
LOSSY = [ImageFormat.JPEG, ImageFormat.WEBP, ImageFormat.AVIF]
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
WHOLE = f"{SOURCE_TYPE}trainedAlgorithmicMedia"
PART = f"{SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia"
ODD_PROMPTS = {
    "end of a CDATA section": "a ]]> b <x:xmpmeta> &amp; <?xpacket end='w'?>",
    "right to left": "\u202eevil\u202c \u05d0\u05d1 \u0645\u0631\u062d\u0628\u0627",
    "ten thousand emoji": "\U0001f469\u200d\U0001f680" * 5_000,
    "latin": "un caf\u00e9 cr\u00e8me",
    "lines": "one\r\ntwo\n\nthree",
}


def picture() -> Image.Image:
    made = Image.radial_gradient("L").resize((64, 48)).convert("RGB")
    made.info = {
        "comment": b"left over",
        "exif": b"Exif\0\0left over",
        "xmp": b"left over",
        "icc_profile": b"left over",
    }
    return made


def reread(encoded: EncodedPicture) -> Image.Image:
    with Image.open(io.BytesIO(encoded.data)) as opened:
        opened.load()
        return opened.copy()


def recipe_in(encoded: EncodedPicture) -> str | None:
    """The recipe as other programs would find it."""
    with Image.open(io.BytesIO(encoded.data)) as opened:
        opened.load()
        if encoded.extension == "png":
            return opened.info.get("parameters")
        comment = opened.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if comment is None:
        return None
    prefix, text = comment[:8], comment[8:]
    # UTF-16 is in the order of the file's own EXIF header.
    assert b"MM\0*" in opened.info["exif"]
    return str(text.decode({b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16-be"}[prefix]))


def mark_in(encoded: EncodedPicture) -> str | None:
    """What the file's XMP says of its origin, as an XML parser reads it."""
    with Image.open(io.BytesIO(encoded.data)) as opened:
        opened.load()
        packet = opened.info.get("xmp")
    if packet is None:
        return None
    body = (packet if isinstance(packet, bytes) else packet.encode()).decode("utf-8")
    assert body.startswith('<?xpacket begin="\ufeff"')
    root = ElementTree.fromstring(body.partition("?>")[2].rpartition("<?xpacket")[0])
    description = root.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description is not None
    names = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    return description.get(f"{{{names}}}DigitalSourceType")


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of the channels, of 255."""
    apart = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return max(ImageStat.Stat(apart).mean)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_what_it_says_it_is(format: ImageFormat) -> None:
    encoded = encode_output(picture(), job_of("t"), 0, format=format)
    kind = {"jpg": "jpeg"}.get(encoded.extension, encoded.extension)
    assert (kind, encoded.media_type) == (format.value, f"image/{format.value}")
    assert (encoded.width, encoded.height) == (64, 48)
    assert encoded.sha256 == hashlib.sha256(encoded.data).hexdigest()
    with Image.open(io.BytesIO(encoded.data)) as opened:
        assert (opened.format, opened.size) == (format.value.upper(), (64, 48))
        assert difference(opened, picture()) < 2
    assert b"left over" not in encoded.data


def test_png_loses_nothing() -> None:
    found = reread(encode_output(picture(), job_of("t"), 0, quality=1))
    assert found.mode == "RGB"
    assert found.tobytes() == picture().tobytes()
    assert set(found.info) == {"parameters", "XML:com.adobe.xmp", "xmp"}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_picture_makes_the_same_file(format: ImageFormat) -> None:
    job = job_of("t", count=2)
    assert len({encode_output(picture(), job, 1, format=format) for _ in range(3)}) == 1


@pytest.mark.parametrize(("format", "default"), [*zip(LOSSY, (95, 90, 80), strict=True)])
def test_quality_decides_the_size(format: ImageFormat, default: int) -> None:
    noise = Image.effect_noise((128, 128), 60).convert("RGB")

    def at(quality: int | None) -> bytes:
        return encode_output(noise, job_of("t"), 0, format=format, quality=quality).data

    assert len(at(1)) < len(at(50)) < len(at(100))
    assert at(None) == at(default)


def test_png_has_no_quality() -> None:
    assert encode_output(picture(), job_of("t"), 0, quality=1) == encode_output(
        picture(), job_of("t"), 0
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK"])
def test_pictures_of_any_mode_become_files(format: ImageFormat, mode: str) -> None:
    made = picture().convert(mode)
    found = reread(encode_output(made, job_of("t"), 0, format=format))
    assert difference(found, made.convert("RGB")) < 3


@pytest.mark.parametrize("format", FORMATS)
def test_transparency_is_kept_or_laid_on_white(format: ImageFormat) -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    found = reread(encode_output(clear, job_of("t"), 0, format=format))
    if format is ImageFormat.JPEG:
        assert found.mode == "RGB"
        assert found.getpixel((5, 5)) == (255, 255, 255)
    else:
        assert found.mode == "RGBA"
        assert found.getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prompt", list(ODD_PROMPTS.values()), ids=list(ODD_PROMPTS))
def test_the_recipe_is_read_back(format: ImageFormat, prompt: str) -> None:
    job = job_of("t", prompt=prompt, negative_prompt="blurry")
    encoded = encode_output(picture(), job, 0, format=format)
    assert recipe_in(encoded) == parameters(job, 0)
    assert mark_in(encoded) == WHOLE


@pytest.mark.parametrize("format", FORMATS)
def test_what_no_file_can_hold_is_replaced(format: ImageFormat) -> None:
    job = job_of("t", prompt="a\0b \ud800 c")
    encoded = encode_output(picture(), job, 0, format=format)
    assert (recipe_in(encoded) or "").startswith("ab ? c\nSteps: 2")


@pytest.mark.parametrize("prompt", ["\U0001f680" * 40_000, "x" * 200_000], ids=["emoji", "ascii"])
def test_a_recipe_too_long_for_jpeg_keeps_its_facts(prompt: str) -> None:
    job = job_of("t", prompt=prompt)
    found = recipe_in(encode_output(picture(), job, 0, format=ImageFormat.JPEG))
    assert found is not None
    wish, _, facts = found.rpartition("\n")
    assert facts == parameters(job, 0).rpartition("\n")[2]
    assert wish.endswith(" ...") and prompt.startswith(wish.removesuffix(" ..."))
    assert len(wish) > 15_000
    whole = encode_output(picture(), job, 0, format=ImageFormat.WEBP)
    assert recipe_in(whole) == parameters(job, 0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("mark", [True, False])
def test_recipe_and_mark_are_switched_alone(format: ImageFormat, embed: bool, mark: bool) -> None:
    job = job_of("t", prompt="a secret wish")
    encoded = encode_output(
        picture(), job, 0, format=format, embed_parameters=embed, mark_ai_origin=mark
    )
    assert (recipe_in(encoded) is not None) == embed
    assert (b"secret wish" in encoded.data) == embed
    assert mark_in(encoded) == (WHOLE if mark else None)
    assert (b"DigitalSourceType" in encoded.data) == mark


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", list(Mode))
def test_the_mark_stands_in_the_file_as_plain_bytes(format: ImageFormat, mode: Mode) -> None:
    encoded = encode_output(picture(), job_of("t", mode=mode), 0, format=format)
    wanted = WHOLE if mode is Mode.GENERATE else PART
    assert f'Iptc4xmpExt:DigitalSourceType="{wanted}"'.encode() in encoded.data
    assert mark_in(encoded) == wanted
    assert place_of_xmp(encoded)


def place_of_xmp(encoded: EncodedPicture) -> bool:
    """Whether XMP lies where the format's own specification puts it."""
    data = encoded.data
    match encoded.extension:
        case "png":
            at = data.index(b"iTXtXML:com.adobe.xmp\0\0\0\0\0")
            length = int.from_bytes(data[at - 4 : at], "big")
            whole = int.from_bytes(data[at + 4 + length :][:4], "big")
            return whole == zlib.crc32(data[at : at + 4 + length]) and at < data.index(b"IDAT")
        case "jpg":
            at = data.index(b"http://ns.adobe.com/xap/1.0/\0<?xpacket")
            return data[at - 4 : at - 2] == b"\xff\xe1"
        case "webp":
            # bit 2 of the flags says that there is such a chunk
            return b"XMP " in data and bool(data[data.index(b"VP8X") + 8] & 0b100)
        case "avif":
            return b"application/rdf+xml\0" in data
        case other:
            raise AssertionError(other)


def test_the_recipe_is_the_one_that_tools_read() -> None:
    job = job_of("t", count=2, negative_prompt="blurry", guidance_scale=3.5, seeds=(7, 8))
    assert parameters(job, 1) == (
        "a red circle\n"
        "Negative prompt: blurry\n"
        "Steps: 2, CFG scale: 3.5, Seed: 8, Size: 64x64, Model: paint"
    )
    changed = job_of("t", mode=Mode.IMG2IMG, strength=0.25)
    assert parameters(changed, 0).endswith(", Model: paint, Denoising strength: 0.25")
    assert "Negative" not in parameters(changed, 0)
    soft = job_of("t", mode=Mode.INPAINT, sampler="euler_a", mask_blur=4)
    assert parameters(soft, 0).endswith("strength: 0.8, Sampler: euler_a, Mask blur: 4")


@given(prompt=TEXT, format=st.sampled_from(FORMATS))
@examples(max_examples=200)
def test_any_prompt_survives_the_file(prompt: str, format: ImageFormat) -> None:
    job = job_of("t", prompt=prompt)
    encoded = encode_output(Image.new("RGB", (8, 8)), job, 0, format=format)
    found = recipe_in(encoded)
    assert found == parameters(job, 0)
    assert found.startswith(prompt)
    assert mark_in(encoded) == WHOLE


@given(prompt=st.text(st.characters(categories=["Cs", "Cc", "Lu", "So"])))
def test_no_prompt_breaks_a_file(prompt: str) -> None:
    values: dict[str, Any] = {"prompt": prompt, "negative_prompt": prompt}
    job: Job = job_of("t", **values)
    for format in FORMATS:
        encoded = encode_output(Image.new("RGB", (8, 8)), job, 0, format=format)
        assert (recipe_in(encoded) or "").endswith("Seed: 0, Size: 64x64, Model: paint")


def test_previews_are_small() -> None:
    data = encode_preview(picture())
    assert len(data) < 2_000
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, opened.size) == ("WEBP", (64, 48))

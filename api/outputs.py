"""Finished pictures as files, with the recipe and their origin inside, and small previews."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from api.tasks import Delivery, ImageFormat
from inference.job import Job, Mode

PREVIEW_MEDIA_TYPE = "image/webp"

# Encoding 1024 x 1024 pixels on one core: PNG 64 ms, JPEG 4 ms, WebP 33 ms, AVIF 36 ms.
_OPTIONS: dict[ImageFormat, dict[str, Any]] = {
    # Level 6 takes 174 ms to save a quarter of the bytes.
    ImageFormat.PNG: {"compress_level": 1},
    ImageFormat.JPEG: {},
    # Method 4, the default, takes 87 ms and its files are larger.
    ImageFormat.WEBP: {"method": 2},
    # Speed 6, the default, takes 203 ms to save 5 %. One thread: the pool has as many as there
    # should be, and the bytes do not come to depend on the machine.
    ImageFormat.AVIF: {"speed": 9, "max_threads": 1},
}
_QUALITY = {ImageFormat.JPEG: 95, ImageFormat.WEBP: 90, ImageFormat.AVIF: 80}
# From here on JPEG keeps colour at full resolution, or coloured edges blur; 10 % more bytes.
_FULL_COLOUR_QUALITY = 90

# A JPEG segment holds 65,533 bytes; EXIF's own frame around the comment takes less than 100.
_JPEG_COMMENT_BYTES = 65_400
_XMP_KEYWORD = "XML:com.adobe.xmp"
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    Iptc4xmpExt:DigitalSourceType="{source}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture:
    """A picture's file and what is recorded of it; `sha256` is of the file, as hex."""

    data: bytes
    media_type: str
    extension: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStyle:
    """How pictures become files where the caller did not say; quality None is the format's own."""

    format: ImageFormat = ImageFormat.PNG
    quality: int | None = None
    embed_parameters: bool = True
    mark_ai_origin: bool = True


PLAIN_STYLE = FileStyle()


def encode_as(
    picture: Image.Image, job: Job, index: int, wanted: Delivery, style: FileStyle
) -> EncodedPicture:
    """Picture `index` of a job as the file that was wanted, or else in the server's style."""
    return encode_output(
        picture,
        job,
        index,
        format=wanted.format or style.format,
        quality=wanted.quality or style.quality,
        embed_parameters=style.embed_parameters,
        mark_ai_origin=style.mark_ai_origin,
    )


def encode_output(
    picture: Image.Image,
    job: Job,
    index: int,
    *,
    format: ImageFormat = ImageFormat.PNG,
    quality: int | None = None,
    embed_parameters: bool = True,
    mark_ai_origin: bool = True,
) -> EncodedPicture:
    """Picture `index` of a job as a file; the same picture makes the same bytes.

    `quality` is 1 to 100, None for the format's own; PNG loses nothing and has none. Slow: call it
    in a thread.
    """
    recipe = parameters(job, index) if embed_parameters else None
    mark = ai_mark(job.mode) if mark_ai_origin else None
    options = _OPTIONS[format] | _quality_options(format, quality)
    if format is ImageFormat.PNG:
        options |= {"pnginfo": _png_texts(recipe, mark)}
    else:
        options |= _exif_and_xmp(recipe, mark, format)
    buffer = io.BytesIO()
    _for_file(picture, format).save(buffer, format.value.upper(), **options)
    data = buffer.getvalue()
    return EncodedPicture(
        data=data,
        media_type=format.media_type,
        extension=format.extension,
        width=picture.width,
        height=picture.height,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _for_file(picture: Image.Image, format: ImageFormat) -> Image.Image:
    """The pixels as the format can hold them, without what else the picture carries along."""
    if picture.has_transparency_data:
        plain = picture.convert("RGBA")
        if format is ImageFormat.JPEG:
            ground = Image.new("RGBA", picture.size, "white")
            plain = Image.alpha_composite(ground, plain).convert("RGB")
    elif picture.mode in ("L", "RGB"):
        plain = picture.copy()
    else:
        plain = picture.convert("RGB")
    # Encoders would write the comment and the colour profile that they find here.
    plain.info = {}
    return plain


def _quality_options(format: ImageFormat, quality: int | None) -> dict[str, Any]:
    if format is ImageFormat.PNG:
        return {}
    chosen = quality or _QUALITY[format]
    if format is ImageFormat.JPEG:
        return {"quality": chosen, "subsampling": 0 if chosen >= _FULL_COLOUR_QUALITY else 2}
    return {"quality": chosen}


def ai_mark(mode: Mode) -> str:
    """The XMP packet that says, in IPTC's terms, that a model made the picture or a part of it."""
    # What starts from the caller's own picture holds some of it still.
    whole, part = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
    return _XMP.format(source=_SOURCE_TYPES + (whole if mode is Mode.GENERATE else part))


def _png_texts(recipe: str | None, mark: str | None) -> PngInfo:
    texts = PngInfo()
    if recipe is not None:
        texts.add_text("parameters", recipe)
    if mark is not None:
        texts.add_itxt(_XMP_KEYWORD, mark)
    return texts


def _exif_and_xmp(recipe: str | None, mark: str | None, format: ImageFormat) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if recipe is not None:
        longest = _JPEG_COMMENT_BYTES if format is ImageFormat.JPEG else None
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _user_comment(recipe, longest)
        # As bytes: an Exif object that holds nothing but a sub-directory counts as empty.
        found["exif"] = exif.tobytes()
    if mark is not None:
        found["xmp"] = mark.encode()
    return found


def _user_comment(text: str, longest_bytes: int | None) -> bytes:
    """The text behind the eight bytes that name its encoding; shortened before its last line."""
    prefix, encoding, char_bytes = b"ASCII\0\0\0", "ascii", 1
    if not text.isascii():
        # UTF-16 in the order of EXIF's own header, which Pillow writes big-endian.
        prefix, encoding, char_bytes = b"UNICODE\0", "utf-16-be", 4
    if longest_bytes is not None and len(text.encode(encoding)) > longest_bytes:
        wish, _, facts = text.rpartition("\n")
        room = longest_bytes // char_bytes - len(facts) - len(" ...\n")
        text = f"{wish[:room]} ...\n{facts}"
    return prefix + text.encode(encoding)


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
    if job.takes_strength:
        facts["Denoising strength"] = f"{job.strength:g}"
    if job.sampler is not None:
        facts["Sampler"] = job.sampler
    if job.mask_blur:
        facts["Mask blur"] = job.mask_blur
    if job.loras:
        facts["Loras"] = "; ".join(f"{lora.name} {lora.strength:g}" for lora in job.loras)
    lines = [job.prompt]
    if job.negative_prompt:
        lines.append(f"Negative prompt: {job.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
    # NUL and lone surrogates: no file format takes both.
    return "\n".join(lines).replace("\0", "").encode("utf-8", "replace").decode()

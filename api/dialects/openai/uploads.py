"""The pictures that come to be edited, from file parts or JSON; pure but for reading headers."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

from PIL import ExifTags, Image

from api.body import FilePart, short
from api.dialects.openai.schema import EditRequest, ImageReference, VariationRequest
from api.errors import BadRequest
from api.orders import Remote, Upload, picture_of
from inference.errors import Unsupported
from inference.job import ImageRole

MAX_IMAGES = 16
IMAGE_PART = re.compile(r"image(\[[0-9]{0,3}\])?")
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
# The orientations of EXIF in which width and height change places.
TURNED = (5, 6, 7, 8)


def of_edit(
    wire: EditRequest, files: Sequence[FilePart], kept: Mapping[str, bytes]
) -> list[Upload]:
    """The pictures of an edit, then its mask; `kept` are those named by their ids, by field.

    Raises BadRequest or Unsupported.
    """
    uploads = [_of_text(text, "image") for text in wire.image]
    uploads += [
        _of_reference(one, field, kept)
        for field, one in references_in(wire).items()
        if field != "mask"
    ]
    uploads += _of_parts(files, taken=("image", "mask"))
    if wire.mask is not None:
        uploads.append(_of_reference(wire.mask, "mask", kept, ImageRole.MASK))
    sources = [one for one in uploads if one.role is ImageRole.SOURCE]
    masks = [one for one in uploads if one.role is ImageRole.MASK]
    _check_counts(sources, masks)
    for mask in masks:
        check_sizes(sources[0], mask)
    return [*sources, *masks]


def references_in(wire: EditRequest) -> dict[str, ImageReference]:
    """The pictures and the mask of a JSON body, by field."""
    named = {f"images.{number}": one for number, one in enumerate(wire.images)}
    return named if wire.mask is None else named | {"mask": wire.mask}


def of_variation(wire: VariationRequest, files: Sequence[FilePart]) -> list[Upload]:
    """The one picture of a variation; raises BadRequest."""
    uploads = [_of_text(text, "image") for text in wire.image] + _of_parts(files, taken=("image",))
    _check_counts(uploads, [])
    if len(uploads) > 1:
        raise BadRequest("send one image, not several", field="image")
    return uploads


def of_file(files: Sequence[FilePart]) -> FilePart:
    """The file of an upload; raises BadRequest unless there is one."""
    if len(files) != 1 or files[0].name != "file":
        raise BadRequest("send one file, as the part named file", field="file")
    return files[0]


def refuse_files(files: Sequence[FilePart]) -> None:
    """Raise BadRequest if there are any: a plain generation starts from words alone."""
    if files:
        name = short(files[0].name)
        raise BadRequest(f"no files are taken here; send {name} to /v1/images/edits", field=name)


def check_sizes(image: Upload, mask: Upload) -> None:
    """Raise BadRequest unless both have the same size, as far as their headers tell it.

    What has to be fetched, or is no picture at all, is judged later, by whoever decodes it.
    """
    if isinstance(image.data, Remote) or isinstance(mask.data, Remote):
        return
    size, mask_size = size_of(image.data), size_of(mask.data)
    if size is not None and mask_size is not None and size != mask_size:
        told = "the mask has {}x{} pixels, the first image {}x{}".format(*mask_size, *size)
        raise BadRequest(f"{told}; they must be the same", field="mask")


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height as the picture is looked at; None if its header does not tell."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            # PNG's own getexif would decode all pixels to look for a tag behind them.
            turn = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)
            width, height = picture.size
            return (height, width) if turn in TURNED else (width, height)
    except Exception:
        # Readers raise whatever they like on mangled files; the one that decodes will explain.
        return None


def _of_parts(files: Sequence[FilePart], *, taken: tuple[str, ...]) -> list[Upload]:
    uploads = []
    for part in files:
        name = "image" if IMAGE_PART.fullmatch(part.name) else part.name
        if name == "markup":
            raise Unsupported("markup", "markup is not honoured here; use a mask, or words")
        if name not in taken:
            known = " and ".join(taken)
            message = f"no file is taken as {short(part.name)!r}, only as {known}"
            raise BadRequest(message, field=short(part.name))
        role = ImageRole.MASK if name == "mask" else ImageRole.SOURCE
        uploads.append(Upload(role=role, field=name, data=part.data))
    return uploads


def _of_text(text: str, field: str, role: ImageRole = ImageRole.SOURCE) -> Upload:
    return Upload(role=role, field=field, data=picture_of(text, field))


def _of_reference(
    reference: ImageReference,
    field: str,
    kept: Mapping[str, bytes],
    role: ImageRole = ImageRole.SOURCE,
) -> Upload:
    if field in kept and reference.image_url is not None:
        raise BadRequest(f"{field}: send image_url or file_id, not both", field=field)
    if field in kept:
        return Upload(role=role, field=f"{field}.file_id", data=kept[field])
    if reference.image_url is None:
        raise BadRequest(f"{field}.image_url is required", field=f"{field}.image_url")
    return _of_text(reference.image_url, f"{field}.image_url", role)


def _check_counts(sources: Sequence[Upload], masks: Sequence[Upload]) -> None:
    if not sources:
        raise BadRequest("image is required", field="image")
    if len(sources) > MAX_IMAGES:
        raise BadRequest(f"send at most {MAX_IMAGES} images, not {len(sources)}", field="image")
    if len(masks) > 1:
        raise BadRequest("send one mask, not several", field="mask")

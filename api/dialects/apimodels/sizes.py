"""The size of a picture, in all the ways that APIModels' fields say it; pure."""

from __future__ import annotations

import math
from typing import Any

from api.dialects.apimodels.schema import GenerationRequest
from api.errors import BadRequest
from inference.sizes import parse_ratio

# Ratios that leave the choice: to the model, to `width` and `height`, to the picture that is sent.
NO_RATIO = ("auto", "custom", "match_input_image")
SMALL_TIER, SMALL_SIDE_PX = "512", 512
# The tier that a size in pixels belongs to, by its longer side.
LONGEST_SIDES_PX = {"1K": 1536, "2K": 2048}
# Sizes are made of 16 px, so that they come near to a ratio and seldom meet it.
RATIO_SLACK = 0.05


def to_size(wire: GenerationRequest) -> dict[str, Any]:
    """The fields of a wish that say its size; raises BadRequest where they contradict."""
    size = None if wire.size == "auto" else wire.size
    tier = _one_of("resolution", wire.resolution, size if _is_tier(size) else None)
    ratio = None if wire.aspect_ratio in NO_RATIO else wire.aspect_ratio
    ratio = _one_of("aspect_ratio", ratio, size if size and ":" in size else None)
    pixels = _pixels(wire, size)
    if pixels is not None:
        _check_pixels(*pixels, ratio, tier)
    elif tier == SMALL_TIER:
        pixels = _small(ratio)
    if pixels is not None:
        return {"width": pixels[0], "height": pixels[1]}
    return {"aspect_ratio": ratio, "resolution": tier.lower() if tier is not None else None}


def _one_of(name: str, value: str | None, size: str | None) -> str | None:
    if value is None or size is None:
        return value or size
    if value.upper() != size.upper():
        raise BadRequest(f"{name} {value} and size {size} differ; send one of them", field=name)
    return value


def _is_tier(size: str | None) -> bool:
    return size is not None and size[-1] in "kK"


def _pixels(wire: GenerationRequest, size: str | None) -> tuple[int, int] | None:
    if size is not None and "x" in size:
        width, height = (int(side) for side in size.split("x"))
        if (wire.width or width, wire.height or height) != (width, height):
            raise BadRequest("size and width or height differ; send one of them", field="size")
        if not width or not height:
            raise BadRequest(f"size {size} has a side of nothing", field="size")
        return width, height
    if wire.width is None and wire.height is None:
        return None
    if wire.width is None or wire.height is None:
        missing = "width" if wire.width is None else "height"
        raise BadRequest("width and height belong together; send both or neither", field=missing)
    return wire.width, wire.height


def _check_pixels(width: int, height: int, ratio: str | None, tier: str | None) -> None:
    """Raise BadRequest where a ratio or a tier says another size than the pixels do."""
    if ratio and not math.isclose(parse_ratio(ratio), width / height, rel_tol=RATIO_SLACK):
        what = f"aspect_ratio {ratio} and {width}x{height} pixels differ; send one of them"
        raise BadRequest(what, field="aspect_ratio")
    longest = max(width, height)
    is_small = tier == SMALL_TIER and longest <= SMALL_SIDE_PX
    if tier is not None and tier.upper() != _tier_of(longest) and not is_small:
        what = f"resolution {tier} and {width}x{height} pixels differ; send one of them"
        raise BadRequest(what, field="resolution")


def _tier_of(longest: int) -> str:
    return next((tier for tier, most in LONGEST_SIDES_PX.items() if longest <= most), "4K")


def _small(ratio: str | None) -> tuple[int, int]:
    """A picture with the area of the smallest tier, in a ratio."""
    stretch = math.sqrt(parse_ratio(ratio or "1:1"))
    return round(SMALL_SIDE_PX * stretch), round(SMALL_SIDE_PX / stretch)

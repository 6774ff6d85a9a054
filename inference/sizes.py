"""Picture sizes: read, and matched to what a model can make. Pixels throughout, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from inference.errors import BadValue

# What each resolution tier means: the side of a square picture of that area.
TIER_SIDES_PX = {"1k": 1024, "2k": 2048, "4k": 4096}


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSizes:
    """Every size whose sides are multiples of `unit` between `min_side` and `max_side`."""

    unit: int
    min_side: int
    max_side: int
    max_area: float

    @property
    def lowest(self) -> int:
        """The shortest side that is a multiple of the unit."""
        return -(-self.min_side // self.unit) * self.unit

    @property
    def highest(self) -> int:
        """The longest side that is a multiple of the unit."""
        return self.max_side // self.unit * self.unit

    @property
    def empty(self) -> bool:
        """Whether no size at all fits these bounds."""
        return self.lowest > self.highest or self.lowest**2 > self.max_area

    def nearest(self, ratio: float, area: float) -> tuple[int, int]:
        """Width and height nearest to a ratio, then to an area, as far as the bounds allow."""
        stretch = min(self.highest / self.lowest, self.max_area / self.lowest**2)
        ratio = min(max(ratio, 1 / stretch), stretch)
        stretch = max(ratio, 1 / ratio)
        area = min(area, self.max_area, self.highest**2 / stretch)
        area = max(area, self.lowest**2 * stretch)
        around = [
            (width, height)
            for width in self._sides_around(math.sqrt(area * ratio))
            for height in self._sides_around(math.sqrt(area / ratio))
            if width * height <= self.max_area
        ]
        return nearest_listed(around or [(self.lowest, self.lowest)], ratio, area)

    def _sides_around(self, length: float) -> list[int]:
        units = (math.floor(length / self.unit), math.ceil(length / self.unit))
        return [min(max(count * self.unit, self.lowest), self.highest) for count in units]


def nearest_listed(sizes: Iterable[tuple[int, int]], ratio: float, area: float) -> tuple[int, int]:
    """The listed size nearest to a ratio, then to an area."""

    # A wrong ratio spoils a picture more than a wrong scale does, hence the order.
    def distance(size: tuple[int, int]) -> tuple[float, float]:
        width, height = size
        off = abs(math.log(width / height / ratio))
        return round(off, 2), abs(math.log(width * height / area))

    return min(sizes, key=distance)


def shrunk(width: int, height: int, megapixels: float) -> tuple[int, int]:
    """Sides in the same ratio of at most so many million pixels; what has fewer stays."""
    most = megapixels * 1e6
    if width * height <= most:
        return width, height
    scale = math.sqrt(most / (width * height))
    # a strip that is one pixel thin already has but one side to give
    longest = max(1, int(most))
    return min(max(1, int(width * scale)), longest), min(max(1, int(height * scale)), longest)


def tier_of(width: int, height: int) -> str:
    """The smallest resolution tier whose area holds a picture; the largest for what none holds."""
    fits = (tier for tier, side in TIER_SIDES_PX.items() if width * height <= side**2)
    return next(fits, list(TIER_SIDES_PX)[-1])


def parse_size(value: object) -> object:
    """ "128x96" as (128, 96); what is no text is left for pydantic to judge."""
    if isinstance(value, str):
        width, x, height = value.lower().partition("x")
        if x and _is_small_number(width) and _is_small_number(height):
            return int(width), int(height)
        raise ValueError(f"{value!r} is not a size like 1024x768")
    return value


def parse_ratio(text: str) -> float:
    """Width over height of a ratio like "16:9"; raises BadValue."""
    left, colon, right = text.partition(":")
    if not (colon and _is_small_number(left) and _is_small_number(right)):
        raise BadValue("aspect_ratio", f"{text[:40]!r} is not a ratio like 16:9")
    if not (int(left) and int(right)):
        raise BadValue("aspect_ratio", f"{text!r} has a side of nothing")
    ratio = int(left) / int(right)
    if not 1 / 8 <= ratio <= 8:
        raise BadValue("aspect_ratio", f"{text!r} is beyond 8:1")
    return ratio


def _is_small_number(text: str) -> bool:
    """Whether digits of a plausible length; thousands of them break int() and division."""
    return text.isdecimal() and len(text) <= 6

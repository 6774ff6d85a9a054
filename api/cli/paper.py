"""Contact sheets: labelled pictures side by side on white paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GAP_PX = 8
LINE_PX = 15
FONT_PX = 12
ACROSS = 6
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, EDGE = (70, 70, 70), (225, 225, 225)


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture and what is said below it, in one line or several."""

    label: str
    picture: Image.Image

    @property
    def height(self) -> int:
        """Of both, in pixels."""
        return self.picture.height + LINE_PX * len(self.label.splitlines()) + 3


def contact_sheet(cells: Sequence[Cell], across: int = ACROSS) -> Image.Image:
    """The cells in rows of `across`, each column as wide as its widest picture or label."""
    font = ImageFont.load_default(FONT_PX)
    rows = [cells[start : start + across] for start in range(0, len(cells), across)]
    columns = [cells[start::across] for start in range(len(rows[0]))]
    widths = [max(_width(cell, font) for cell in column) for column in columns]
    heights = [max(cell.height for cell in row) for row in rows]
    paper = Image.new("RGB", (_with_gaps(widths), _with_gaps(heights)), "white")
    draw = ImageDraw.Draw(paper)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            left, top = _with_gaps(widths[:x]), _with_gaps(heights[:y])
            paper.paste(cell.picture.convert("RGB"), (left, top))
            right, low = left + cell.picture.width, top + cell.picture.height
            # or a white ground would run into the paper
            draw.rectangle((left - 1, top - 1, right, low), outline=EDGE)
            draw.multiline_text((left, low + 2), cell.label, INK, font, spacing=1)
    return paper


def _width(cell: Cell, font: Font) -> int:
    lines = (math.ceil(font.getlength(line)) for line in cell.label.splitlines())
    return max(cell.picture.width, *lines)


def _with_gaps(sides: Sequence[int]) -> int:
    return sum(sides) + GAP_PX * (len(sides) + 1)

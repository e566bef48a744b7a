"""A page of panels drawn by Pillow: matplotlib needs two seconds to be loaded and to set up its axes, as much as the finest level of a fast registration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from nnreg.arrays import Bytes, Reals

WIDTH, NARROW, ENLARGED = 253, 200, 4  # pixels of a panel; of an image of few voxels, and how much larger its voxels are shown at least
GAP, SIDE, TOP = 8, 28, 68  # pixels between panels, left of them for their names, and above them for titles
FINER = 2  # pixels that lines are drawn on, for one of the page
HEADLINE, TITLE = 15, 13  # pixels: heights of letters
Anchors = Sequence[tuple[int, int, int]]

GREYS: Anchors = ((0, 0, 0), (255, 255, 255))
# ColorBrewer's scale of red and blue: negative is blue
RED_BLUE: Anchors = (
    (5, 48, 97),
    (33, 102, 172),
    (67, 147, 195),
    (146, 197, 222),
    (209, 229, 240),
    (247, 247, 247),
    (253, 219, 199),
    (244, 165, 130),
    (214, 96, 77),
    (178, 24, 43),
    (103, 0, 31),
)
# Moreland's smooth diverging scale
COOL_WARM: Anchors = (
    (59, 76, 192),
    (98, 130, 234),
    (141, 176, 254),
    (184, 208, 249),
    (221, 221, 221),
    (245, 196, 173),
    (244, 154, 123),
    (222, 96, 77),
    (180, 4, 38),
)


def coloured(values: Reals, colours: Anchors = GREYS) -> Bytes:
    """Numbers (rows, columns), 0 to 1 and clipped to that, as colours (rows, columns, 3) between evenly spaced ones."""
    steps = np.linspace(0, 1, 256)
    table = np.stack([np.interp(steps, np.linspace(0, 1, len(colours)), channel) for channel in np.transpose(colours)], axis=-1)
    index = np.clip(np.rint(np.nan_to_num(np.asarray(values, np.float32)) * 255), 0, 255).astype(np.uint8)
    return np.asarray(np.rint(table), np.uint8)[index]


def panel_width(columns: int) -> int:
    """Pixels of a panel that shows an image of so many columns.

    Examples
    --------
    >>> panel_width(35), panel_width(60), panel_width(180)
    (200, 240, 253)
    """
    return min(WIDTH, max(NARROW, ENLARGED * columns))


def stretched(colours: Bytes, size: tuple[int, int]) -> Bytes:
    """Colours (rows, columns, 3) on a panel of `size` pixels, height first: each is the mean of what it covers."""
    return np.asarray(Picture.fromarray(np.ascontiguousarray(colours)).resize(size[::-1], Picture.Resampling.BOX))


def with_lines(panel: Bytes, lines: Sequence[npt.NDArray[np.floating]], colour: tuple[int, int, int]) -> Bytes:
    """A panel with lines through points (N, 2) of it, x first, pixels."""
    height, width = panel.shape[:2]
    drawn = Picture.new("L", (FINER * width, FINER * height))
    pen = ImageDraw.Draw(drawn)
    for line in lines:
        pen.line([(float(x), float(y)) for x, y in FINER * line], fill=255, width=FINER)
    share = np.asarray(drawn.reduce(FINER), np.float32)[..., None] / 255
    return np.asarray(np.rint(panel + share * (np.asarray(colour, np.float32) - panel)), np.uint8)


def page_of(rows: Sequence[Sequence[Bytes]], names: Sequence[str], titles: Sequence[str], headline: str) -> Picture.Image:
    """The page: rows of panels of one height, all of one width, named at their left, a title above each column, and a line above all."""
    heights, width = [row[0].shape[0] for row in rows], rows[0][0].shape[1]
    whole = Picture.new("RGB", (SIDE + len(titles) * (width + GAP), TOP + sum(height + GAP for height in heights)), "white")
    pen, top = ImageDraw.Draw(whole), TOP
    pen.text((whole.width / 2, 6), headline, fill="black", font=ImageFont.load_default(HEADLINE), anchor="mt")
    for column, title in enumerate(titles):
        pen.text((SIDE + column * (width + GAP) + width / 2, TOP - 10), title, fill="black", font=ImageFont.load_default(TITLE), anchor="ms")
    for row, name, height in zip(rows, names, heights, strict=True):
        for column, panel in enumerate(row):
            whole.paste(Picture.fromarray(panel), (SIDE + column * (width + GAP), top))
        beside = Picture.new("RGB", (height, SIDE - 4), "white")
        ImageDraw.Draw(beside).text((height / 2, SIDE / 2), name, fill="black", font=ImageFont.load_default(TITLE), anchor="mm")
        whole.paste(beside.transpose(Picture.Transpose.ROTATE_90), (0, top))
        top += height + GAP
    return whole

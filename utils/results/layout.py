"""Where pictures, colour bars and labels stand in a drawing; all lengths are in pixels."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.results.drawing import coloured, new_figure

#: Width of a grid's cell: smaller images are enlarged in whole steps, others shrunk.
MIN_CELL, MAX_CELL = 192, 480
#: Blank pixels between the parts of a grid, and round texts.
GAP, TIGHT = 8, 3
DPI = 100
LABEL_POINTS, TITLE_POINTS = 10, 13
#: Height of a colour bar.
BAR_HEIGHT = 12
#: Where a label may stand: directions round its point, and distances from it.
NUM_DIRECTIONS, DISTANCES = 24, (13, 19, 26, 34, 43, 53, 64, 80, 100)

#: (x, y from the top, text, size in points, horizontal, vertical alignment).
Text = tuple[float, float, str, float, str, str]


@dataclass(frozen=True)
class ColourBar:
    """A colour map with what stands at its two ends.

    Attributes:
        colours: name of a colour map of matplotlib.
        low, high: texts at level 0 and at level 1.
    """

    colours: str
    low: str
    high: str

    def strip(self, width: int) -> np.ndarray:
        """Return the colours from low to high, (BAR_HEIGHT, width, 3) uint8."""
        return coloured(np.tile(np.linspace(0, 1, width), (BAR_HEIGHT, 1)), self.colours)

    def texts(self, left: float, top: float, width: float) -> list[Text]:
        """Return the two texts below a strip whose corner and width are given."""
        below = top + BAR_HEIGHT + TIGHT
        return [(left, below, self.low, LABEL_POINTS, "left", "top"),
                (left + width, below, self.high, LABEL_POINTS, "right", "top")]


def bar_picture(bar: ColourBar, title: str, size: tuple[int, int]) -> np.ndarray:
    """Return a colour bar as a picture for a cell of a grid.

    Args:
        bar: the colours.
        title: above it.
        size: (width, height) of the cell; the picture grows where the texts need more.
    Returns:
        (H, W, 3) uint8 on white.
    """
    widths = [text_size(text, LABEL_POINTS)[0] for text in (bar.low, bar.high)]
    line = text_size(title, LABEL_POINTS)
    width = max(size[0], sum(widths) + 3 * GAP, line[0] + 2 * GAP)
    height = max(size[1], 2 * line[1] + BAR_HEIGHT + 4 * GAP)
    top = (height - BAR_HEIGHT) // 2
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[top:top + BAR_HEIGHT, GAP:width - GAP] = bar.strip(width - 2 * GAP)
    texts: list[Text] = [(width / 2, top - GAP, title, LABEL_POINTS, "center", "bottom"),
                         *bar.texts(GAP, top, width - 2 * GAP)]
    return np.minimum(canvas, text_layer(texts, (height, width)))


@dataclass(frozen=True)
class GridLayout:
    """The places of a grid's cells, labels, captions and colour bars.

    Attributes:
        cell: (width, height) of the pictures.
        left, top: of the first cell.
        pitch: (x, y) from a cell to the next.
        size: (width, height) of the whole.
        caption_height: of the line below each cell, 0 without captions.
        bar_top: of the colour bars.
    """

    cell: tuple[int, int]
    left: int
    top: int
    pitch: tuple[int, int]
    size: tuple[int, int]
    caption_height: int
    bar_top: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the top left pixel (x, y) of a cell, which is centred in its column."""
        slack = self.pitch[0] - GAP - self.cell[0]
        return self.left + column * self.pitch[0] + slack // 2, self.top + row * self.pitch[1]

    def texts(self, row_labels: Sequence[str], column_labels: Sequence[str], title: str,
              captions: Sequence[Sequence[str]]) -> Iterator[Text]:
        """Yield the texts of labels, captions and title."""
        middle, below = (self.pitch[0] - GAP) // 2, self.cell[1] + TIGHT
        if title:
            yield GAP, GAP, title, TITLE_POINTS, "left", "top"
        for column, label in enumerate(column_labels):
            yield (self.left + column * self.pitch[0] + middle, self.top - GAP, label, LABEL_POINTS,
                   "center", "bottom")
        for row, label in enumerate(row_labels):
            yield (self.left - GAP, self.corner(row, 0)[1] + self.cell[1] // 2, label, LABEL_POINTS,
                   "right", "center")
        for row, line in enumerate(captions):
            for column, caption in enumerate(line):
                yield (self.left + column * self.pitch[0] + middle,
                       self.corner(row, column)[1] + below, caption, LABEL_POINTS, "center", "top")


def grid_layout(rows: Sequence[Sequence[np.ndarray | None]], row_labels: Sequence[str],
                column_labels: Sequence[str], *, title: str,
                captions: Sequence[Sequence[str]], bars: Mapping[int, ColourBar]) -> GridLayout:
    """Return the places of all parts of a grid; the arguments are those of `image_grid`."""
    num_columns = max((len(row) for row in rows), default=0)
    cell = cell_size(rows)
    row_sizes = [text_size(label, LABEL_POINTS) for label in row_labels]
    heads = [text_size(label, LABEL_POINTS) for label in column_labels]
    below = [text_size(text, LABEL_POINTS) for line in captions for text in line]
    ends = [(sum(text_size(text, LABEL_POINTS)[0] for text in (bar.low, bar.high)) + GAP, 0)
            for bar in bars.values()]
    title_width, title_height = text_size(title, TITLE_POINTS) if title else (0, 0)
    left = GAP + max((width + GAP for width, _ in row_sizes), default=0)
    top = GAP + (title_height + GAP if title else 0) \
        + max((height + GAP for _, height in heads), default=0)
    caption_height = max((height + TIGHT for _, height in below), default=0)
    pitch = (max([cell[0]] + [width for width, _ in [*heads, *below, *ends]]) + GAP,
             max([cell[1] + caption_height] + [height for _, height in row_sizes]) + GAP)
    bar_top = top + len(rows) * pitch[1]
    foot = BAR_HEIGHT + TIGHT + text_size("0", LABEL_POINTS)[1] + GAP if bars else 0
    size = max(left + num_columns * pitch[0], title_width + 2 * GAP), bar_top + foot
    return GridLayout(cell, left, top, pitch, size, caption_height, bar_top)


def cell_size(rows: Sequence[Sequence[np.ndarray | None]]) -> tuple[int, int]:
    """Return (width, height) of the cells: the largest picture, brought between the limits.

    Raises:
        ValueError: there is no picture.
    """
    shapes = [picture.shape for row in rows for picture in row if picture is not None]
    if not shapes:
        raise ValueError("there is no picture for the grid, need at least one")
    height, width = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    scale = math.ceil(MIN_CELL / width) if width < MIN_CELL else min(1.0, MAX_CELL / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def paste(canvas: np.ndarray, picture: np.ndarray | None, corner: tuple[int, int],
          cell: tuple[int, int]) -> None:
    """Draw a picture into the middle of the cell whose top left pixel is `corner` (x, y)."""
    if picture is None:
        return
    scale = min(cell[0] / picture.shape[1], cell[1] / picture.shape[0])
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    fitted = cv2.resize(picture, size, interpolation=method)
    x, y = corner[0] + (cell[0] - size[0]) // 2, corner[1] + (cell[1] - size[1]) // 2
    canvas[y:y + size[1], x:x + size[0]] = fitted


def even_rows(count: int, most: int) -> list[slice]:
    """Divide things into rows as even as can be, so that the last has few empty cells.

    Args:
        count: of the things.
        most: of them in a row.
    Returns:
        Those of each row: 12 in rows of up to 7 are 6 and 6, 16 are 6, 6 and 4.
    """
    num_rows = -(-count // most)
    step = -(-count // max(num_rows, 1))
    return [slice(start, min(start + step, count)) for start in range(0, count, step or 1)]


def text_size(text: str, points: float) -> tuple[int, int]:
    """Return (width, height) that a text of one or several lines takes up."""
    figure, canvas = new_figure(dpi=DPI)
    drawn = figure.text(0, 0, text, fontsize=points, parse_math=False)
    extent = drawn.get_window_extent(canvas.get_renderer())
    return math.ceil(extent.width) + 2, math.ceil(extent.height) + 2


def text_layer(texts: Sequence[Text], shape: tuple[int, int]) -> np.ndarray:
    """Return black texts on white, (H, W, 3) uint8, for `shape` (H, W)."""
    height, width = shape
    # The half pixel keeps the size in inches from being rounded down to one pixel less.
    figure, canvas = new_figure(figsize=((width + 0.5) / DPI, (height + 0.5) / DPI), dpi=DPI,
                                facecolor="white")
    for x, y, text, points, horizontal, vertical in texts:
        figure.text(x, height - y, text, fontsize=points, color="black", ha=horizontal, va=vertical,
                    transform=None, parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def label_places(points: np.ndarray, sizes: np.ndarray, others: np.ndarray,
                 middle: np.ndarray) -> np.ndarray:
    """Return where labels stand that cover neither each other nor a point, where that can be.

    One after the other takes the place near its point that costs least: area shared with labels
    before it, points covered, distance, and how far it is from lying outwards.

    Args:
        points: (N, 2) that the labels belong to.
        sizes: (N, 2), width and height of each label.
        others: (M, 2) further points that should stay free.
        middle: (2,); outwards is away from it.
    Returns:
        (N, 2) centres of the labels.
    """
    free = np.concatenate([points, others])
    angles = np.arange(NUM_DIRECTIONS) * (2 * np.pi / NUM_DIRECTIONS)
    ways = np.stack([np.cos(angles), np.sin(angles)], -1)                          # (D, 2)
    places = np.zeros_like(points)
    for index, (point, size) in enumerate(zip(points, sizes)):
        outwards = (point - middle) / max(float(np.linalg.norm(point - middle)), 1e-9)
        tries = (point + np.array(DISTANCES)[:, None, None] * ways).reshape(-1, 2)  # (T, 2)
        cost = np.repeat(np.array(DISTANCES) / 10.0, len(ways)) \
            - np.tile(ways @ outwards, len(DISTANCES))
        room = (sizes[:index] + size) / 2
        shared = np.clip(room - np.abs(tries[:, None] - places[:index]), 0, None).prod(-1)
        covered = (np.abs(tries[:, None] - free) < size / 2 + 2).all(-1)
        cost += shared.sum(1) + 100 * (shared > 0).sum(1) + 30 * covered.sum(1)
        places[index] = tries[np.argmin(cost)]
    return places

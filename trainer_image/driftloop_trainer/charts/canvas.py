"""A picture on which lines and words are drawn, and its PNG."""

import struct
import zlib
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from driftloop_trainer.charts.letters import ADVANCE, HEIGHT, WIDTH, strokes

Colour = tuple[int, int, int]
Point = tuple[float, float]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Canvas:
    """A white picture. Points are (x, y) in pixels from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self._pixels = np.full((height, width, 3), 255.0)

    def line(self, points: Iterable[Point], colour: Colour, thickness: float = 1.0) -> None:
        """Draw a line through `points`. What is outside of the picture is left out."""
        through = list(points)
        for start, end in pairwise(through):
            self._segment(np.array(start, float), np.array(end, float), colour, thickness)

    def text(self, words: str, x: float, y: float, colour: Colour, size: float = 1.3) -> None:
        """Write `words`, which begin at `x` and stand on `y`. `size`: pixels per point of a letter's grid."""
        for place, letter in enumerate(words):
            left = x + place * ADVANCE * size
            for stroke in strokes(letter):
                points = [(left + column * size, y + (row - HEIGHT) * size) for column, row in stroke]
                self.line(points, colour, size)

    def png(self) -> bytes:
        """The file, without loss: https://www.w3.org/TR/png-3/."""
        height, width, _ = self._pixels.shape
        rows = np.zeros((height, 1 + width * 3), np.uint8)  # the first byte of a row names its filter: 0 is none
        rows[:, 1:] = np.rint(self._pixels).astype(np.uint8).reshape(height, -1)
        header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits per colour, red, green and blue
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
        return _SIGNATURE + b"".join(_chunk(name, content) for name, content in parts)

    def _segment(self, start: NDArray[np.float64], end: NDArray[np.float64], colour: Colour, thickness: float) -> None:
        """Colour each pixel by how much of it the line covers, as its distance from the line tells."""
        reach = thickness / 2 + 1
        height, width, _ = self._pixels.shape
        left, top = np.clip(np.floor(np.minimum(start, end) - reach), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(np.maximum(start, end) + reach), 0, (width, height)).astype(int)
        if left >= right or top >= bottom:
            return
        x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
        (dx, dy), length = end - start, max(float(np.square(end - start).sum()), 1e-9)
        along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / length, 0, 1)
        distance = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
        covered = np.clip(thickness / 2 + 0.5 - distance, 0, 1)[..., np.newaxis]
        part = self._pixels[top:bottom, left:right]
        part += covered * (np.array(colour, float) - part)


def text_width(words: str, size: float = 1.3) -> float:
    """The width in pixels of words that `Canvas.text` writes."""
    return max(0.0, (len(words) * ADVANCE - (ADVANCE - WIDTH)) * size)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from driftloop_trainer.charts.canvas import Canvas, text_width

BLACK = (0, 0, 0)


def pixels(png: bytes) -> NDArray[np.uint8]:
    """The colours of a PNG whose rows have no filter, by row and column. Checks each part's sum."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    place, content, size = 8, b"", (0, 0)
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        name, part = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", png, place + 8 + length) == (zlib.crc32(name + part),)
        if name == b"IHDR":
            size = struct.unpack_from(">2I", part)
        content += part if name == b"IDAT" else b""
        place += 12 + length
    width, height = size
    rows = np.frombuffer(zlib.decompress(content), np.uint8).reshape(height, 1 + width * 3)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_a_line_is_where_it_was_drawn_and_nowhere_else() -> None:
    canvas = Canvas(20, 10)
    canvas.line([(2, 4.5), (12, 4.5)], (255, 0, 0), 1)
    picture = pixels(canvas.png())
    assert picture.shape == (10, 20, 3)
    assert (picture[4, 3:11] == (255, 0, 0)).all()
    assert (picture[[2, 6]] == 255).all()
    assert (picture[:, 14:] == 255).all()


def test_what_is_outside_of_the_picture_is_left_out() -> None:
    canvas = Canvas(8, 8)
    canvas.line([(-100, 4.5), (100, 4.5)], BLACK)
    canvas.line([(-50, -50), (-40, -40)], BLACK)
    assert (pixels(canvas.png())[4] == 0).all()


def test_words_are_as_wide_as_they_say_and_each_letter_of_them_is_drawn() -> None:
    for letter in "0123456789.-+abcdefghijklmnopqrstuvwxyz":
        canvas = Canvas(20, 30)
        canvas.text(letter, 5, 15, BLACK, 2)
        dark = np.argwhere((pixels(canvas.png()) < 128).all(2))
        assert len(dark), letter
        assert dark[:, 1].min() >= 3, letter
        assert dark[:, 1].max() <= 5 + text_width("a", 2) + 1, letter

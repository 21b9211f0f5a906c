"""Pictures for the documentation: what of a browser's PNG is left in them."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import pytest
from pictures import is_of, made_small

WIDTH, HEIGHT = 7, 5


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def filtered(rows: list[bytes], kind: int) -> bytes:
    """Returns rows of pixels as a PNG has them; the filters are those of its specification."""
    out, above = b"", bytes(3 * WIDTH)
    for row in rows:
        left = bytes(3) + row[:-3]
        corner = bytes(3) + above[:-3]
        guesses = {
            0: bytes(len(row)),
            1: left,
            2: above,
            3: bytes((a + b) // 2 for a, b in zip(left, above, strict=True)),
            4: bytes(map(paeth, left, above, corner)),
        }
        out += bytes([kind]) + bytes((x - y) & 255 for x, y in zip(row, guesses[kind], strict=True))
        above = row
    return out


def paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    far = abs(guess - left), abs(guess - above), abs(guess - corner)
    return (left, above, corner)[far.index(min(far))]


def png(data: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pixels_of(image: bytes) -> list[bytes]:
    """Returns the colour of each pixel of a picture that was made small."""
    chunks, place = {}, 8
    while place < len(image):
        (size,) = struct.unpack(">I", image[place : place + 4])
        data = image[place + 8 : place + 8 + size]
        name = image[place + 4 : place + 8]
        assert struct.unpack(">I", image[place + 8 + size : place + 12 + size])[0] == zlib.crc32(name + data)
        chunks[name] = data
        place += size + 12
    rows = zlib.decompress(chunks[b"IDAT"])
    palette = chunks[b"PLTE"]
    places = [one for y in range(HEIGHT) for one in rows[y * (WIDTH + 1) + 1 : (y + 1) * (WIDTH + 1)]]
    return [palette[3 * one : 3 * one + 3] for one in places]


@pytest.mark.parametrize("kind", range(5))
def test_few_colours_stay_what_they_are_whatever_the_filter(kind: int):
    draw = random.Random(kind)
    rows = [draw.randbytes(3 * WIDTH) for _ in range(HEIGHT)]
    small = made_small(png(filtered(rows, kind)), "this")
    assert pixels_of(small) == [row[3 * x : 3 * x + 3] for row in rows for x in range(WIDTH)]


def test_a_picture_knows_what_it_was_made_of():
    small = made_small(png(filtered([bytes(3 * WIDTH)] * HEIGHT, 0)), "this")
    assert is_of(small, "this")
    assert not is_of(small, "that")


def test_a_picture_of_the_documentation_has_a_palette():
    folder = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
    assert all(b"PLTE" in file.read_bytes()[:256] for file in folder.iterdir())

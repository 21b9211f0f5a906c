"""Pictures for the documentation: a browser's PNG made small, and marked with what it was made of.

A page has few colours, and some hundred more at the edges of its letters: the 256 that are met most, each
other exchanged for the nearest of them, make a third of the size and nobody sees it.

Source: PNG (Third Edition), sections 5.3 (chunks), 9.2 (filters), 11.2.2 (PLTE) and 11.3.3.3 (tEXt).
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Final

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_KEYWORD: Final = b"Source\0"
_COLOURS_MAX: Final = 256
_TRUECOLOUR: Final = 2
_INDEXED: Final = 3
_BYTES: Final = 3


def is_of(image: bytes, source: str) -> bool:
    """Returns whether a picture was made of that."""
    return _KEYWORD + source.encode() in image


def made_small(image: bytes, source: str) -> bytes:
    """Returns a picture in at most 256 colours, and writes into it what it was made of.

    Args:
        image: a PNG of true colour, of 8 bits, without interlacing, as Chromium makes them.
        source: stands for what it was made of.
    """
    chunks = list(_chunks(image))
    width, height, depth, kind = struct.unpack(">IIBB", chunks[0][1][:10])
    assert (depth, kind) == (8, _TRUECOLOUR)
    filtered = zlib.decompress(b"".join(data for name, data in chunks if name == b"IDAT"))
    rows = [[*_colours(row)] for row in _unfiltered(filtered, width * _BYTES)]
    palette = [colour for colour, _ in Counter(c for row in rows for c in row).most_common(_COLOURS_MAX)]

    @cache
    def nearest(colour: bytes) -> int:
        return min(range(len(palette)), key=lambda place: _distance(palette[place], colour))

    pixels = b"".join(b"\0" + bytes(map(nearest, row)) for row in rows)
    return _SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0)),
            _chunk(b"tEXt", _KEYWORD + source.encode()),
            _chunk(b"PLTE", b"".join(palette)),
            _chunk(b"IDAT", zlib.compress(pixels, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunks(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_SIGNATURE)
    while place < len(image):
        (size,) = struct.unpack(">I", image[place : place + 4])
        yield image[place + 4 : place + 8], image[place + 8 : place + 8 + size]
        place += size + 12


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _colours(row: bytes) -> Iterator[bytes]:
    return (row[start:end] for start, end in pairwise(range(0, len(row) + 1, _BYTES)))


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _unfiltered(data: bytes, size: int) -> Iterator[bytes]:
    """Yields the rows of a picture as they were before each was filtered."""
    above = bytes(size)
    for start in range(0, len(data), size + 1):
        row = bytearray(data[start + 1 : start + 1 + size])
        for place in range(size):
            left = row[place - _BYTES] if place >= _BYTES else 0
            corner = above[place - _BYTES] if place >= _BYTES else 0
            row[place] = (row[place] + _guess(data[start], left, above[place], corner)) & 255
        above = bytes(row)
        yield above


def _guess(kind: int, left: int, above: int, corner: int) -> int:
    match kind:
        case 1:
            return left
        case 2:
            return above
        case 3:
            return (left + above) // 2
        case 4:
            guess = left + above - corner
            return min((left, above, corner), key=lambda one: abs(guess - one))
        case _:
            return 0

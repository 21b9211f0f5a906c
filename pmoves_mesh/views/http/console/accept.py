"""Which of two media types a client would rather have, by its `Accept`.

Source: RFC 9110 section 12.5.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_WEIGHT: Final = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z")
_RANGES_MAX: Final = 64


def prefers(accept: str, wanted: str, usual: str) -> bool:
    """Returns whether a client would rather have one media type than another.

    Args:
        accept: the header's value; empty if there is none, which takes anything.
        wanted: a media type, such as `text/html`.
        usual: what is sent to whoever likes both as much.
    """
    ranges = dict(_ranges(accept))
    return _weight(ranges, wanted) > _weight(ranges, usual)


def takes(accept: str, coding: str) -> bool:
    """Returns whether a client names a content coding, such as `gzip`, as one that it takes.

    Source: RFC 9110 section 12.5.3.
    """
    return dict(_ranges(accept)).get(coding, 0.0) > 0


def _weight(ranges: dict[str, float], media_type: str) -> float:
    """Returns how much a media type is liked, by the most exact range that it is in; 0 is not at all."""
    whole, _, _ = media_type.partition("/")
    return next((ranges[name] for name in (media_type, f"{whole}/*", "*/*") if name in ranges), 0.0)


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Yields each range and its weight; one with further parameters stands for its type."""
    for item in accept.lower().split(",")[:_RANGES_MAX]:
        name, *parameters = (part.strip() for part in item.split(";"))
        given = (one.partition("=") for one in parameters)
        weights = [value.strip() for key, _, value in given if key.strip() == "q"]
        if not name or not all(map(_WEIGHT.match, weights)):
            continue  # it says nothing that could be heeded
        yield name, float(weights[0]) if weights else 1.0

"""Memory that was needed once, given back to the system: the C library keeps what is free in between."""

from __future__ import annotations


def give_back() -> None:
    """Gives whole pages that are free back to the system; where the C library cannot, does nothing.

    It takes a quarter of a millisecond for each megabyte, and holds up whoever wants memory meanwhile.

    Source: malloc_trim(3) of glibc.
    """
    import ctypes  # noqa: PLC0415 - it takes memory itself, and most agents never come here

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

"""Memory that was needed once, given back to the system: the C library keeps what is free in between."""

from __future__ import annotations

from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 4 * 1024 * 1024


def give_back() -> None:
    """Gives free pages back to the system, and has large blocks go back at once from now on.

    Left to itself, glibc keeps as much as twice the largest block that it ever saw freed, up to 64 MiB in
    each thread. It takes a quarter of a millisecond for each megabyte, and holds up whoever wants memory
    meanwhile. Where the C library has nothing of the kind, nothing happens.

    Source: malloc_trim(3) and mallopt(3) of glibc.
    """
    import ctypes  # noqa: PLC0415 - it takes memory itself, and most agents never come here

    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
        libc.malloc_trim(0)

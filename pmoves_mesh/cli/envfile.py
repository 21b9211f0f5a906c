"""Changing `env.shared` without touching anything else in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from pmoves_mesh.errors import ConfigError
from pmoves_mesh.pki.files import write_whole
from pmoves_mesh.values import ENV_FILE

_ASSIGNMENT: Final = re.compile(r"\A\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")
_VALUE: Final = re.compile(r"\A[A-Za-z0-9._:/,\[\]-]{1,1000}\Z")


def differing(directory: Path, values: Mapping[str, str]) -> dict[str, str]:
    """Returns the settings in `env.shared` that are set, and to something else than `values` says."""
    held = _read(directory / ENV_FILE)
    return {
        name: text for name in values if (text := (held.get(name) or "").strip()) not in {"", values[name]}
    }


def merge(directory: Path, values: Mapping[str, str]) -> Path:
    """Sets some settings in `env.shared`, which only its owner can read then, and returns its path.

    Every other line is kept as it is.

    Raises:
        ConfigError: if a value could be read as something else than itself, or the file cannot be read.
        PkiError: if the file cannot be written; it is then as it was.
    """
    for name, value in values.items():
        if not _VALUE.match(value):
            raise ConfigError(name, value[:120], "must be letters, digits and ._:/,[]-")
    path = directory / ENV_FILE
    _read(path)
    text = path.read_text("utf-8-sig") if path.exists() else ""
    missing = dict(values)
    lines = []
    for line in text.splitlines():
        found = _ASSIGNMENT.match(line)
        name = found[1] if found else ""
        if name not in values:
            lines.append(line)
        elif name in missing:
            lines.append(f"{name}={missing.pop(name)}")
    lines += [f"{name}={value}" for name, value in missing.items()]
    write_whole(path, ("\n".join(lines) + "\n").encode(), mode=0o600)
    return path


def _read(path: Path) -> Mapping[str, str | None]:
    if not path.exists():
        return {}
    try:
        return dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(ENV_FILE, str(path), f"must be a readable text file ({reason})") from None

"""Which service names a certificate allows its holder: patterns such as `whisper-*`, in its subject.

They stand where Kubernetes keeps groups: one organisational unit each, which every tool shows.
A certificate without any allows every name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError

PATTERNS_MAX: Final = 32

_PATTERN: Final = re.compile(r"\A[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?\Z")


def parse_patterns(patterns: Iterable[str], field: str = "allow") -> tuple[str, ...]:
    """Returns patterns of service names, lower-cased, each once.

    Raises:
        InvalidFieldError: if there are more than 32, or one is no service name with `*` for any characters.
    """
    found = tuple(dict.fromkeys(pattern.strip().lower() for pattern in patterns))
    if len(found) > PATTERNS_MAX:
        raise InvalidFieldError(field, f"{len(found)} given, at most {PATTERNS_MAX}")
    for pattern in found:
        if not _PATTERN.match(pattern):
            raise InvalidFieldError(
                field, f"{shown(pattern)} is not a service name in which * stands for any characters"
            )
    return found


def allows(patterns: tuple[str, ...], service: str) -> bool:
    """Returns whether a service may bear this name; no patterns allow every name."""
    return not patterns or any(_matches(pattern, service) for pattern in patterns)


def attributes(patterns: tuple[str, ...]) -> list[x509.NameAttribute[str]]:
    """Returns the part of a certificate's subject that says what it allows."""
    return [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, pattern) for pattern in patterns]


def patterns_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Returns what a certificate allows; nothing stands for every name."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return tuple(str(unit.value) for unit in units)


def _matches(pattern: str, name: str) -> bool:
    """Returns whether `name` is `pattern` with any characters in the place of each `*`, in linear time."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True

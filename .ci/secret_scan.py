"""Looks for secrets in every file that git tracks, and exits with 1 if there is one.

A made-up secret in a test or an example is let through if its line says `made-up`, and a URL
with a password in one of the tests that are about such URLs; a private key never is.

What is found is named by its place and kind, and not printed. Why this is a script of our own:
docs/adr/0011-secret-scan.md.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_MADE_UP: Final = re.compile(r"made-up")
_ABOUT_URLS: Final = frozenset({"tests/unit/test_config.py", "tests/unit/test_log_parts.py"})
_BITS_PER_CHARACTER_MIN: Final = 3.5


class Kind(NamedTuple):
    """A kind of secret, and what it looks like; the group `secret`, if there is one, must be random."""

    name: str
    pattern: re.Pattern[str]


_PRIVATE_KEY: Final = Kind(
    "a private key",
    re.compile(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\n)+(?:[\w-]+: [^\n]*\s+)*[A-Za-z0-9+/=]{16}"
    ),
)
_NAMED: Final = r"(?i)\b[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api_?key|auth_?key)[\w-]*[\"']?\]?"
_RANDOM: Final = r"(?P<secret>[A-Za-z0-9+/=_.~!$%^&*-]{16,})"

_URL: Final = Kind(
    "a password in a URL",
    re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'`<>{}$\[\]]*:[^\s/@\"'`<>{}$\[\]*]+@[\w\[{]"),
)
KINDS: Final = (
    Kind("a join token", re.compile(r"\bpmoves1-[A-Za-z0-9_-]{40,}")),
    Kind("a NATS seed", re.compile(r"\bS[ACNOUX][A-Z2-7]{56}\b")),
    Kind("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}")),
    Kind("an AWS key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    Kind("a GitHub token", re.compile(r"\b(?:gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})")),
    Kind("a Slack token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}")),
    Kind("a Slack webhook", re.compile(r"hooks\.slack\.com/services/T\w+/B\w+/\w+")),
    Kind("a Tailscale key", re.compile(r"\btskey-[a-z]+-[A-Za-z0-9-]{8,}")),
)
_ASSIGNED: Final = Kind("a secret in an assignment", re.compile(rf"{_NAMED}\s*[:=]+\s*[\"']?{_RANDOM}"))
_ASSIGNED_IN_CODE: Final = Kind(
    "a secret in an assignment",
    re.compile(rf"{_NAMED}\s*(?::\s*[\w.\[\] |]+)?[:=,]\s*(?:[\w.]+\(\s*)?[bfr]*[\"']{_RANDOM}[\"']"),
)


class Found(NamedTuple):
    """Where a secret stands, and which kind it is of."""

    path: str
    line: int
    kind: str


def scan(path: str, text: str) -> Iterator[Found]:
    """Yields the secrets in a file's text."""
    for match in _PRIVATE_KEY.pattern.finditer(text):
        yield Found(path, text.count("\n", 0, match.start()) + 1, _PRIVATE_KEY.name)
    kinds = [*KINDS, _ASSIGNED_IN_CODE if path.endswith(".py") else _ASSIGNED]
    if path not in _ABOUT_URLS:
        kinds.append(_URL)
    for number, line in enumerate(text.splitlines(), 1):
        if not _MADE_UP.search(line):
            yield from (Found(path, number, kind.name) for kind in kinds if _shows(kind, line))


def _shows(kind: Kind, line: str) -> bool:
    return any(_is_random(match) for match in kind.pattern.finditer(line))


def _is_random(match: re.Match[str]) -> bool:
    """Returns whether a value that only its name makes suspicious looks as if it had been drawn."""
    value = match.groupdict().get("secret")
    if value is None:
        return True
    if not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)):
        return False
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares) >= _BITS_PER_CHARACTER_MIN


def _tracked() -> Iterator[tuple[str, str]]:
    listing = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True)
    for name in filter(None, listing.stdout.decode(errors="surrogateescape").split("\0")):
        path = Path(name)
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode(errors="replace")


def main() -> int:
    """Scans the current folder, as far as git tracks it."""
    try:
        found = [one for path, text in _tracked() for one in scan(path, text)]
    except subprocess.CalledProcessError:
        print("secret scan skipped: this is not a git checkout")
        return 0
    for one in found:
        print(f"{one.path}:{one.line}: {one.kind}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

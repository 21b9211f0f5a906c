"""NATS headers read without trust: whatever somebody published, the connection goes on.

nats-py's parser lets some bytes end its reading for good, and cannot tell a status that the
server sends from one that a client stored in a message.

Source: NATS ADR-4 (message headers).
"""

from __future__ import annotations

from typing import Final

from nats.aio.msg import Msg

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"

_VERSION: Final = b"NATS/1.0"
_CRLF: Final = b"\r\n"
_STATUS_DIGITS: Final = 3
_STORED: Final = "$JS.ACK."
_SEQUENCE: Final = "Nats-Sequence"


def parse(raw: bytes) -> dict[str, str]:
    """Returns what a header block says; lines that are no headers are left out.

    `Status` and `Description` come from the first line alone, the only place where a server puts
    them. Of a name that occurs more than once the first value counts.
    """
    first, _, lines = raw.partition(_CRLF)
    found: dict[str, str] = {}
    if first.startswith(_VERSION):
        code, _, description = first[len(_VERSION) :].strip().partition(b" ")
        if len(code) == _STATUS_DIGITS and code.isdigit():
            found = {STATUS: code.decode(), DESCRIPTION: description.decode(errors="replace")}
    for line in lines.split(_CRLF):
        name, colon, value = line.partition(b":")
        try:
            key, text = name.strip().decode(), value.strip().decode()
        except UnicodeDecodeError:
            continue
        if colon and key and key not in {STATUS, DESCRIPTION}:
            found.setdefault(key, text)
    return found


def status(message: Msg) -> int:
    """Returns the status that the server itself sends with a message, such as 503, or 0.

    A message that a stream holds has none, whatever stands in its headers.
    """
    headers = message.headers
    if not headers or STATUS not in headers:
        return 0
    if message.reply.startswith(_STORED) or _SEQUENCE in headers:
        return 0
    return int(headers[STATUS])


def description(message: Msg) -> str:
    """Returns the words that go with a status; empty if there are none."""
    return (message.headers or {}).get(DESCRIPTION, "")

"""The agent's stream of events, read and folded into a directory. It does no input or output.

Source: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.errors import MalformedEvent
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.instance import Instance

LINE_BYTES_MAX: Final = 512 * 1024 * 1024
"""As much as a snapshot of the largest mesh may take."""


class ServerEvent(NamedTuple):
    """One event of a stream.

    Attributes:
        position: its id, a position of the mesh's stream.
    """

    name: str
    position: int
    data: bytes


class Reader:
    """Takes a stream's bytes as they arrive, and gives the events that are complete."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._name = ""
        self._position = 0
        self._data: list[bytes] = []

    def feed(self, part: bytes) -> list[ServerEvent]:
        """Returns the events that these bytes complete.

        Raises:
            MalformedEvent: if a line is longer than any may be.
        """
        scanned = len(self._rest)
        self._rest += part
        if self._rest.find(b"\n", scanned) < 0:
            if len(self._rest) > LINE_BYTES_MAX:
                raise MalformedEvent("data", f"a line of more than {LINE_BYTES_MAX} bytes")
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return [event for line in lines if (event := self._line(line.removesuffix(b"\r"))) is not None]

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            event = ServerEvent(self._name, self._position, b"\n".join(self._data))
            self._name, self._data = "", []
            return event if event.name else None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode(errors="replace")
        elif field == b"data":
            self._data.append(value)
        elif field == b"id" and value.isdigit():
            self._position = int(value)
        return None


class _Snapshot(Struct):
    services: list[Instance]


class _Removed(Struct):
    name: str
    node: str
    id: str


def fold(directory: Directory, event: ServerEvent) -> bool:
    """Folds one event into a directory, and returns whether the stream goes on after it.

    What a later version may say besides is passed over.

    Raises:
        MalformedEvent: if its data are not what its name says.
    """
    try:
        match event.name:
            case "snapshot":
                found = msgspec.json.decode(event.data, type=_Snapshot)
                directory.replace(found.services, event.position)
            case "added" | "changed":
                directory.put(msgspec.json.decode(event.data, type=Instance), event.position)
            case "removed":
                gone = msgspec.json.decode(event.data, type=_Removed)
                directory.drop(InstanceKey(gone.name, gone.node, gone.id), event.position)
            case _:
                return event.name != "end"
    except msgspec.MsgspecError as error:
        raise MalformedEvent(event.name, str(error)) from None
    return True

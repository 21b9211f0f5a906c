"""What the agent and the process that tells of the past say to each other, over that one's input and output.

Each message is four bytes of length and then MessagePack. The process ends when its input does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core.history import Question, Told
from pmoves_mesh.log.connection import NatsSettings

_HEAD_BYTES: Final = 4


class Setup(Struct, frozen=True, kw_only=True, tag=True):
    """The first message: where the process reads, and who it is.

    Attributes:
        nats: how to log in.
        certificate: this node's certificate, with which checkpoints are signed.
        key: its private key.
    """

    mesh: str
    node: str
    nats: NatsSettings
    tls_dir: Path
    certificate: Path
    key: Path
    accept_unsigned: bool


class Asked(Struct, frozen=True, kw_only=True, tag=True):
    """A question, and the number under which it is answered."""

    number: int
    question: Question


class Taken(Struct, frozen=True, kw_only=True, tag=True):
    """Whoever follows has taken what it was told last: it may be told more."""

    number: int


class Dropped(Struct, frozen=True, kw_only=True, tag=True):
    """Nobody waits for the answer any more."""

    number: int


class Answered(Struct, frozen=True, kw_only=True, tag=True):
    """The answer to a question, or the next of those that it has."""

    number: int
    told: Sequence[Told]


class Failed(Struct, frozen=True, kw_only=True, tag=True):
    """Why there is no answer.

    Attributes:
        kind: the name of the error's class.
        text: what it says.
        field: the parameter at fault.
        from_position: from when on the past is known.
        from_time: the same, ISO 8601.
    """

    number: int
    kind: str
    text: str
    field: str = ""
    from_position: int = 0
    from_time: str = ""


ToWorker = Setup | Asked | Taken | Dropped
FromWorker = Answered | Failed


def _encode_path(value: Any) -> str:
    return str(value)


def _decode_path(kind: type, value: Any) -> Any:
    return kind(value)


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_encode_path)
_TO_WORKER: Final = msgspec.msgpack.Decoder(ToWorker, dec_hook=_decode_path)
_FROM_WORKER: Final = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytes:
    """Returns a message as bytes."""
    data = _ENCODER.encode(message)
    return len(data).to_bytes(_HEAD_BYTES, "big") + data


async def read_request(reader: asyncio.StreamReader) -> ToWorker | None:
    """Returns the next message to the process, or None at the end."""
    data = await _read(reader)
    return None if data is None else _TO_WORKER.decode(data)


async def read_answer(reader: asyncio.StreamReader) -> FromWorker | None:
    """Returns the next message of the process, or None if it has ended."""
    data = await _read(reader)
    return None if data is None else _FROM_WORKER.decode(data)


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    try:
        head = await reader.readexactly(_HEAD_BYTES)
        return await reader.readexactly(int.from_bytes(head, "big"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None

"""What callers send: parameters and bodies, read tolerantly and refused by name."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET

from pmoves_mesh.core.choice import LIMIT_MAX, Choice, Preference
from pmoves_mesh.core.names import BODY_BYTES_MAX, Mode, parse_capabilities, parse_label, shown
from pmoves_mesh.core.query import Filter
from pmoves_mesh.core.registration import Registration, parse_registration
from pmoves_mesh.core.where import ANYWHERE, parse_where
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.shapes import Wanted

BODY_TIMEOUT_S: Final = 10.0

_Shape = TypeVar("_Shape")

_TRUE: Final = frozenset({"", "true", "1", "yes"})
_FALSE: Final = frozenset({"false", "0", "no"})
_POSITION_DIGITS_MAX: Final = 18
_CHOICE_FIELDS: Final = frozenset({"where", "prefer", "limit"})


class BodyNotJsonError(InvalidFieldError):
    """The body is not JSON at all, so that no field of it could be at fault."""


def parse_filter(request: web.Request) -> Filter:
    """Returns which instances a listing asks for; an empty parameter counts as absent.

    Raises:
        InvalidFieldError: if a parameter has a value that nothing can have.
    """
    names = [
        name for value in request.query.getall("capability", ()) for name in value.split(",") if name.strip()
    ]
    return Filter(
        name=parse_name(request, "name"),
        node=parse_name(request, "node"),
        mode=_parse_mode(request.query.get("mode", "")),
        capabilities=parse_capabilities([name for name in names if name.strip()], "capability"),
        healthy_only=_parse_flag(request, "healthy_only"),
    )


def parse_name(request: web.Request, parameter: str) -> str | None:
    """Returns the service or node that a parameter names, or None if it is absent or empty.

    Raises:
        InvalidFieldError: if it is not a DNS label.
    """
    value = request.query.get(parameter, "")
    return parse_label(value, parameter) if value.strip() else None


def parse_position(request: web.Request) -> int:
    """Returns the position that a read must have reached; 0 if none is asked for.

    Raises:
        InvalidFieldError: if it is not a position.
    """
    value = request.query.get("min_position", "").strip()
    if not value:
        return 0
    if not (value.isascii() and value.isdigit() and len(value) <= _POSITION_DIGITS_MAX):
        raise InvalidFieldError("min_position", f"{shown(value)} is not a position of the stream")
    return int(value)


def parse_wait(request: web.Request) -> bool:
    """Returns whether a write is answered only when it is in the stream and applied here.

    Raises:
        InvalidFieldError: if `wait` is anything but `none`.
    """
    value = request.query.get("wait", "").strip().lower()
    if value not in {"", "none"}:
        raise InvalidFieldError("wait", f"{shown(value)} is not none")
    return not value


def registration(body: bytes) -> Registration:
    """Returns what the body of `POST /api/services` asks for.

    Raises:
        BodyNotJsonError: if it is not JSON.
        InvalidFieldError: if a field is wrong.
    """
    try:
        return parse_registration(body)
    except InvalidFieldError:
        _check_json(body)
        raise


def choice(body: bytes) -> Choice:
    """Returns what the body of `POST /api/discover` asks for: an object, a bare list, or one name.

    Raises:
        BodyNotJsonError: if it is not JSON.
        InvalidFieldError: if it is something else, or a field of it is wrong.
    """
    _check_json(body)
    try:
        wanted = msgspec.json.decode(body, type=Wanted | list[str] | str)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`")
        raise InvalidFieldError(field if field in _CHOICE_FIELDS else "capabilities", problem) from None
    if not isinstance(wanted, Wanted):
        return Choice(capabilities=_names(wanted))
    if wanted.capabilities is UNSET and wanted.where is UNSET:
        raise InvalidFieldError("capabilities", "neither capabilities nor where is given")
    if wanted.limit is not UNSET and not 1 <= wanted.limit <= LIMIT_MAX:
        raise InvalidFieldError("limit", f"{wanted.limit} is not 1 to {LIMIT_MAX}")
    return Choice(
        capabilities=() if wanted.capabilities is UNSET else _names(wanted.capabilities),
        where=ANYWHERE if wanted.where is UNSET else parse_where(wanted.where),
        prefer=_preference(wanted.prefer),
        limit=None if wanted.limit is UNSET else wanted.limit,
    )


def decode(body: bytes, wanted: type[_Shape]) -> _Shape:
    """Returns a body as what it should be.

    Raises:
        BodyNotJsonError: if it is not JSON.
        InvalidFieldError: if a field is missing or wrong.
    """
    _check_json(body)
    try:
        return msgspec.json.decode(body, type=wanted)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise InvalidFieldError(place.rstrip("`") or "body", problem) from None


async def read_body(request: web.Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """Returns the body, whatever its content type.

    Raises:
        HTTPException: 413 above `bytes_max`, 408 if it takes longer than 10 s, 400 if its framing is broken.
    """
    size = request.content_length
    if size is not None and size > bytes_max:
        raise web.HTTPRequestEntityTooLarge(bytes_max, size)
    try:
        if request.content.is_eof():  # it came along with the headers
            body = request.content.read_nowait()
            if len(body) > bytes_max:
                raise web.HTTPRequestEntityTooLarge(bytes_max, len(body))
            return body
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read_on(request, bytes_max)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    except web.RequestPayloadError:
        raise web.HTTPBadRequest(text="the body is not framed as HTTP says") from None


async def _read_on(request: web.Request, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise web.HTTPRequestEntityTooLarge(bytes_max, len(body))
    return bytes(body)


def _check_json(body: bytes) -> None:
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError:
        return  # JSON, but a number in it is out of range
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyNotJsonError("body", f"not JSON ({error})") from None


def _names(names: list[str] | str) -> tuple[str, ...]:
    return parse_capabilities([names] if isinstance(names, str) else names)


def _preference(value: str) -> Preference:
    match value:
        case "local" | "least_loaded" | "nearest":
            return value
        case _:
            raise InvalidFieldError("prefer", f"{shown(value)} is not local, least_loaded or nearest")


def _parse_mode(value: str) -> Mode | None:
    match value.strip().lower():
        case "":
            return None
        case "docked":
            return "docked"
        case "standalone":
            return "standalone"
        case _:
            raise InvalidFieldError("mode", f"{shown(value)} is neither docked nor standalone")


def _parse_flag(request: web.Request, parameter: str) -> bool:
    """Returns whether a flag is set; naming it without a value sets it."""
    value = request.query.get(parameter, "false").strip().lower()
    if value not in _TRUE | _FALSE:
        raise InvalidFieldError(parameter, f"{shown(value)} is neither true nor false")
    return value in _TRUE

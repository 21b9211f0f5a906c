"""Checks: how an agent finds out whether one of its instances is well.

A check belongs to the agent that makes it. Other hosts see its outcome and the `health_url`, never
the check itself, so it may hold what is nobody else's affair, such as a command line.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from pmoves_mesh.core.health import Pace
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.names import shown
from pmoves_mesh.errors import InvalidFieldError

COMMAND_SETTING: Final = "PMOVES_COMMAND_CHECKS"
"""The setting without which no check may run a command."""

URL_LENGTH_MAX: Final = 2048

_TIMEOUT_MAX_S: Final = 5.0
_FIELD: Final = "check"
_NAMED_FIELD: Final = re.compile(r"field `([^`]+)`")

_Seconds = Annotated[float, Meta(ge=1, le=3600)]
_Limit = Annotated[float, Meta(gt=0, lt=3600)]
_Times = Annotated[int, Meta(ge=1, le=10)]
_RemoveAfter = Annotated[float, Meta(ge=1, le=1e9)]
_Port = Annotated[int, Meta(ge=1, le=65535)]
_Argument = Annotated[str, Meta(max_length=1024, pattern=r"\A[^\x00]*\Z")]


class _Check(
    Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, forbid_unknown_fields=True
):
    """What every check that is made again and again has.

    Attributes:
        interval_s: seconds between probes, give or take a tenth.
        timeout_s: seconds that one probe may take, less than the interval; None for 5, or half the
            interval if that is less.
        rise: passes in a row that make an unhealthy instance healthy.
        fall: failures in a row that make an instance unhealthy.
        remove_after_s: seconds of being unhealthy after which the instance is deregistered; None for never.
    """

    interval_s: _Seconds = 10.0
    timeout_s: _Limit | None = None
    rise: _Times = 2
    fall: _Times = 3
    remove_after_s: _RemoveAfter | None = None

    @property
    def pace(self) -> Pace:
        """How often it is made, and how many findings change a status."""
        timeout_s = self.timeout_s or min(_TIMEOUT_MAX_S, self.interval_s / 2)
        return Pace(interval_s=self.interval_s, timeout_s=timeout_s, rise=self.rise, fall=self.fall)


class HttpCheck(_Check, frozen=True, kw_only=True, tag="http"):
    """A GET that is answered with a certain status.

    Attributes:
        url: http or https, on the instance's own host; None for the instance's `health_url`.
        expect_status: the status that passes; None for any from 200 to 299.
        expect_body: what the first 64 KiB of the body must contain.
    """

    url: Annotated[str, Meta(max_length=URL_LENGTH_MAX)] | None = None
    expect_status: Annotated[int, Meta(ge=100, le=599)] | None = None
    expect_body: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


class TcpCheck(_Check, frozen=True, kw_only=True, tag="tcp"):
    """A TCP connection that is accepted.

    Attributes:
        port: on the instance's own host; None for the instance's `port`.
    """

    port: _Port | None = None


class GrpcCheck(_Check, frozen=True, kw_only=True, tag="grpc"):
    """A gRPC server, without TLS, that says it serves.

    Attributes:
        port: on the instance's own host; None for the instance's `port`.
        service: which of its services is asked for; empty for the server as a whole.

    Source: gRPC Health Checking Protocol (`grpc.health.v1`).
    """

    port: _Port | None = None
    service: Annotated[str, Meta(max_length=256)] = ""


class CommandCheck(_Check, frozen=True, kw_only=True, tag="command"):
    """A program that ends with 0, or with 1 as a warning that still passes.

    Attributes:
        command: the program and its arguments; no shell reads them.
    """

    command: Annotated[tuple[_Argument, ...], Meta(min_length=1, max_length=64)]


class DockerCheck(_Check, frozen=True, kw_only=True, tag="docker"):
    """A container that its engine calls healthy, or that runs where it has no health check of its own.

    Attributes:
        container: its name or id.
    """

    container: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")]


class TtlCheck(
    Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="ttl",
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """A service that reports by itself that it is well, again and again.

    Attributes:
        ttl_s: seconds without a report after which it is unhealthy.
        remove_after_s: further seconds without one after which it is deregistered; None for never.
    """

    ttl_s: Annotated[float, Meta(ge=1, le=86400)]
    remove_after_s: _RemoveAfter | None = None


PacedCheck = HttpCheck | TcpCheck | GrpcCheck | CommandCheck | DockerCheck
"""A check that the agent makes again and again."""

Check = PacedCheck | TtlCheck


def parse_check(value: Any) -> Check:
    """Returns the check that a caller asks for; numbers may come as strings.

    Raises:
        InvalidFieldError: if a field is missing, unknown or out of bounds; names it, as `check.port`.
    """
    try:
        found: Check = msgspec.convert(value, Check, strict=False)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        field = _FIELD + path.rstrip("`")
        named = _NAMED_FIELD.search(problem)
        raise InvalidFieldError(f"{field}.{named[1]}" if named else field, problem) from None
    if isinstance(found, TtlCheck):
        return found
    if found.timeout_s is not None and found.timeout_s >= found.interval_s:
        problem = f"{found.timeout_s:g} s is not less than the interval of {found.interval_s:g} s"
        raise InvalidFieldError(f"{_FIELD}.timeout_s", problem)
    if isinstance(found, HttpCheck) and found.url is not None:
        check_url(found.url, f"{_FIELD}.url")
    if isinstance(found, CommandCheck) and not found.command[0]:
        raise InvalidFieldError(f"{_FIELD}.command", "names no program")
    return found


def check_url(url: str, field: str) -> None:
    """Checks that a URL can be asked over HTTP.

    Raises:
        InvalidFieldError: if it can not; names `field`.
    """
    if len(url) > URL_LENGTH_MAX:
        raise InvalidFieldError(field, f"{len(url)} characters, at most {URL_LENGTH_MAX}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable():
        raise InvalidFieldError(field, f"{shown(url)} is not an http or https URL")


def check_made(check: Check | None, record: Instance) -> Check | None:
    """Returns the check that is made of an instance, or None if its health is not looked after.

    Args:
        check: the one that was asked for; None if none was.
        record: the instance; its `health_url` alone asks for an HTTP check as usual.
    """
    if check is not None and not isinstance(check, HttpCheck):
        return check
    if not record.health_url:
        return None
    return msgspec.structs.replace(check or HttpCheck(), url=record.health_url)


def asks_alike(one: Check | None, other: Check | None) -> bool:
    """Returns whether two checks ask the same, however often: what one found then holds for the other."""
    return _question(one) == _question(other)


def _question(check: Check | None) -> Check | None:
    if check is None:
        return None
    if isinstance(check, TtlCheck):
        return msgspec.structs.replace(check, remove_after_s=None)
    usual = Pace()
    return msgspec.structs.replace(
        check,
        interval_s=usual.interval_s,
        timeout_s=None,
        rise=usual.rise,
        fall=usual.fall,
        remove_after_s=None,
    )

"""The options of `register` that say how an instance's health is found out."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

_VALUES: Final = {
    "http": "url",
    "tcp": "port",
    "grpc": "service",
    "ttl": "ttl_s",
    "docker": "container",
    "command": "command",
}
"""What the part behind the `=` is, for each kind."""

_BARE: Final = frozenset({"http", "tcp", "grpc"})
"""The kinds that need nothing said."""

_OPTIONS: Final = (
    click.option(
        "--check",
        metavar="KIND[=VALUE]",
        help="How its health is found out: http=URL, tcp[=PORT], grpc[=SERVICE], ttl=SECONDS (it reports by "
        "itself), docker=CONTAINER, command='PROGRAM ARGUMENTS', or none. Default: the health URL is probed.",
    ),
    click.option("--every", "interval_s", type=float, metavar="SECONDS", help="Between checks. Default: 10."),
    click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="For a check. Default: 5."),
    click.option("--rise", type=int, help="Passes in a row that make it healthy again. Default: 2."),
    click.option("--fall", type=int, help="Failures in a row that make it unhealthy. Default: 3."),
    click.option("--expect-status", type=int, help="The HTTP status that passes. Default: 200 to 299."),
    click.option("--expect-body", help="Text that the beginning of the HTTP answer must contain."),
    click.option(
        "--deregister-after",
        type=float,
        metavar="SECONDS",
        help="When to remove it after its node was lost. Default: 300.",
    ),
)


def check_options(command: _Command) -> _Command:
    """Gives a command the options, as parameters of these names."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_fields(check: str | None, **settings: Any) -> dict[str, Any]:
    """Returns what a registration says of its check; nothing if nothing was asked for.

    Args:
        check: `KIND=VALUE`, or None.
        settings: further fields of the check; None for those that were not given.

    Raises:
        click.BadParameter: if it is none.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if check is None and not given:
        return {}
    kind, equals, value = (check or "http").partition("=")
    if kind == "none":
        if equals or given:
            raise click.BadParameter("none goes with nothing else", param_hint="--check")
        return {"check": None}
    if kind not in _VALUES or (not value and (equals or kind not in _BARE)):
        kinds = ", ".join(
            (*(f"{name}[=...]" if name in _BARE else f"{name}=..." for name in _VALUES), "none")
        )
        raise click.BadParameter(f"{check!r} is none of {kinds}", param_hint="--check")
    if kind == "command":
        try:
            return {"check": {"type": kind, "command": shlex.split(value), **given}}
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--check") from None
    return {"check": {"type": kind, **({_VALUES[kind]: value} if value else {}), **given}}

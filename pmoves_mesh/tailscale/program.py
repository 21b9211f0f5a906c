"""Calls the tailscale program, each time with a deadline, and a key never in its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pmoves_mesh.tailscale.failures import TailscaleError, failure_of, not_installed, timed_out
from pmoves_mesh.tailscale.settings import TailscaleSettings
from pmoves_mesh.tailscale.state import TailscaleStatus, parse_status

STATUS_S: Final = 5.0
_LEEWAY_S: Final = 15.0
ON_STDIN: Final = Path("/dev/stdin")
"""Where the program reads a key that is in no file: from a pipe, so that nothing can leave it behind."""

_SECRETS: Final = ("TAILSCALE_AUTHKEY", "AUTHKEY", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")
"""What may hold the key in our own environment, and is no business of the programs that we start."""


def locate(environ: Mapping[str, str]) -> Path:
    """Returns where the program is on PATH.

    Raises:
        TailscaleError: `not_installed`, if it is nowhere.
    """
    found = shutil.which("tailscale", path=environ.get("PATH", os.defpath))
    if found is None:
        raise not_installed()
    return Path(found)


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment for programs that are not ours."""
    return {name: value for name, value in environ.items() if name not in _SECRETS}


def up_arguments(host_name: str, key: Path | None, settings: TailscaleSettings) -> tuple[str, ...]:
    """Returns how the program makes this host part of a tailnet.

    Args:
        host_name: what it is to be called there.
        key: a file that holds the key; None where it is logged in already.
        settings: everything else.

    Source: tailscale.com/kb/1241 (`tailscale up`); `file:` keeps the key out of the arguments.
    """
    optional = {
        "--auth-key": f"file:{key}" if key else "",
        "--login-server": settings.login_server or "",
        "--advertise-tags": ",".join(settings.tags),
        "--advertise-routes": ",".join(settings.advertise_routes),
    }
    return (
        "up",
        f"--hostname={host_name}",
        f"--accept-routes={'true' if settings.accept_routes else 'false'}",
        *(f"{flag}={value}" for flag, value in optional.items() if value),
        f"--timeout={settings.timeout_s}s",
    )


def rename_arguments(host_name: str) -> tuple[str, ...]:
    """Returns how the program gives a host that runs another name.

    Source: tailscale.com/kb/1080 (`tailscale set`).
    """
    return ("set", f"--hostname={host_name}")


class Tailscale:
    """The program on this host.

    Args:
        path: where it is.
        environ: this process's environment.
        rights: what goes before a command that changes something, such as `("sudo",)`.
    """

    def __init__(self, path: Path, environ: Mapping[str, str], rights: Sequence[str] = ()) -> None:
        self._path = str(path)
        # The failures are known by their English words.
        self._environ = {**without_secrets(environ), "LC_ALL": "C"}
        self._rights = tuple(rights)

    def status(self) -> TailscaleStatus:
        """Returns what it says of this host and of the others.

        Raises:
            TailscaleError: if it cannot say; of a host that is not logged in it can.
        """
        output = self._output((), ("status", "--json"), STATUS_S)
        try:
            return parse_status(output)
        except ValueError as error:
            raise TailscaleError(
                "unknown", f"the tailscale program says nothing of use: {error}", "see: tailscale status"
            ) from error

    def up(self, host_name: str, key: Path | str | None, settings: TailscaleSettings) -> None:
        """Makes this host part of the tailnet as `up_arguments` says, and returns when it is.

        Args:
            host_name: what it is to be called there.
            key: the key itself, or the file that holds it; None where it is logged in already.
            settings: everything else.

        Raises:
            TailscaleError: if it is not in time.
        """
        path, text = (ON_STDIN, key) if isinstance(key, str) else (key, "")
        arguments = up_arguments(host_name, path, settings)
        self._output(self._rights, arguments, settings.timeout_s + _LEEWAY_S, text)

    def rename(self, host_name: str) -> None:
        """Gives this host another name in its tailnet, and leaves all else as it is. Raises as `status`."""
        self._output(self._rights, rename_arguments(host_name), _LEEWAY_S)

    def down(self) -> None:
        """Takes this host out of the tailnet for now; it stays logged in. Raises as `status`."""
        self._output(self._rights, ("down",), _LEEWAY_S)

    def _output(
        self, rights: Sequence[str], arguments: Sequence[str], within_s: float, given: str = ""
    ) -> bytes:
        try:
            ended = subprocess.run(  # noqa: S603 - the program that was located
                [*rights, self._path, *arguments],
                input=given.encode(),
                capture_output=True,
                timeout=within_s,
                check=False,
                env=self._environ,
            )
        except FileNotFoundError as error:
            raise not_installed() from error
        except OSError as error:
            raise failure_of(str(error)) from error
        except subprocess.TimeoutExpired as error:
            raise timed_out(f"tailscale {arguments[0]}", within_s) from error
        if ended.returncode != 0:
            spoken = (ended.stderr + b"\n" + ended.stdout).decode(errors="replace")
            # Keys of Headscale have no form to be known by.
            raise failure_of(spoken.replace(given.strip(), "***") if given.strip() else spoken)
        return ended.stdout

"""What `tailscale setup` does to this host: it shows the commands, asks, and runs them."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec
from dotenv import dotenv_values

from pmoves_mesh.agent.trust.joining import nats_urls
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import StartError
from pmoves_mesh.pki.files import write_whole
from pmoves_mesh.tailscale.failures import TailscaleError, stopped
from pmoves_mesh.tailscale.installing import Step, System, install_steps, start_steps
from pmoves_mesh.tailscale.program import (
    Tailscale,
    locate,
    rename_arguments,
    up_arguments,
    without_secrets,
)
from pmoves_mesh.tailscale.state import TailscaleStatus

MESH_FILE: Final = "mesh_config.json"
STEP_S: Final = 600.0
_DAEMON_S: Final = 15.0
_POLL_S: Final = 0.2
_RELEASE: Final = Path("/etc/os-release")
_LOGGED_IN: Final = frozenset({"Running", "Starting"})
_PASSING: Final = frozenset({"daemon_down", "starting"})
"""What passes by itself while Tailscale starts."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What has to be done to this host.

    Attributes:
        rights: what goes before a command that needs the rights of root.
        steps: installing and starting Tailscale.
        up: whether this host has yet to become part of the tailnet.
        logged_in: whether it needs no key for that, since it was only taken down; None if nobody can say.
        rename: whether it is in the tailnet under another name than this node's.
        tags: of this host in the tailnet, where they are others than those set; None where they are not.
    """

    rights: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    up: bool = False
    logged_in: bool | None = False
    rename: bool = False
    tags: tuple[str, ...] | None = None

    @property
    def needs_key(self) -> bool:
        """Whether nothing comes of it without a key."""
        return self.up and self.logged_in is False

    @property
    def uses_key(self) -> bool:
        """Whether it can do more with a key: only who logs in anew gets other tags."""
        return (self.up and not self.logged_in) or self.tags is not None

    def lines(self, config: Config, key: Path | None) -> list[str]:
        """Returns every command that will be run, as one would type it; the key itself is in none."""
        commands = [step.command(self.rights) for step in self.steps]
        if self.rename:
            commands.append((*self.rights, "tailscale", *rename_arguments(config.node)))
        if self.up or self.tags is not None:
            arguments = up_arguments(config.node, key, config.tailscale)
            commands.append((*self.rights, "tailscale", *arguments))
        return [shlex.join(command) for command in commands]


def this_system() -> System:
    """Returns what has to be known of this host."""
    release = {key: value or "" for key, value in dotenv_values(_RELEASE).items()}
    return System(platform.system(), release, lambda program: shutil.which(program) is not None)


def root_rights() -> tuple[str, ...]:
    """Returns what gives a command the rights of root; nobody is asked for a password without a terminal."""
    if os.geteuid() == 0 or shutil.which("sudo") is None:
        return ()
    return ("sudo",) if sys.stdin.isatty() else ("sudo", "-n")


@contextmanager
def script_place() -> Iterator[str]:
    """Gives a path for a downloaded script, which nobody else can write to; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pmoves-mesh-") as directory:
        yield str(Path(directory) / "install-tailscale.sh")


def make_plan(config: Config, system: System, rights: tuple[str, ...], script: str) -> Plan:
    """Returns what has to be done, from how this host is now.

    Args:
        config: this host's settings.
        system: what has to be known of it.
        rights: what goes before a command that needs the rights of root.
        script: where a downloaded script may lie.

    Raises:
        TailscaleError: if that cannot be found out, or nobody here can mend it.
    """
    try:
        status = Tailscale(locate(os.environ), os.environ).status()
    except TailscaleError as error:
        if error.kind == "not_installed":
            steps = (*install_steps(system, script), *start_steps(system))
            return Plan(rights=rights, steps=steps, up=True)
        steps = start_steps(system)
        if error.kind != "daemon_down" or not steps:
            raise
        return Plan(rights=rights, steps=steps, up=True, logged_in=None)
    if not status.running:
        logged_in = status.backend_state in {"Stopped", *_LOGGED_IN}
        return Plan(rights=rights, up=True, logged_in=logged_in)
    myself, wanted = status.myself, config.tailscale.tags
    if myself is None:
        return Plan(rights=rights)
    tags = tuple(myself.tags or ())
    return Plan(
        rights=rights,
        rename=myself.host_name.lower() != config.node,
        tags=tags if set(tags) != set(wanted) else None,
    )


def carry_out(plan: Plan, config: Config, key: Path | str | None) -> TailscaleStatus:
    """Does it, and returns how Tailscale is then.

    Args:
        plan: what to do.
        config: this host's settings.
        key: for joining: the key itself, or a file that holds it; None where none is needed.

    Raises:
        StartError: if a step fails.
        TailscaleError: if Tailscale is not up in time.
    """
    for step in plan.steps:
        _run(step, plan.rights)
    program = Tailscale(locate(os.environ), os.environ, plan.rights)
    if plan.rename:
        program.rename(config.node)
    if plan.up:
        _join(program, config, key)
    elif plan.tags is not None:
        _up(program, config, key)
    return _wait(program, stopped, config.tailscale.timeout_s)


def key_needed() -> StartError:
    """Returns what to say where nothing comes of it without a key."""
    return StartError(
        "a key is needed: make one at https://login.tailscale.com/admin/settings/keys, then: "
        "make mesh-setup AUTHKEY=... (or MESH_NETWORK_MODE=nats, without Tailscale)"
    )


def _join(program: Tailscale, config: Config, key: Path | str | None) -> None:
    """Makes this host part of the tailnet, if it is not since the daemon was started."""
    state = _wait(program, _undecided, _DAEMON_S).backend_state
    if state == "Stopped":  # it is logged in, whatever became of the key since
        _up(program, config, None)
    elif state not in _LOGGED_IN:
        if key is None:
            raise key_needed()
        _up(program, config, key)


def _up(program: Tailscale, config: Config, key: Path | str | None) -> None:
    """Has the program make this host part of the tailnet.

    Against some control servers it tries a key that is refused until its time is up. Why that is, the
    daemon remembers.
    """
    try:
        program.up(config.node, key, config.tailscale)
    except TailscaleError as error:
        if error.kind != "timeout":
            raise
        raise _remembered(program) or error from None


def _remembered(program: Tailscale) -> TailscaleError | None:
    """Returns why this host is not part of the tailnet, if the daemon knows more than that it is not."""
    try:
        problem = stopped(program.status(), SystemClock().now_ms())
    except TailscaleError:
        return None
    known = problem is not None and problem.kind not in {*_PASSING, "not_logged_in"}
    return problem if known else None


def _undecided(status: TailscaleStatus, now_ms: int) -> TailscaleError | None:
    """Returns a problem while the daemon does not know yet whether it is logged in."""
    return stopped(status, now_ms) if status.backend_state == "NoState" else None


def _wait(
    program: Tailscale, failure: Callable[[TailscaleStatus, int], TailscaleError | None], within_s: float
) -> TailscaleStatus:
    """Returns the status once the daemon answers and `failure` finds nothing.

    Raises:
        TailscaleError: what does not pass by itself, or did not in that time.
    """
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + within_s
    while True:
        try:
            status = program.status()
            problem = failure(status, clock.now_ms())
            if problem is None:
                return status
        except TailscaleError as error:
            problem = error
        if problem.kind not in _PASSING or clock.monotonic_s() >= deadline_s:
            raise problem
        time.sleep(_POLL_S)


def _run(step: Step, rights: tuple[str, ...]) -> None:
    click.echo(step.what)
    try:
        ended = subprocess.run(  # noqa: S603 - what was shown, and agreed to
            step.command(rights), timeout=STEP_S, check=False, env=without_secrets(os.environ)
        )
    except OSError as error:
        raise StartError(f"{step.line(rights)}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise StartError(f"{step.line(rights)} did not end within {STEP_S:.0f} s") from error
    if ended.returncode != 0:
        raise StartError(f"this failed with exit code {ended.returncode}: {step.line(rights)}")


def write_mesh_file(config: Config, status: TailscaleStatus | None) -> Path:
    """Writes what other programs of PMOVES read about this host's mesh, and returns where.

    Args:
        config: this host's settings.
        status: of Tailscale; None without it.

    Raises:
        PkiError: if it cannot be written.
    """
    myself = status.myself if status is not None else None
    fields = {
        "mesh_name": config.mesh,
        "hostname": config.node,
        "tailscale_ip": myself.ipv4 if myself is not None else None,
        "tailscale_ipv6": myself.ipv6 if myself is not None else None,
        "nats_url": ",".join(config.nats_servers),
        "nats_external_url": ",".join(_from_outside(config)),
        "mesh_mode": config.tailscale.mode,
        "created_at": iso(SystemClock().now_ms()),
    }
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = config.data_dir / MESH_FILE
    write_whole(path, msgspec.json.format(msgspec.json.encode(fields)) + b"\n", mode=0o644)
    return path


def _from_outside(config: Config) -> tuple[str, ...]:
    try:
        return nats_urls(config)
    except StartError:
        return config.nats_external  # nobody else reaches it


def require_program() -> Tailscale:
    """Returns the program with the rights to change something; raises as `locate`."""
    return Tailscale(locate(os.environ), os.environ, root_rights())

"""Hosts that join a mesh with a token, for end-to-end tests."""

from __future__ import annotations

from typing import Any, Final

OPEN: Final = {"SERVICE_REGISTRY_HOST": "0.0.0.0", "PMOVES_NATS_HOST": "0.0.0.0"}
"""Settings of a main host that others reach."""


def token_of(host: Any, *options: str) -> str:
    done = host.run("token", "create", *options)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return str(done.stdout.strip())


def joined(host: Any, token: str) -> None:
    done = host.run("join", token)
    assert done.returncode == 0, done.stderr


def refused(host: Any, *arguments: str) -> str:
    """Returns the one line with which a command is refused."""
    done = host.run(*arguments)
    assert done.returncode == 1, done.stdout
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return str(done.stderr)


def knows(host: Any, service: str) -> bool:
    """Whether a host would send a client to an instance of a service."""
    return bool(host.run("service", service).returncode == 0)

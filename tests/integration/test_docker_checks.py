"""Docker checks against a real engine: a container's own health check becomes that of its instance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agents import eventually
from builders import instance
from nats_server import IMAGE, build_image, engine_problem

from pmoves_mesh.agent.health.docker_probe import DockerProbe
from pmoves_mesh.agent.health.probes import ask
from pmoves_mesh.core.check import DockerCheck
from pmoves_mesh.core.health import Finding

EVERY_NS = 200_000_000
TIMEOUT_S = 10.0


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """What the container's health check reads; it passes as long as it is a configuration."""
    path = tmp_path / "checked" / "nats.conf"
    path.parent.mkdir()
    path.write_text("port: 4222\n")
    return path


@pytest.fixture
def container(settings: Path) -> Iterator[Any]:
    """A container that runs, with a health check of its own."""
    if problem := engine_problem():
        pytest.skip(problem)
    build_image()
    import docker  # noqa: PLC0415 - it is needed only where there is an engine

    client = docker.from_env()
    health = {
        "test": ["CMD", "/nats-server", "-t", "-c", "/checked/nats.conf"],
        "interval": EVERY_NS,
        "timeout": 5_000_000_000,
        "retries": 1,
    }
    volumes = {str(settings.parent): {"bind": "/checked", "mode": "ro"}}
    running = client.containers.run(IMAGE, detach=True, healthcheck=health, volumes=volumes)
    try:
        yield running
    finally:
        with suppress(docker.errors.NotFound):
            running.remove(force=True)
        client.close()


def found(container: str) -> Finding:
    async def asked() -> Finding:
        async with DockerProbe() as probe:
            return await ask(probe, instance(), DockerCheck(container=container), TIMEOUT_S)

    return asyncio.run(asked())


def becomes(container: str, finding: Finding) -> None:
    eventually(lambda: found(container) == finding, finding.output)


def test_an_instance_is_as_its_container_says(container: Any, settings: Path):
    becomes(container.name, Finding(passed=True, output="the container is healthy"))
    settings.write_text(json.dumps("this is no configuration"))
    becomes(container.id, Finding(passed=False, output="the container is unhealthy"))


def test_a_container_that_stands_still_or_ended_or_is_gone_fails(container: Any):
    container.pause()
    becomes(container.name, Finding(passed=False, output="the container is paused"))
    container.unpause()
    container.kill()
    becomes(container.name, Finding(passed=False, output="the container does not run"))
    container.remove(force=True)
    assert found(container.name) == Finding(passed=False, output="no such container")

"""Fixtures that every kind of test may use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_server import ContainerNatsServer, NatsServer, build_image, engine_problem


@pytest.fixture
def nats_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer | ContainerNatsServer]:
    """One real nats-server with JetStream; indirect parameter `container` runs it in a container."""
    if getattr(request, "param", "wheel") == "wheel":
        with NatsServer(tmp_path) as server:
            yield server
        return
    problem = engine_problem()
    if problem:
        pytest.skip(problem)
    build_image()
    with ContainerNatsServer(tmp_path) as container:
        yield container

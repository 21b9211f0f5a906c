"""Fixtures that every kind of test may use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from nats_server import ContainerNatsServer, NatsServer, build_image, engine_problem

settings.register_profile(
    "mesh",
    max_examples=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("mesh")

HERE = Path(__file__).parent
LONGEST = (
    "simulation/test_simulation.py",
    "e2e/test_cluster_life.py",
    "e2e/test_trust_life.py",
    "integration/test_leaf_life.py",
    "e2e/test_benchmarks.py",
    "e2e/test_container_image.py",
    "integration/test_containers.py",
    "integration/test_liveness.py",
    "integration/test_faults.py",
    "e2e/test_lost_hosts.py",
    "e2e/test_cli.py",
    "cluster/test_killed_agents.py",
    "integration/test_doctor_breaks.py",
    "e2e/test_join.py",
    "integration/test_existing_server.py",
    "integration/test_console.py",
)
"""The files that take longest, the longest first; the order of all others makes no difference."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the longest files begin first, where several processes each take a file at a time.

    Hosts of a test have a network, or ports, of their own, so that files need not wait for one another.
    """
    files = [item.path.relative_to(HERE).as_posix() for item in items]
    ranks = {file: rank for rank, file in enumerate(LONGEST)}
    order = sorted(range(len(items)), key=lambda place: ranks.get(files[place], len(ranks)))
    items[:] = [items[place] for place in order]


@pytest.fixture(autouse=True)
def log_settings() -> Iterator[None]:
    """Takes back what a test, or a command that it runs in this process, sets for the log."""
    was_configured, before = structlog.is_configured(), structlog.get_config()
    yield
    if was_configured:
        structlog.configure(**before)
    else:
        structlog.reset_defaults()


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

"""Fixtures around three nats-servers that keep one stream together."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))

import namespaces
from hosted import HostedMesh
from places import Place
from servers import SERVERS, Cluster

AGENTS_MAX = 3


@pytest.fixture
def places() -> Iterator[tuple[Place, ...]]:
    """Places for the servers, then for the agents: hosts of their own where those can be made."""
    with ExitStack() as stack:
        count = SERVERS + AGENTS_MAX
        if namespaces.problem():
            yield tuple(Place() for _ in range(count))
        else:
            yield tuple(map(Place, stack.enter_context(namespaces.network(count))))


@pytest.fixture
def cluster(tmp_path: Path, places: tuple[Place, ...]) -> Iterator[Cluster]:
    """Three servers that hold nothing yet."""
    with Cluster(tmp_path / "servers", places[:SERVERS]) as made:
        yield made


@pytest.fixture
def mesh(tmp_path: Path, places: tuple[Place, ...]) -> Iterator[HostedMesh]:
    """Three servers, and places for agents."""
    cluster = Cluster(tmp_path / "servers", places[:SERVERS])
    with HostedMesh(tmp_path / "hosts", cluster, places[SERVERS:]) as made:
        yield made


@pytest.fixture
def hosts(places: tuple[Place, ...]) -> None:
    """Skips a test that needs hosts of their own, where none can be made."""
    if any(place.host is None for place in places):
        pytest.skip(namespaces.problem())

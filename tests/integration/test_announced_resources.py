"""A change of what a host has is a new announcement; one that has not changed is only repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_support import NODE, Served, eventually, served

from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.core.event import NodeAnnounced
from pmoves_mesh.core.names import CAPABILITIES_MAX
from pmoves_mesh.core.resources import Gpu, Resources
from pmoves_mesh.log.memory import MemoryLog

SMALL = Resources(arch="arm64", cpu_cores=4)
LARGE = Resources(
    arch="arm64", cpu_cores=4, gpu_count=1, gpu=(Gpu(vendor="amd", memory_gb=8, runtime="rocm"),)
)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as mesh:
        yield mesh


def announcer_of(mesh: Served, cwd: Path, **settings: str) -> Announcer:
    config = load({"MESH_HOSTNAME": NODE, "ANNOUNCE_SEC": "1", **settings}, cwd)
    registrations = mesh.registrations
    log = MemoryLog(mesh.client)
    return Announcer(config, registrations._author, registrations, mesh.replica, log, SystemClock())


def told(mesh: Served) -> NodeAnnounced | None:
    node = mesh.replica.registry.nodes.get(NODE)
    return node.announced if node else None


async def test_what_has_changed_is_announced_and_what_has_not_is_repeated(mesh: Served, tmp_path: Path):
    announcer = announcer_of(mesh, tmp_path, NODE_CAPABILITIES="rag,gpu")
    announcer.resources = SMALL
    running = asyncio.create_task(announcer.run())

    async def repeated() -> bool:
        return mesh.replica.outcomes[NodeAnnounced.subject, "repeated"] > 0

    await eventually(repeated, "it is repeated")
    first = told(mesh)
    assert first is not None
    assert (first.resources, first.capabilities) == (
        {"arch": "arm64", "cpu_cores": 4},
        ("rag", "gpu", "arm64"),
    )
    announcer.resources = LARGE
    announcer.restate()

    async def changed() -> bool:
        announced = told(mesh)
        return announced is not None and announced.resources.get("gpu_count") == 1

    await eventually(changed, "it is announced")
    later = told(mesh)
    assert later is not None
    assert later.stamp > first.stamp
    assert later.capabilities == ("rag", "gpu", "arm64", "rocm", "vram:8gb")
    assert later.caps == dict.fromkeys(later.capabilities, True)
    running.cancel()


async def test_what_is_set_is_never_pushed_out_by_what_is_detected(mesh: Served, tmp_path: Path):
    names = [f"skill-{number}" for number in range(CAPABILITIES_MAX)]
    announcer = announcer_of(mesh, tmp_path, NODE_CAPABILITIES=",".join(names))
    announcer.resources = LARGE
    await announcer.announce()
    announced = told(mesh)
    assert announced is not None
    assert announced.capabilities == tuple(names)

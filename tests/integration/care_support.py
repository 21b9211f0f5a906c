"""A node whose instances are cared for as an agent does it: checks, reports, maintenance, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from http_support import HOST, Answer, PinnedClock, Served, served

from pmoves_mesh.agent.health.checks import checks_of
from pmoves_mesh.agent.health.maintenance import Maintenance
from pmoves_mesh.agent.health.prober import Prober
from pmoves_mesh.agent.health.removal import Removal
from pmoves_mesh.agent.health.ttl_check import TtlWatch
from pmoves_mesh.views.http.app import serving


@dataclass
class Cared:
    """A node and what looks after its instances; `port` is that of its HTTP API."""

    node: Served
    prober: Prober
    reports: TtlWatch
    maintenance: Maintenance
    port: int = 0

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        async with self.node.session.request(
            method, f"http://{HOST}:{self.port}{path}", json=body
        ) as response:
            raw = await response.read()
            return Answer(response.status, response.headers, msgspec.json.decode(raw) if raw else None)

    async def register(self, **fields: Any) -> Answer:
        return await self.ask("POST", "/api/services", {"name": "rag", "host": HOST, **fields})

    async def put(self, path: str, **body: Any) -> Answer:
        return await self.ask("PUT", path, body)

    async def health(self, name: str = "rag", instance_id: str | None = None) -> tuple[str, str]:
        """Returns the health status and output of an instance, as it is listed; empty if it is not."""
        found = (await self.ask("GET", f"/api/services?name={name}")).body["services"]
        shown = (
            (one["health_status"], one["health_output"]) for one in found if instance_id in {None, one["id"]}
        )
        return next(shown, ("", ""))


@asynccontextmanager
async def cared(data_dir: Path, *, command_checks: bool = True) -> AsyncIterator[Cared]:
    """A node `alpha` on the memory log whose instances are looked after."""
    async with (
        served(data_dir) as node,
        checks_of(frozenset(), tuple, command_checks=command_checks) as probe,
    ):
        clock = PinnedClock()
        registrations = node.registrations
        registrations.command_checks = command_checks
        registrations.restore(await node.store.registrations())
        marks = data_dir / "maintenance.json"
        maintenance = Maintenance(marks, "alpha", registrations, node.replica, clock)
        await maintenance.load()
        prober = Prober(registrations, clock, probe, seed="alpha")
        here = Cared(node, prober, TtlWatch(registrations, clock), maintenance)
        facade = replace(node.facade, reporter=here.reports, maintainer=maintenance)
        async with serving(facade, HOST, 0) as here.port, asyncio.TaskGroup() as tasks:
            removal = Removal(registrations, here.reports.heard_s, clock)
            loops = (prober.run, here.reports.run, removal.run, maintenance.run)
            running = [tasks.create_task(loop()) for loop in loops]
            try:
                yield here
            finally:
                for task in running:
                    task.cancel()

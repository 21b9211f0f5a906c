"""Checks of every kind on a real node: registered over HTTP, made against real servers and programs."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from builders import instance
from care_support import Cared, cared
from http_support import HOST, eventually, on_both_loops
from probe_targets import says, target

from pmoves_mesh.agent.health.command_probe import CommandProbe
from pmoves_mesh.agent.health.docker_probe import DockerProbe
from pmoves_mesh.agent.health.probes import ask
from pmoves_mesh.agent.health.tcp_probe import TcpProbe
from pmoves_mesh.core.check import CommandCheck, DockerCheck, TcpCheck

RAG = instance(host=HOST, port=1)
TIMEOUT_S = 10.0


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Cared]:
    async with cared(tmp_path) as made:
        yield made


async def becomes(node: Cared, status: str, output: str) -> None:
    async def found() -> bool:
        return await node.health() == (status, output)

    await eventually(found, f"{status}: {output}; it is {await node.health()}")


# HTTP


@pytest.mark.parametrize(
    ("status", "body", "check", "passed", "output"),
    [
        (200, "all is well", {"expect_body": "is well"}, "healthy", "HTTP 200"),
        (200, "all is lost", {"expect_body": "is well"}, "unhealthy", "HTTP 200 without the expected text"),
        (404, "", {"expect_status": 404}, "healthy", "HTTP 404"),
        (302, "", {"expect_status": 302}, "healthy", "HTTP 302"),
        (200, "", {"expect_status": 204}, "unhealthy", "HTTP 200, not 204"),
    ],
)
async def test_an_http_check_passes_with_the_status_and_the_text_that_it_expects(
    node: Cared, status: int, body: str, check: dict[str, Any], passed: str, output: str
):
    async with target(says(status, body, Location="/elsewhere")) as server:
        check = {"type": "http", "url": server.url, "fall": 1, **check}
        answer = await node.register(port=server.port, check=check)
        assert (answer.status, answer.body["service"]["health_url"]) == (200, server.url)
        await becomes(node, passed, output)


async def test_the_expected_text_is_looked_for_in_64_kib_and_no_further(node: Cared):
    async with target(says(200, "x" * 65_536 + "well")) as server:
        await node.register(check={"type": "http", "url": server.url, "fall": 1, "expect_body": "well"})
        await becomes(node, "unhealthy", "HTTP 200 without the expected text")


# TCP


async def test_a_tcp_check_passes_as_long_as_the_port_takes_connections(node: Cared):
    async with target(says(200)) as server:
        check = {"type": "tcp", "interval_s": 1, "fall": 1}
        await node.register(port=server.port, check=check)
        await becomes(node, "healthy", f"port {server.port} takes connections")
    await becomes(node, "unhealthy", "refused")


@pytest.mark.parametrize(
    ("host", "output"),
    [
        ("169.254.169.254", "not probed: its address is link-local"),
        ("::ffff:169.254.169.254", "not probed: its address is link-local"),
        ("100.100.100.200", "not probed: its address is a cloud's metadata service"),
        ("0.0.0.0", "not probed: its address is no host's"),
    ],
)
async def test_a_tcp_check_goes_nowhere_that_an_http_check_may_not(host: str, output: str):
    found = await TcpProbe(())(instance(host=host, port=80), TcpCheck())
    assert (found.passed, found.output) == (None, output)


async def test_a_name_that_leads_to_a_metadata_service_is_not_connected_to(monkeypatch: pytest.MonkeyPatch):
    async def rebound(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebound)
    found = await TcpProbe(())(instance(host="nas.example", port=80), TcpCheck())
    assert found.output == "not probed: its host leads to an address that must not be asked"


async def test_an_instance_without_a_port_cannot_have_a_tcp_check_without_one(node: Cared):
    answer = await node.register(port=0, check={"type": "tcp"})
    assert (answer.status, answer.body["field"]) == (422, "check.port")


# Commands


def program(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


async def run(code: str, timeout_s: float = TIMEOUT_S) -> tuple[bool | None, str]:
    found = await ask(CommandProbe(allowed=True), RAG, CommandCheck(command=program(code)), timeout_s)
    return found.passed, found.output


@pytest.mark.parametrize(
    ("code", "passed", "output"),
    [
        ("print('OK - 3 ms')", True, "exit code 0: OK - 3 ms"),
        ("print('WARN'); raise SystemExit(1)", True, "exit code 1: WARN"),
        ("print('CRITICAL'); raise SystemExit(2)", False, "exit code 2: CRITICAL"),
        ("import sys; sys.stderr.write('no\\n'); sys.exit(3)", False, "exit code 3: no"),
        ("import os; os.kill(os.getpid(), 15)", False, "ended by signal 15"),
        ("print(); print('\\x1b[31mred'); print('more')", True, "exit code 0: ?[31mred"),
        ("pass", True, "exit code 0"),
    ],
)
async def test_the_exit_code_and_the_first_line_of_a_command_are_what_it_says(
    code: str, passed: bool, output: str
):
    assert await run(code) == (passed, output)


async def test_of_what_a_command_says_4_kib_are_kept_and_the_rest_holds_nobody_up():
    passed, output = await run("print('x' * 10_000_000)")
    assert (passed, output) == (True, "exit code 0: " + "x" * 4096)


async def test_a_command_sees_nothing_of_the_agents_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SERVICE_REGISTRY_TOKEN", "swordfish")
    _, output = await run("import os; print(*sorted(set(os.environ) - {'LC_CTYPE'}), os.getcwd())")
    assert output == "exit code 0: LANG PATH /"


async def test_a_command_is_no_shell_line():
    found = await CommandProbe(allowed=True)(RAG, CommandCheck(command=("echo", "$HOME;", "id")))
    assert found.output == "exit code 0: $HOME; id"


async def test_a_program_that_is_not_there_fails_and_says_so():
    found = await CommandProbe(allowed=True)(RAG, CommandCheck(command=("/nowhere",)))
    assert (found.passed, found.output) == (False, "cannot be run (No such file or directory)")


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


FAMILY = "import os, sys, time; child = os.fork(); open({path!r}, 'a').write(f'{{os.getpid()}} '); "


@pytest.mark.parametrize(
    ("ending", "timeout_s"), [("time.sleep(60)", 0.5), ("time.sleep(60 if child == 0 else 0)", TIMEOUT_S)]
)
@on_both_loops
async def test_whatever_a_command_started_ends_with_it(tmp_path: Path, ending: str, timeout_s: float):
    path = tmp_path / "pids"
    passed, output = await run(FAMILY.format(path=str(path)) + ending, timeout_s)
    assert (passed, output) in {(False, "timed out after 0.5 s"), (True, "exit code 0")}
    pids = [int(pid) for pid in path.read_text().split()]

    async def gone() -> bool:
        return not any(map(is_alive, pids))

    await eventually(gone, "the whole process group has ended")


@on_both_loops
async def test_a_command_leaves_no_file_open_whatever_its_end():
    await run("pass")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for code, timeout_s in (("pass", TIMEOUT_S), ("import time; time.sleep(60)", 0.3), ("print('x')", 1e-4)):
        await run(code, timeout_s)
    await CommandProbe(allowed=True)(RAG, CommandCheck(command=("/nowhere",)))

    async def closed() -> bool:
        return len(list(Path("/proc/self/fd").iterdir())) <= before

    await eventually(closed, "every pipe is closed")


@on_both_loops
async def test_a_process_that_left_the_group_does_not_hold_the_check_up():
    passed, output = await run("import os, time; os.fork() or (os.setsid(), time.sleep(3)); print('done')")
    assert (passed, output) == (True, "exit code 0: done")


async def test_a_command_check_makes_an_instance_healthy_and_unhealthy(node: Cared, tmp_path: Path):
    flag = tmp_path / "well"
    flag.touch()
    check = {"type": "command", "command": ["ls", str(flag)], "interval_s": 1, "fall": 1}
    assert (await node.register(check=check)).status == 200
    await becomes(node, "healthy", f"exit code 0: {flag}")
    flag.unlink()

    async def fails() -> bool:
        return (await node.health())[0] == "unhealthy"

    await eventually(fails, "the command fails")


async def test_without_the_setting_no_command_is_registered_or_run(tmp_path: Path):
    check = {"type": "command", "command": ["touch", str(tmp_path / "ran")]}
    async with cared(tmp_path, command_checks=False) as node:
        answer = await node.register(check=check)
        assert (answer.status, answer.body["field"]) == (422, "check.type")
        assert "PMOVES_COMMAND_CHECKS=1" in answer.body["detail"]
    async with cared(tmp_path, command_checks=True) as node:
        assert (await node.register(check={**check, "command": ["true"]})).status == 200
        await becomes(node, "healthy", "exit code 0")
    async with cared(tmp_path, command_checks=False) as node:
        await becomes(node, "unknown", "not probed: PMOVES_COMMAND_CHECKS=1 is not set")
    assert not (tmp_path / "ran").exists()


# Docker


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """An engine on a socket of its own; what it says of each container can be set."""
    containers: dict[str, Any] = {"socket": tmp_path / "engine.sock"}

    async def show(request: web.Request) -> web.Response:
        found = containers.get(request.match_info["name"])
        if isinstance(found, bytes):
            return web.Response(body=found)
        return web.json_response(found or {"message": "No such container"}, status=200 if found else 404)

    app = web.Application()
    app.router.add_get("/containers/{name}/json", show)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(containers["socket"])).start()
    yield containers
    await runner.cleanup()


@pytest.mark.parametrize(
    ("container", "passed", "output"),
    [
        ({"State": {"Running": True, "Health": {"Status": "healthy"}}}, True, "the container is healthy"),
        (
            {"State": {"Running": True, "Health": {"Status": "unhealthy"}}},
            False,
            "the container is unhealthy",
        ),
        ({"State": {"Running": True, "Health": {"Status": "starting"}}}, None, "the container is starting"),
        ({"State": {"Running": True, "Health": {"Status": "none"}}}, True, "the container runs"),
        ({"State": {"Running": True}}, True, "the container runs"),
        ({"State": {"Running": True, "Status": "paused"}}, False, "the container is paused"),
        ({"State": {"Running": False, "Health": {"Status": "healthy"}}}, False, "the container does not run"),
        (None, False, "no such container"),
        (b"{", None, "not probed: what the Docker engine answers is not understood"),
        (b"[" * 2_000_000, None, "not probed: what the Docker engine answers is not understood"),
    ],
)
async def test_a_container_is_as_well_as_its_engine_says(
    engine: dict[str, Any], container: Any, passed: bool | None, output: str
):
    engine["web"] = container
    async with DockerProbe((engine["socket"],)) as probe:
        found = await probe(RAG, DockerCheck(container="web"))
    assert (found.passed, found.output) == (passed, output)


async def test_without_an_engine_a_container_is_unknown(tmp_path: Path):
    async with DockerProbe((tmp_path / "absent.sock",)) as probe:
        found = await probe(RAG, DockerCheck(container="web"))
    assert found.passed is None
    assert found.output.startswith("not probed: no Docker engine at ")


# Whatever their kind


@pytest.mark.parametrize(
    ("check", "field"),
    [
        ({"type": "http"}, "check.url"),
        ({"type": "ping"}, "check.type"),
        ({"type": "http", "url": "ftp://x"}, "check.url"),
        ({"type": "tcp", "port": 1, "interval_s": 0.5}, "check.interval_s"),
        ({"type": "tcp", "port": 1, "interval_s": 3601}, "check.interval_s"),
        ({"type": "tcp", "port": 1, "timeout_s": 10}, "check.timeout_s"),
        ({"type": "tcp", "port": 1, "rise": 0}, "check.rise"),
        ({"type": "tcp", "port": 1, "fall": 11}, "check.fall"),
        ({"type": "tcp", "prot": 1}, "check.prot"),
        ({"type": "command", "command": "rm -rf"}, "check.command"),
        ({"type": "docker", "container": "../images"}, "check.container"),
        ({"type": "ttl"}, "check.ttl_s"),
        ([], "check"),
    ],
)
async def test_a_bad_check_is_refused_and_its_field_named(node: Cared, check: Any, field: str):
    answer = await node.register(check=check)
    assert (answer.status, answer.body["field"]) == (422, field)


async def test_a_check_outlives_a_restart_and_a_registration_that_says_nothing_of_it(tmp_path: Path):
    check = {"type": "command", "command": ["echo", "well"]}
    async with cared(tmp_path) as node:
        await node.register(id="one", check=check)
        await becomes(node, "healthy", "exit code 0: well")
    async with cared(tmp_path) as node:
        await node.register(id="one", port=2)
        held = node.node.registrations.held
        assert [one.check for one in held.values()] == [CommandCheck(command=("echo", "well"))]
        assert (await node.health())[0] == "healthy"
        await node.register(id="one", check=None)
        assert [one.check for one in held.values()] == [None]
        assert await node.health() == ("unknown", "")


async def test_nothing_of_a_check_is_in_the_stream_or_shown(node: Cared):
    await node.register(check={"type": "command", "command": ["true", "swordfish"]})
    await becomes(node, "healthy", "exit code 0")
    messages, _ = node.node.broker.after(0, 1000)
    assert b"swordfish" not in b"".join(one.sealed.payload for one in messages)
    assert "swordfish" not in str((await node.ask("GET", "/api/status")).body)


async def test_another_pace_keeps_what_was_found_and_another_question_does_not(node: Cared):
    async with target(says(200)) as server:
        check = {"type": "http", "url": server.url}
        await node.register(check=check)
        await becomes(node, "healthy", "HTTP 200")
        slower = await node.register(check={**check, "interval_s": 60})
        assert slower.body["service"]["health_status"] == "healthy"
        other = await node.register(check={"type": "tcp", "port": server.port})
        assert other.body["service"]["health_status"] == "unknown"
        await becomes(node, "healthy", f"port {server.port} takes connections")

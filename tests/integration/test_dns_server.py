"""The sockets of DNS: UDP and TCP on one port, what a client may take, and a port that another has."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
from agents import AgentProcess, eventually
from dns_support import Answering, hosts, question, texts
from http_support import on_both_loops, own_address
from nats_server import NatsServer
from ports import free_port

from pmoves_mesh.errors import StartError
from pmoves_mesh.views.dns.server import serving
from pmoves_mesh.views.dns.streams import StreamBounds

HOST = "127.0.0.1"
DEADLINE_S = 10.0
QUESTION = question("rag.service", "SRV")


@asynccontextmanager
async def answering(
    count: int = 2, *, host: str = HOST, bounds: StreamBounds | None = None
) -> AsyncIterator[int]:
    """Answers for a mesh with some instances of `rag`; yields the port."""
    mesh = Answering()
    mesh.hold(*hosts(count))
    async with serving(mesh.responder, host, 0, bounds or StreamBounds()) as port:
        yield port


def framed(query: dns.message.Message) -> bytes:
    data = query.to_wire()
    return len(data).to_bytes(2, "big") + data


async def next_answer(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(DEADLINE_S):
        size = int.from_bytes(await reader.readexactly(2), "big")
        return dns.message.from_wire(await reader.readexactly(size))


async def ends(reader: asyncio.StreamReader) -> bool:
    """Waits until the server has ended a connection; returns whether nothing came before."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


@on_both_loops
async def test_one_port_answers_over_udp_and_over_tcp():
    async with answering() as port:
        for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
            answer = await ask(QUESTION, HOST, timeout=DEADLINE_S, port=port)
            assert len(texts(answer)) == 2


async def test_a_client_that_is_told_so_comes_back_over_tcp():
    async with answering(60) as port:
        answer, over_tcp = await dns.asyncquery.udp_with_fallback(QUESTION, HOST, DEADLINE_S, port)
        assert over_tcp
        assert len(texts(answer)) == 60


@on_both_loops
async def test_questions_may_come_one_behind_the_other_and_in_pieces():
    async with answering() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        queries = [question("rag.service", kind) for kind in ("A", "SRV", "TXT", "A", "MX")]
        sent = b"".join(map(framed, queries))
        for begin in range(0, len(sent), 7):
            writer.write(sent[begin : begin + 7])
            await writer.drain()
        for query in queries:
            answer = await next_answer(reader)
            assert answer.id == query.id
            assert answer.question == query.question
        writer.close()


@on_both_loops
async def test_who_takes_no_answers_is_asked_no_more_and_cut_off():
    async with answering(300, bounds=StreamBounds(idle_s=0.3)) as port:
        _, writer = await asyncio.open_connection(HOST, port, limit=1024)

        async def ask_for_ever() -> None:
            while True:
                writer.write(framed(QUESTION) * 50)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_for_ever(), DEADLINE_S)
        writer.transport.abort()


@on_both_loops
async def test_who_says_nothing_is_cut_off():
    async with answering(bounds=StreamBounds(idle_s=0.05)) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(framed(QUESTION)[:-1])
        assert await ends(reader)
        writer.close()


@pytest.mark.parametrize("sent", [b"\0\x05hello", b"\xff\xff", b"\0\0"])
async def test_what_is_no_question_ends_the_connection(sent: bytes):
    async with answering() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(sent)
        assert await ends(reader)
        writer.close()


@pytest.mark.parametrize(
    "bounds", [StreamBounds(connections_max=2), StreamBounds(connections_per_host_max=2)], ids=["all", "host"]
)
async def test_no_more_connections_are_open_than_may_be_and_one_that_ends_makes_room(bounds: StreamBounds):
    async with answering(bounds=bounds) as port:
        kept = [await asyncio.open_connection(HOST, port) for _ in range(2)]
        for reader, writer in kept:
            writer.write(framed(QUESTION))
            await next_answer(reader)
        reader, writer = await asyncio.open_connection(HOST, port)
        assert await ends(reader)
        writer.close()
        kept[0][1].close()

        async def has_room() -> bool:
            try:
                await dns.asyncquery.tcp(QUESTION, HOST, timeout=1, port=port)
            except (EOFError, OSError):
                return False
            return True

        async with asyncio.timeout(DEADLINE_S):
            while not await has_room():
                await asyncio.sleep(0.01)
        kept[1][1].close()


async def test_a_host_with_all_its_connections_open_keeps_no_other_from_one():
    async with answering(host="0.0.0.0", bounds=StreamBounds(connections_per_host_max=1)) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(framed(QUESTION))
        await next_answer(reader)
        address = own_address()
        answer = await dns.asyncquery.tcp(QUESTION, address, timeout=DEADLINE_S, port=port, source=address)
        assert len(texts(answer)) == 2
        writer.close()


@on_both_loops
async def test_the_end_waits_for_no_client():
    async with asyncio.timeout(DEADLINE_S):
        async with answering() as port:
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(framed(QUESTION))
            await next_answer(reader)
        assert await ends(reader)
        writer.close()
    async with serving(Answering().responder, HOST, port):
        pass  # the port is free again


def exchange(source: socket.socket, data: bytes, address: tuple[str, int]) -> tuple[bytes, tuple[str, int]]:
    source.settimeout(DEADLINE_S)
    source.sendto(data, address)
    return source.recvfrom(65_535)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_an_answer_comes_from_the_address_that_was_asked(host: str):
    if host == "::" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    async with answering(host=host) as port:
        for address in ("127.0.0.9", "127.0.0.1", own_address()):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                raw, peer = await asyncio.to_thread(exchange, client, QUESTION.to_wire(), (address, port))
            assert peer == (address, port)
            assert len(texts(dns.message.from_wire(raw))) == 2


async def test_what_leaves_this_host_fits_one_packet_whatever_is_asked_for():
    address = own_address()
    query = question("rag.service", "SRV", use_edns=0, payload=65_535)
    async with answering(100, host="0.0.0.0") as port:
        local = await dns.asyncquery.udp(query, HOST, timeout=DEADLINE_S, port=port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            raw, _ = await asyncio.to_thread(exchange, client, query.to_wire(), (address, port))
    assert 1000 < len(raw) <= 1232
    assert dns.message.from_wire(raw).flags & dns.flags.TC
    assert 1232 < len(local.to_wire()) <= 4096


@on_both_loops
async def test_a_flood_of_anything_keeps_nobody_from_an_answer():
    rng = random.Random(7)
    async with answering() as port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            for size in range(500):
                flood.sendto(rng.randbytes(size), (HOST, port))
                flood.sendto(struct.pack("!6H", size, 0, 1, 0, 0, 0) + rng.randbytes(30), (HOST, port))
        async with asyncio.timeout(DEADLINE_S):
            answer = None
            while answer is None:  # the kernel may have had no room for the first
                with suppress(dns.exception.Timeout):
                    answer = await dns.asyncquery.udp(QUESTION, HOST, timeout=0.5, port=port)
        assert len(texts(answer)) == 2


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_port_that_another_program_has_is_told_with_that_program(kind: socket.SocketKind):
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind((HOST, 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as refused:
            async with serving(Answering().responder, HOST, port):
                pytest.fail("it listens")
    name = Path("/proc/self/comm").read_text().strip()
    assert str(refused.value) == (
        f"cannot answer DNS on {HOST} port {port}: port {port} is taken by {name} (pid {os.getpid()})"
    )


async def test_an_address_that_is_not_this_hosts_is_told():
    with pytest.raises(StartError, match=r"cannot answer DNS on 192\.0\.2\.1 port 5353: "):
        async with serving(Answering().responder, "192.0.2.1", 5353):
            pytest.fail("it listens")


def test_an_agent_whose_port_is_taken_says_so_and_takes_it_once_it_is_free(
    tmp_path: Path, nats_server: NatsServer
):
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, port))
        agent = AgentProcess(tmp_path, "alpha", nats_server.url, PMOVES_DNS_PORT=str(port))
        with agent:
            agent.ready()
            eventually(lambda: bool(agent.logged("DNS is not answered")), "it says so")
            (warning,) = [line for line in agent.registry["warnings"] if "DNS" in line]
            assert warning.startswith(f"cannot answer DNS on 127.0.0.1 port {port}: port {port} is taken by ")
            taken.close()
            eventually(lambda: bool(agent.logged("DNS is answered", port=port)), "it has the port")
            assert not [line for line in agent.registry["warnings"] if "DNS" in line]
            assert len(agent.logged("DNS is not answered")) == 1
            asked = dns.message.make_query("alpha.node.pmoves-mesh.", "A")
            assert dns.query.udp(asked, HOST, timeout=DEADLINE_S, port=port).rcode() == dns.rcode.NOERROR
            took = 'pmoves_mesh_dns_answer_seconds_count{rcode="NOERROR"} 1.0'
            assert took in agent.get("/metrics").text.splitlines()
            assert agent.terminate() < 5

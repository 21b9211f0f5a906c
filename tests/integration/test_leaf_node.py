"""A standalone host's own nats-server, as a leaf node of a real hub."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import nats.errors
import nats.js.errors
import pytest
from agents import eventually, note
from leaf_support import Edge, Hub, client_at, crosses, stays_away
from nats.aio.msg import Msg
from nats.js.api import StreamConfig
from secured import SecuredMesh

TRANSCRIPT = "ingest.transcript.ready.v1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub.ready()


@pytest.fixture(scope="module")
def edge(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"), hub)
    edge.join(hub)
    with edge:
        edge.ready()
        edge.is_leaf()
        yield edge


async def echo(message: Msg) -> None:
    await message.respond(b"echo " + message.data)


async def test_what_a_plain_client_of_the_host_publishes_is_heard_at_the_hub_and_the_other_way_round(
    hub: Hub, edge: Edge
):
    async with (
        client_at(edge.local_url) as local,
        client_at(hub.nats_url, hub.context("whisper")) as service,
    ):
        heard = await crosses(local, service, TRANSCRIPT, b'{"text": "hello"}')
        assert heard.data == b'{"text": "hello"}'
        assert heard.headers == {"Said-By": "a test"}
        await crosses(service, local, TRANSCRIPT)


async def test_requests_are_answered_in_both_directions(hub: Hub, edge: Edge):
    async with (
        client_at(edge.local_url) as local,
        client_at(hub.nats_url, hub.context("whisper")) as service,
    ):
        await crosses(local, service, "warm.up")
        for asking, answering in ((local, service), (service, local)):
            subscription = await answering.subscribe("say", cb=echo)
            await answering.flush()
            await crosses(answering, asking, "warm.up")  # so that the interest in `say` has arrived too
            assert (await asking.request("say", b"this", timeout=5)).data == b"echo this"
            await subscription.unsubscribe()


async def test_the_events_of_the_registry_are_heard_on_the_host_but_cannot_be_forged_there(
    hub: Hub, edge: Edge
):
    async with (
        client_at(edge.local_url) as local,
        client_at(hub.nats_url, hub.context("whisper")) as service,
    ):
        events = await local.subscribe("service.registry.*")
        await local.flush()
        await crosses(service, local, "warm.up")
        await asyncio.to_thread(hub.register, "seen", port=9000)
        assert b"seen" in (await events.next_msg(5)).data
        position = hub.registry["position"]
        for subject in ("service.registry.registered", "mesh.node.announce.v1", "mesh.trust.revoked.v1"):
            await stays_away(local, service, subject)
        await asyncio.to_thread(hub.register, "after", port=9001)
        assert hub.registry["rejected"] == {}
        assert hub.registry["position"] <= position + 3


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.INFO.MESH_EVENTS",
        "$MESH.API.STREAM.INFO.MESH_EVENTS",
        "$MESH.API.STREAM.DELETE.MESH_EVENTS",
        "$JS.hub.API.STREAM.NAMES",
        "$SYS.REQ.SERVER.PING",
        "$KV.mesh-leases.edge",
    ],
)
async def test_nothing_of_the_hubs_jetstream_or_system_is_reached_from_the_host(
    hub: Hub, edge: Edge, subject: str
):
    async with (
        client_at(edge.local_url) as local,
        client_at(hub.nats_url, hub.context("whisper")) as service,
    ):
        await crosses(local, service, "warm.up")
        with contextlib.suppress(nats.errors.NoRespondersError, nats.errors.TimeoutError):
            answer = await local.request(subject, b"", timeout=1)
            assert b"stream not found" in answer.data, answer.data  # the host's own JetStream knows none
        assert hub.run("bucket", "check").returncode == 0


async def test_a_stream_of_the_host_is_the_hosts_alone(hub: Hub, edge: Edge):
    async with (
        client_at(edge.local_url) as local,
        client_at(hub.nats_url, hub.context("whisper")) as service,
    ):
        streams = local.jetstream(domain="edge", timeout=5)
        await streams.add_stream(StreamConfig(name="NOTES", subjects=["notes.>"]))
        await crosses(local, service, "notes.warm.up")
        said = await local.jetstream(timeout=5).publish("notes.one", b"1")  # the local API needs no prefix
        assert (said.stream, said.domain) == ("NOTES", "edge")
        assert [one.config.name for one in await streams.streams_info()] == ["NOTES"]
        with pytest.raises((nats.errors.Error, nats.js.errors.Error)):
            await service.jetstream(domain="edge", timeout=1).stream_info("NOTES")
        bucket = await streams.create_key_value(bucket="settings")
        await bucket.put("colour", b"blue")
        assert (await bucket.get("colour")).value == b"blue"
        assert (await edge_names(hub)) == set()


async def test_what_the_host_tells_is_kept_by_the_hubs_stream_for_it_while_the_hub_is_there(
    hub: Hub, edge: Edge
):
    async with (
        client_at(edge.local_url) as local,
        client_at(hub.nats_url, hub.context("whisper")) as service,
    ):
        await crosses(local, service, "warm.up")
        kept = await local.jetstream(timeout=5).publish(TRANSCRIPT, b"{}")
        assert kept.stream == "INGEST_TRANSCRIPT_READY"
        assert not kept.domain


async def edge_names(hub: Hub) -> set[str]:
    """Returns which of the host's streams the hub holds."""
    place = hub.data_dir / "nats" / "jetstream" / "jetstream" / "pmoves-mesh" / "streams"
    return {path.name for path in place.iterdir()} & {"NOTES", "KV_settings"}


def test_it_is_said_to_be_well_by_doctor_and_status(edge: Edge):
    found = edge.run("doctor")
    assert "ok       leaf node     this host's NATS server is connected to the hub" in found.stdout
    assert not [line for line in edge.registry["warnings"] if "hub" in line]


async def test_only_leaf_nodes_are_let_in_at_the_port_of_leaf_nodes(hub: Hub, edge: Edge, tmp_path: Path):
    stranger = SecuredMesh(tmp_path)
    own = edge.data_dir / "leaf" / "leaf.crt", edge.data_dir / "identity" / "node.key"
    service = hub.certify("stranger")
    async with client_at(hub.nats_url, hub.context("stranger")):
        assert await is_let_in(hub, *own)
        assert not await is_let_in(hub, *service)
    node = hub.data_dir / "identity"
    assert not await is_let_in(hub, node / "node.crt", node / "node.key")
    assert not await is_let_in(hub, stranger.owner.certificate, stranger.owner.key)


async def is_let_in(hub: Hub, certificate: Path, key: Path) -> bool:
    """Whether whoever has these files gets through the TLS handshake at the port of leaf nodes."""
    context = ssl.create_default_context(cafile=hub.tls_dir / "ca.crt")
    context.load_cert_chain(certificate, key)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.leaf_port)
    assert (await reader.readline()).startswith(b"INFO ")
    try:
        async with asyncio.timeout(5):
            await writer.start_tls(context, server_hostname="pmoves-mesh.mesh.internal")
            writer.write(b"PING\r\n")
            return await reader.read(64) != b""
    except OSError:
        return False
    finally:
        writer.close()


async def test_local_subjects_and_streams_go_on_without_a_break_while_the_hub_is_away(hub: Hub, edge: Edge):
    async with (
        client_at(edge.local_url) as local,
        client_at(edge.local_url) as neighbour,
        client_at(hub.nats_url, hub.context("whisper")) as service,
    ):
        heard = await neighbour.subscribe("local.>")
        await neighbour.flush()
        streams = local.jetstream(timeout=5)
        await streams.add_stream(StreamConfig(name="DIARY", subjects=["diary.>"]))
        await asyncio.to_thread(hub.kill)
        await asyncio.to_thread(kill_server, hub)
        for number in range(50):
            await local.publish("local.beat", str(number).encode())
            assert (await heard.next_msg(2)).data == str(number).encode()
            assert (await streams.publish("diary.day", b"alone")).domain == "edge"
        await asyncio.to_thread(eventually, lambda: not edge.joins_hub(), "it notices")
        await asyncio.to_thread(hub.restart)
        begin = time.perf_counter()
        await crosses(local, service, TRANSCRIPT)
        note(f"the leaf node carries messages {time.perf_counter() - begin:.1f} s after the hub is ready")
        assert (await streams.stream_info("DIARY")).state.messages == 50
        assert (local.stats["reconnects"], neighbour.stats["reconnects"]) == (0, 0)


def kill_server(hub: Hub) -> None:
    """Ends the hub's server, which would outlive its agent."""
    path = hub.data_dir / "nats" / "nats-server.pid"
    if path.exists():
        try:
            os.kill(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            return


async def test_a_killed_server_of_the_host_is_started_again_and_joins_again(hub: Hub, edge: Edge):
    async with (
        client_at(edge.local_url) as local,
        client_at(hub.nats_url, hub.context("whisper")) as service,
    ):
        await crosses(local, service, "warm.up")
        old = edge.server_pid
        os.kill(old, signal.SIGKILL)
        await crosses(local, service, TRANSCRIPT)
        assert edge.server_pid != old
        assert local.stats["reconnects"] == 1

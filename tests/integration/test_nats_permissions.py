"""What a member of the mesh may do on NATS with its certificate, and what is refused to it, one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import msgspec
import pytest
from log_support import DEADLINE_S, event, eventually, read_until
from ports import free_port
from secured import CLOCK, Party, SecuredMesh

from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import NodeLeft
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogError, LogUnavailable, RightMissing, SignerNotEntitled
from pmoves_mesh.log import api
from pmoves_mesh.log.api import ConsumerInfo, Done, StreamInfo, call
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.log.topology import EVENTS, IDENTITIES, LEASES, REGISTRY, ensure
from pmoves_mesh.pki.files import read_key
from pmoves_mesh.pki.identity import verified_identity
from pmoves_mesh.server.process import EmbeddedServer

STREAMS = (EVENTS, *(f"KV_{bucket}" for bucket in (REGISTRY, IDENTITIES, LEASES)))
SHARED = f"{EVENTS}.materialiser"
ACK = f"$JS.ACK.{SHARED}.1.1.1.1700000000000000000.1"
FETCH = msgspec.json.encode({"batch": 100, "expires": 10**8})


@dataclass(frozen=True)
class Place:
    """A running server and its members."""

    mesh: SecuredMesh
    port: int
    main: Party
    jetson: Party
    orin: Party
    operator: Party
    whisper: Party
    hirag: Party


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    mesh = SecuredMesh(tmp_path_factory.mktemp("permissions"))
    members = {
        "jetson": mesh.party("jetson"),
        "orin": mesh.party("orin"),
        "operator": mesh.party("main", "operator"),
        "whisper": mesh.party("whisper", "service"),
        "hirag": mesh.party("hirag", "service"),
    }
    port = free_port()
    server = mesh.server(port, mesh.access())
    try:
        asyncio.run(begin(server, mesh, port))
        yield Place(mesh=mesh, port=port, main=mesh.owner, **members)
    finally:
        asyncio.run(server.stop())


async def begin(server: EmbeddedServer, mesh: SecuredMesh, port: int) -> None:
    """Starts the server and lets the owner make what the mesh needs, with something in each bucket."""
    await server.start()
    async with mesh.connected(mesh.owner, port) as owner:
        await ensure(owner, mesh.mesh, mesh.fingerprint)
        await NatsEventLog(owner).publish(SealedEvent(subject="mesh.node.leave.v1", payload=b"", headers={}))
        await NatsBucket(owner, REGISTRY).put("node.main", b"main", expected=0)
        await NatsBucket(owner, IDENTITIES).put("ab" * 32, b"certificate", expected=0)
        await NatsBucket(owner, LEASES).put("main", b"alive", expected=0)


@pytest.fixture
async def owner(place: Place) -> AsyncIterator[Connection]:
    async with place.mesh.connected(place.main, place.port) as connection:
        yield connection


@pytest.fixture
async def node(place: Place) -> AsyncIterator[Connection]:
    async with place.mesh.connected(place.jetson, place.port) as connection:
        yield connection


async def is_whole(owner: Connection) -> bool:
    """Whether nothing was taken from the mesh, changed or added where only others may."""
    for stream in STREAMS:
        info = await call(owner.session(), f"STREAM.INFO.{stream}", StreamInfo)
        assert info.state.messages >= 1, stream
        assert info.config["deny_delete"], stream
    shared = await call(owner.session(), f"CONSUMER.INFO.{SHARED}", _Consumer)
    assert (shared.config["max_ack_pending"], shared.config["durable_name"]) == (2000, "materialiser")
    kept = await NatsBucket(owner, IDENTITIES).get("ab" * 32)
    lease = await NatsBucket(owner, LEASES).get("main")
    return (
        kept is not None
        and kept.value == b"certificate"
        and lease is not None
        and lease.value == b"alive"
        and await NatsBucket(owner, LEASES).get("orin") is None
        and await NatsBucket(owner, IDENTITIES).get("cd" * 32) is None
    )


class _Consumer(msgspec.Struct):
    config: dict[str, object]


# What must work


async def test_a_node_can_do_all_that_an_agent_does(place: Place, node: Connection) -> None:
    """It joins, states, follows, reads, materialises, and holds its lease."""
    bounds = await ensure(node, place.mesh.mesh, place.mesh.fingerprint)
    log = NatsEventLog(node)
    assert await log.publish(event(1)) == bounds.last + 1
    assert (await read_until(log.tail(0), bounds.last + 1))[-1].sealed.payload == event(1).payload
    registry = NatsBucket(node, REGISTRY)
    revision = await registry.put("node.jetson", b"jetson", expected=0)
    assert [entry.key async for entry in registry.load()] == ["node.main", "node.jetson"]
    await registry.delete("node.jetson", expected=revision)
    queue = NatsWorkQueue(node)
    for delivery in await queue.fetch(100, 5):
        await delivery.ack()

    async def is_acknowledged() -> bool:
        return await queue.floor() == bounds.last + 1

    await eventually(is_acknowledged)
    leases = NatsBucket(node, LEASES)
    held = await leases.put("jetson", b"1", expected=0, ttl_s=10)
    await leases.put("jetson", b"2", expected=held, ttl_s=10)
    assert {entry.key async for entry in leases.load()} == {"main", "jetson"}
    found = await NatsBucket(node, IDENTITIES).get("ab" * 32)
    assert found is not None
    assert found.value == b"certificate"


async def test_a_backlog_of_thousands_reaches_a_node_under_flow_control(
    owner: Connection, node: Connection
) -> None:
    log = NatsEventLog(owner)
    for begin in range(1000, 6000, 500):
        await asyncio.gather(*(log.publish(event(number)) for number in range(begin, begin + 500)))
    last = (await log.bounds()).last
    assert len(await read_until(NatsEventLog(node).tail(0), last)) == last


async def test_a_node_cannot_make_what_is_missing_and_reads_who_does(node: Connection) -> None:
    with pytest.raises(RightMissing, match=r"start the agent of the host that runs the nats-server"):
        await _create(node)


async def _create(connection: Connection) -> None:
    from pmoves_mesh.log import topology  # noqa: PLC0415 - a part of it that has no other name

    identity = topology.StreamIdentity("pmoves-mesh", "ca")
    limits = topology._Limits(3600, 2**20, 1)
    await topology._create(connection.session(), topology._events(identity, limits))


async def test_an_operator_can_read_decree_and_show_its_certificate(place: Place) -> None:
    async with place.mesh.connected(place.operator, place.port) as operator:
        log = NatsEventLog(operator)
        for subject in ("mesh.trust.revoked.v1", "mesh.trust.rotated.v1", "service.registry.evicted"):
            last = await log.publish(SealedEvent(subject=subject, payload=b"{}", headers={}))
        assert (await read_until(log.tail(0), last))[-1].sealed.subject == "service.registry.evicted"
        shown = NatsBucket(operator, IDENTITIES)
        assert await shown.put("ef" * 32, b"operator", expected=0)
        assert [entry.key async for entry in NatsBucket(operator, REGISTRY).load()]


async def test_services_talk_among_themselves_and_hear_the_events_of_every_node(
    place: Place, owner: Connection, node: Connection
) -> None:
    async with (
        place.mesh.connected(place.whisper, place.port) as whisper,
        place.mesh.connected(place.hirag, place.port) as hirag,
        await whisper.session().subscribe("speech.>") as asked,
        await whisper.session().subscribe("service.registry.>") as heard,
    ):
        await whisper.session().client.flush()
        answer = asyncio.create_task(hirag.session().request("speech.transcribe", b"audio"))
        (question,) = await asked.take(1, DEADLINE_S)
        await whisper.session().publish(question.reply, b"text")
        assert (await answer).data == b"text"
        await NatsEventLog(node).publish(event(11))
        await NatsEventLog(owner).publish(event(12))
        payloads: list[bytes] = []
        while len(payloads) < 2:
            payloads += [message.data for message in await heard.take(10, DEADLINE_S)]
        assert sorted(payloads) == [event(11).payload, event(12).payload]


async def test_each_announcement_of_a_service_reaches_the_bridge_of_one_agent(
    place: Place, owner: Connection, node: Connection
) -> None:
    async with (
        place.mesh.connected(place.whisper, place.port) as whisper,
        await owner.session().subscribe("services.announce.v1", "pmoves-mesh") as by_owner,
        await node.session().subscribe("services.announce.v1", "pmoves-mesh") as by_node,
    ):
        for connection in (owner, node):
            await connection.session().client.flush()
        sent = [b"%d" % number for number in range(40)]
        for payload in sent:
            await whisper.publish_core("services.announce.v1", payload)
        heard: list[bytes] = []

        async def is_all() -> bool:
            for inbox in (by_owner, by_node):
                heard.extend([message.data for message in await inbox.take(99, 0)])
            return len(heard) >= len(sent)

        await eventually(is_all)
        assert sorted(heard) == sorted(sent)


@pytest.mark.parametrize("leaver", ["jetson", "whisper"])
async def test_the_end_of_a_connection_is_told_to_every_node(
    place: Place, owner: Connection, node: Connection, leaver: str
) -> None:
    accounts = ("pmoves-mesh", "pmoves-mesh_members")
    account = accounts[leaver == "jetson"]
    for witness in (owner, node):
        async with await witness.session().subscribe(f"$SYS.ACCOUNT.{account}.DISCONNECT") as told:
            await witness.session().client.flush()
            async with place.mesh.connected(getattr(place, leaver), place.port):
                pass
            (advisory,) = await told.take(1, DEADLINE_S)
            assert b"/" + leaver.encode() in advisory.data


# What must not


ADMINISTRATION = [
    *(f"STREAM.{verb}.{stream}" for verb in ("DELETE", "PURGE", "UPDATE", "CREATE") for stream in STREAMS),
    *(f"STREAM.{verb}.{EVENTS}" for verb in ("MSG.DELETE", "MSG.GET", "SNAPSHOT", "RESTORE", "PEER.REMOVE")),
    "STREAM.CREATE.OTHER",
    "STREAM.NAMES",
    "STREAM.LIST",
    "INFO",
    f"CONSUMER.DELETE.{SHARED}",
    f"CONSUMER.CREATE.{SHARED}",
    f"CONSUMER.CREATE.{SHARED}.mesh.>",
    f"CONSUMER.CREATE.{EVENTS}",
    f"CONSUMER.DURABLE.CREATE.{SHARED}",
    f"CONSUMER.PAUSE.{SHARED}",
    f"CONSUMER.LIST.{EVENTS}",
    f"CONSUMER.MSG.NEXT.{EVENTS}.other",
    f"CONSUMER.MSG.NEXT.KV_{LEASES}.any",
]
STATEMENTS = [
    "mesh.trust.revoked.v1",
    "mesh.trust.rotated.v1",
    "mesh.trust.issued.v1",
    "mesh.trust.refused.v1",
    "service.registry.evicted",
    "service.registry.other",
    "mesh.node.other.v1",
]
PLACES_OF_OTHERS = [
    f"$KV.{LEASES}.orin",
    f"$KV.{LEASES}.main",
    f"$KV.{LEASES}.jetson.more",
    f"$KV.{IDENTITIES}.{'ab' * 32}",
    f"$KV.{IDENTITIES}.{'cd' * 32}",
    "_INBOX.node.orin.1",
    "_INBOX.node.main.1",
    "_INBOX.1",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.pmoves-mesh.CONNZ",
    "$SYS.REQ.USER.INFO",
    "speech.transcribe",
    "$JS.ACK.MESH_EVENTS.other.1.1.1.1.1",
]


@pytest.mark.parametrize("prefix", ["$MESH.API.", "$JS.API."])
@pytest.mark.parametrize("verb", ADMINISTRATION)
async def test_a_node_may_not_administer(place: Place, owner: Connection, verb: str, prefix: str) -> None:
    async with place.mesh.connected(place.jetson, place.port, api_prefix=prefix) as node:
        with pytest.raises(RightMissing):
            await call(node.session(), verb, Done)
    assert await is_whole(owner)


@pytest.mark.parametrize("subject", [*STATEMENTS, *PLACES_OF_OTHERS])
async def test_a_node_may_not_publish_there(owner: Connection, node: Connection, subject: str) -> None:
    with pytest.raises(RightMissing, match=r"publish on"):
        await node.session().request(subject, b"{}")
    assert await is_whole(owner)


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "*",
        "mesh.>",
        "service.registry.>",
        "$JS.>",
        "$KV.>",
        f"$KV.{LEASES}.jetson",
        "$SYS.>",
        "$SYS.ACCOUNT.*.DISCONNECT",
        "$SYS.ACCOUNT.guest.DISCONNECT",
        "_INBOX.>",
        "_INBOX.node.*.>",
        "_INBOX.node.orin.>",
        "_INBOX.operator.main.>",
        "_R_.>",
    ],
)
async def test_a_node_may_not_listen_there(node: Connection, subject: str) -> None:
    async with await node.session().subscribe(subject) as inbox:
        with pytest.raises(RightMissing, match=r"subscribe to"):
            await inbox.take(1, DEADLINE_S)


async def test_a_node_that_gives_another_name_in_its_login_is_refused(place: Place) -> None:
    pretending = place.mesh.settings(place.jetson, place.port, user=place.orin.id, password="x")
    async with Connection(pretending) as connection:
        with pytest.raises(RightMissing, match=r"Authorization Violation"):
            await connection.wait_connected(0.5)


async def test_an_event_that_a_node_states_for_another_is_believed_by_nobody(
    place: Place, node: Connection
) -> None:
    root = place.mesh.authority.certificate
    key = read_key(place.jetson.key)
    identity = verified_identity("pmoves-mesh", "jetson", [root], place.jetson.certificates[0], key)
    stated = NodeLeft(mesh="pmoves-mesh", node="orin", incarnation=1, revision=1)
    position = await NatsEventLog(node).publish(envelope.seal(stated, identity))
    found = (await read_until(NatsEventLog(node).tail(position - 1), position))[0]
    trust = Trust("pmoves-mesh", [root])
    trust.admit(identity.certificate_der)
    with pytest.raises(SignerNotEntitled):
        envelope.unseal(found.sealed, trust, time_ms=CLOCK.now_ms(), position=position, accept_unsigned=False)


REPLYING = {
    "a fetch": (f"$JS.API.CONSUMER.MSG.NEXT.{SHARED}", FETCH),
    "a key that is not there": (f"$JS.API.DIRECT.GET.KV_{REGISTRY}.$KV.{REGISTRY}.none", b""),
    "a key that is there": (f"$JS.API.DIRECT.GET.KV_{REGISTRY}.$KV.{REGISTRY}.node.main", b""),
    "an acknowledged acknowledgement": (ACK, b"+ACK"),
    "an acknowledgement that asks for more": (ACK, b"+NXT"),
    "a description": (f"$JS.API.STREAM.INFO.{EVENTS}", b""),
    "a confirmation": ("service.registry.updated", b"{}"),
    "no answer": ("mesh.node.lost.v1", b""),
    "a consumer": (
        f"$JS.API.CONSUMER.CREATE.{EVENTS}.mine",
        b'{"stream_name":"MESH_EVENTS","config":{"name":"mine","ack_policy":"none"}}',
    ),
}
TARGETS = [
    f"$JS.API.STREAM.DELETE.{EVENTS}",
    f"$MESH.API.STREAM.DELETE.{EVENTS}",
    f"$JS.API.STREAM.PURGE.KV_{LEASES}",
    f"$JS.API.CONSUMER.DELETE.{SHARED}",
    f"$KV.{LEASES}.orin",
    f"$KV.{LEASES}.main",
    f"$KV.{IDENTITIES}.{'ab' * 32}",
    f"$KV.{IDENTITIES}.{'cd' * 32}",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("how", REPLYING)
async def test_a_node_cannot_let_the_server_answer_where_it_may_not_publish(
    owner: Connection, node: Connection, how: str, target: str
) -> None:
    subject, payload = REPLYING[how]
    await NatsEventLog(owner).publish(SealedEvent(subject="mesh.node.leave.v1", payload=b"", headers={}))
    await node.session().publish(subject, payload, target)
    await node.session().client.flush()
    await NatsEventLog(node).bounds()  # by now the server has handled what came before
    assert await is_whole(owner)


@pytest.mark.parametrize("target", TARGETS)
async def test_a_node_cannot_let_a_consumer_deliver_where_it_may_not_publish(
    owner: Connection, node: Connection, target: str
) -> None:
    await NatsEventLog(owner).publish(SealedEvent(subject="mesh.node.leave.v1", payload=b"", headers={}))
    name = f"mine-{TARGETS.index(target)}"
    config = {"name": name, "deliver_subject": target, "ack_policy": "none", "deliver_policy": "all"}
    body = {"stream_name": EVENTS, "config": {**config, "inactive_threshold": 10**9}}
    made = await call(node.session(), f"CONSUMER.CREATE.{EVENTS}.{name}", ConsumerInfo, body)
    assert made.num_pending > 0
    assert await is_whole(owner)


async def test_a_node_cannot_take_the_shared_consumer_for_its_own(
    owner: Connection, node: Connection
) -> None:
    """The name in the request's subject counts, whatever the request says."""
    config = {"name": "materialiser", "ack_policy": "explicit", "max_ack_pending": 1}
    body = {"stream_name": EVENTS, "config": {**config, "inactive_threshold": 10**9}}
    try:
        made = await call(node.session(), f"CONSUMER.CREATE.{EVENTS}.other", ConsumerInfo, body)
    except LogError:
        made = None
    assert made is None or made.name == "other"
    assert await is_whole(owner)


async def test_a_node_cannot_empty_a_bucket_by_a_header(owner: Connection, node: Connection) -> None:
    with pytest.raises(LogError, match=r"rollup not permitted"):
        await api.publish(node.session(), f"$KV.{REGISTRY}.node.jetson", b"", {"Nats-Rollup": "all"})
    assert await is_whole(owner)


@pytest.mark.parametrize(
    "subject",
    [
        "mesh.node.announce.v1",
        "service.registry.registered",
        "mesh.trust.issued.v1",
        f"$KV.{REGISTRY}.node.main",
        f"$KV.{LEASES}.main",
        f"$JS.API.STREAM.UPDATE.{EVENTS}",
        f"$JS.API.STREAM.DELETE.{EVENTS}",
        f"$JS.API.CONSUMER.MSG.NEXT.{SHARED}",
        ACK,
        "_INBOX.node.main.1",
    ],
)
async def test_an_operator_may_not_do_the_work_of_a_node(
    place: Place, owner: Connection, subject: str
) -> None:
    async with place.mesh.connected(place.operator, place.port) as operator:
        with pytest.raises(RightMissing, match=r"publish on"):
            await operator.session().request(subject, b"{}")
    assert await is_whole(owner)


@pytest.mark.parametrize("prefix", ["$MESH.API.", "$JS.API."])
@pytest.mark.parametrize(
    "subject",
    [
        "mesh.node.announce.v1",
        "mesh.trust.revoked.v1",
        "service.registry.registered",
        "service.registry.evicted",
        f"$KV.{REGISTRY}.node.main",
        f"$KV.{LEASES}.main",
        f"$JS.API.STREAM.INFO.{EVENTS}",
        f"$JS.API.STREAM.DELETE.{EVENTS}",
        f"$JS.API.CONSUMER.CREATE.{EVENTS}.any",
        ACK,
        "$SYS.REQ.USER.INFO",
        "_INBOX.node.main.1",
        "_INBOX.operator.main.1",
    ],
)
async def test_a_service_may_not_speak_for_the_mesh(
    place: Place, owner: Connection, subject: str, prefix: str
) -> None:
    async with place.mesh.connected(place.whisper, place.port, api_prefix=prefix) as whisper:
        if subject.startswith("$JS.API.") and prefix == "$MESH.API.":
            # The server names the subject that ours is mapped to, so only the lack of an answer shows.
            with pytest.raises((RightMissing, LogUnavailable)):
                await whisper.session().request(subject, b"{}", timeout_s=0.3)
        else:
            with pytest.raises(RightMissing, match=r"publish on"):
                await whisper.session().request(subject, b"{}")
    assert await is_whole(owner)


async def test_a_service_that_listens_to_everything_hears_no_answer_to_a_node(
    place: Place, owner: Connection, node: Connection
) -> None:
    async with (
        place.mesh.connected(place.whisper, place.port) as whisper,
        await whisper.session().subscribe(">") as everything,
    ):
        await whisper.session().client.flush()
        assert await is_whole(owner)
        await NatsEventLog(node).publish(event(21))
        await owner.publish_core("services.announce.v1", b"last")
        heard: list[str] = []
        while "services.announce.v1" not in heard:
            heard += [message.subject for message in await everything.take(100, DEADLINE_S)]
    assert not [subject for subject in heard if subject.startswith(("_", "$"))]

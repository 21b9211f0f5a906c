"""A second mesh on the same nats-server: neither sees, reads or disturbs the other."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from log_support import event, read_until
from nats_server import NatsServer
from ports import free_port
from secured import CLOCK, Party, SecuredMesh, pin, running
from structlog.testing import capture_logs

from pmoves_mesh.errors import ForeignStream, LogError, RightMissing, StartError
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.log.topology import LEASES, REGISTRY, ensure, peek
from pmoves_mesh.pki.files import write_certificate, write_key
from pmoves_mesh.server.access import Access
from pmoves_mesh.server.anchors import constrained_anchor
from pmoves_mesh.server.binary import locate
from pmoves_mesh.server.door import GuestDoor
from pmoves_mesh.server.process import EmbeddedServer

MAIN = "spiffe://pmoves-mesh/node/main"
VISITOR = "spiffe://guest/node/main"


@dataclass(frozen=True)
class House:
    """A server, its own mesh, and a guest's; a node of the same name owns each."""

    server: EmbeddedServer
    host: SecuredMesh
    guest: SecuredMesh
    door: GuestDoor
    port: int


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    host, guest, port = SecuredMesh(tmp_path), SecuredMesh(tmp_path, "guest"), free_port()
    host.party("jetson")
    guest.party("tablet")
    async with running(host.server(port, host.access())) as server:
        door = GuestDoor(host.directory / "data" / "nats", CLOCK)
        await door.admit(guest.guest_access())
        yield House(server=server, host=host, guest=guest, door=door, port=port)


async def refused(settings: NatsSettings) -> LogError:
    async with Connection(settings) as connection:
        with pytest.raises(LogError) as caught:
            await connection.wait_connected(0.5)
    return caught.value


async def test_a_guest_is_let_in_without_dropping_anybody(tmp_path: Path) -> None:
    host, guest, port = SecuredMesh(tmp_path), SecuredMesh(tmp_path, "guest"), free_port()
    async with running(host.server(port, host.access())) as server, host.connected(host.owner, port) as main:
        await ensure(main, host.mesh, host.fingerprint)
        process = server.pid
        await GuestDoor(host.directory / "data" / "nats", CLOCK).admit(guest.guest_access())
        async with guest.connected(guest.owner, port) as visitor:
            assert await ensure(visitor, guest.mesh, guest.fingerprint)
        await main.session().client.flush()
        assert (main.generation, server.pid) == (1, process)


async def test_each_mesh_has_a_stream_and_a_registry_of_its_own(house: House) -> None:
    host, guest, port = house.host, house.guest, house.port
    async with host.connected(host.owner, port) as main, guest.connected(guest.owner, port) as visitor:
        await ensure(main, host.mesh, host.fingerprint)
        assert await peek(visitor) is None
        await ensure(visitor, guest.mesh, guest.fingerprint)
        await NatsEventLog(main).publish(event(1))
        await NatsBucket(main, REGISTRY).put("node.main", b"host")
        await NatsBucket(main, LEASES).put("main", b"host")
        assert (await NatsEventLog(visitor).bounds()).last == 0
        assert await NatsBucket(visitor, REGISTRY).get("node.main") is None
        assert await NatsBucket(visitor, LEASES).get("main") is None
        await NatsEventLog(visitor).publish(event(2))
        await NatsBucket(visitor, LEASES).put("main", b"guest")
        found = await read_until(NatsEventLog(main).tail(0), 1)
        assert [message.sealed.payload for message in found] == [event(1).payload]
        held = await NatsBucket(main, LEASES).get("main")
        assert held is not None
        assert held.value == b"host"
        with pytest.raises(ForeignStream):
            await ensure(visitor, host.mesh, host.fingerprint)


@pytest.mark.parametrize("speaker", ["host", "guest"])
async def test_what_services_of_one_mesh_say_is_not_heard_in_the_other(house: House, speaker: str) -> None:
    meshes = {"host": house.host, "guest": house.guest}
    talking, other = meshes.pop(speaker), next(iter(meshes.values()))
    voices = [mesh.party("whisper", "service") for mesh in (talking, other)]
    await house.server.admit(house.host.access())
    await house.door.admit(house.guest.guest_access())
    async with (
        talking.connected(voices[0], house.port) as one,
        other.connected(voices[1], house.port) as two,
        await two.session().subscribe(">") as everything,
    ):
        await two.session().client.flush()
        for subject in ("speech.transcribe", "services.announce.v1", "other.pmoves-mesh", "other.guest"):
            await one.publish_core(subject, b"secret")
        await one.session().client.flush()
        await two.publish_core("last", b"")
        assert [message.subject for message in await everything.take(10, 5)] == ["last"]


@pytest.mark.parametrize(
    "subject",
    [
        "$SYS.ACCOUNT.pmoves-mesh.DISCONNECT",
        "$SYS.ACCOUNT.pmoves-mesh_members.DISCONNECT",
        "$SYS.ACCOUNT.>",
        "$SYS.>",
    ],
)
async def test_a_guest_is_not_told_who_comes_and_goes_next_door(house: House, subject: str) -> None:
    async with (
        house.guest.connected(house.guest.owner, house.port) as visitor,
        await visitor.session().subscribe(subject) as inbox,
    ):
        with pytest.raises(RightMissing):
            await inbox.take(1, 5)


def forge(guest: SecuredMesh, *names: x509.GeneralName) -> Party:
    """Returns a party whose certificate the guest's CA has signed with these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = guest.authority.certificate
    certificate = (
        x509.CertificateBuilder(subject_name=root.subject, issuer_name=root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(guest.authority.key, hashes.SHA256())
    )
    forged = Party(guest.mesh, "node", "forged", guest.directory, [certificate])
    write_certificate(forged.certificate, certificate)
    write_key(forged.key, key)
    return forged


FORGERIES: dict[str, tuple[x509.GeneralName, ...]] = {
    "a URI": (x509.UniformResourceIdentifier(MAIN),),
    "a URI beside its own": (x509.UniformResourceIdentifier(VISITOR), x509.UniformResourceIdentifier(MAIN)),
    "a host name": (x509.DNSName(MAIN),),
    "a host name beside its own URI": (x509.UniformResourceIdentifier(VISITOR), x509.DNSName(MAIN)),
    "a mail address": (x509.RFC822Name(MAIN),),
    "a URI below its own": (x509.UniformResourceIdentifier("spiffe://pmoves-mesh.guest/node/main"),),
}


@pytest.mark.parametrize("names", FORGERIES.values(), ids=FORGERIES)
async def test_the_ca_of_a_guest_cannot_make_a_member_of_the_other_mesh(
    house: House, names: tuple[x509.GeneralName, ...]
) -> None:
    """Not even with a key that the server knows."""
    forged = forge(house.guest, *names)
    known = house.guest.owner.member()
    pinned = replace_pins(house.guest, known.identity, (*known.pins, pin(forged.certificates[0])))
    await house.door.admit(pinned)
    problem = await refused(house.guest.settings(forged, house.port))
    assert isinstance(problem, LogError)
    log = (house.host.directory / "data" / "nats" / "nats-server.log").read_text()
    if names != FORGERIES["a URI below its own"]:
        assert "is not authorized to sign for this name" in log
    async with house.guest.connected(house.guest.owner, house.port):
        pass


def replace_pins(mesh: SecuredMesh, identity: str, pins: tuple[str, ...]) -> Access:
    access = mesh.guest_access()
    members = tuple(
        msgspec.structs.replace(member, pins=pins) if member.identity == identity else member
        for member in access.members
    )
    return msgspec.structs.replace(access, members=members)


async def test_the_ca_of_the_server_cannot_make_a_member_of_a_guest_either(house: House) -> None:
    forged = forge(house.host, x509.UniformResourceIdentifier(VISITOR))
    member = house.host.owner.member()
    access = house.host.access()
    widened = msgspec.structs.replace(member, pins=(*member.pins, pin(forged.certificates[0])))
    others = tuple(one for one in access.members if one.identity != member.identity)
    await house.server.admit(msgspec.structs.replace(access, members=(widened, *others)))
    assert isinstance(await refused(house.host.settings(forged, house.port)), LogError)


async def test_each_mesh_is_shown_a_server_certificate_of_its_own(house: House) -> None:
    """A guest's client trusts its own CA alone, and no other."""
    crossed = house.guest.settings(house.guest.owner, house.port, tls_server="pmoves-mesh")
    assert "TLS connection" in str(await refused(crossed))
    async with house.guest.connected(house.guest.parties[VISITOR], house.port):
        pass


async def test_a_guest_without_a_server_certificate_can_trust_the_one_of_the_host(house: House) -> None:
    await house.door.admit(house.guest.access())
    shared = {"tls_ca": house.host.roots, "tls_server": house.host.mesh}
    settings = house.guest.settings(house.guest.owner, house.port, **shared)
    async with Connection(settings) as connection:
        await connection.wait_connected(5)


async def test_what_a_guest_changes_leaves_the_others_as_they_are(house: House) -> None:
    host, guest = house.host, house.guest
    async with host.connected(host.owner, house.port) as main:
        for name in ("phone", "watch"):
            guest.party(name)
            await house.door.admit(guest.guest_access())
        await house.door.admit(guest.guest_access(guest.owner))
        gone = guest.parties["spiffe://guest/node/phone"]
        assert isinstance(await refused(guest.settings(gone, house.port)), LogError)
        await main.session().client.flush()
        assert main.generation == 1


async def test_a_guest_stays_a_guest_when_the_server_is_started_anew(house: House) -> None:
    await house.server.stop()
    await house.server.start()
    async with house.guest.connected(house.guest.owner, house.port):
        pass


async def test_a_guest_whose_files_are_gone_does_not_keep_the_server_from_starting(house: House) -> None:
    await house.server.stop()
    house.guest.owner.certificate.unlink()
    with capture_logs() as logged:
        await house.server.start()
    assert "a guest mesh has no server certificate" in [line["event"] for line in logged]
    async with house.host.connected(house.host.owner, house.port):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff\xfe",
        b'{"mesh":"pmoves-mesh","owner":"","anchor_pem":"","members":[]}',
        b'{"mesh":"guest","owner":"","anchor_pem":"no certificate","members":[]}',
    ],
)
async def test_a_guest_file_that_is_no_use_is_left_out_and_the_others_get_in(
    house: House, content: bytes
) -> None:
    path = house.host.directory / "data" / "nats" / "access" / "guest.json"
    path.write_bytes(content)
    with capture_logs() as logged:
        await house.server.reload()
    assert "a guest mesh is not let in" in [line["event"] for line in logged]
    async with house.host.connected(house.host.owner, house.port):
        pass
    assert isinstance(await refused(house.guest.settings(house.guest.owner, house.port)), LogError)


async def test_a_guest_cannot_take_the_place_of_the_servers_own_mesh(house: House, tmp_path: Path) -> None:
    twin = SecuredMesh(tmp_path / "twin")
    with pytest.raises(StartError, match=r"set PMOVES_MESH_NAME to another"):
        await house.door.admit(twin.access())


async def test_a_server_on_loopback_takes_no_guests_and_says_what_to_set(tmp_path: Path) -> None:
    guest = SecuredMesh(tmp_path, "guest")
    async with running(EmbeddedServer(locate(os.environ), tmp_path / "data", free_port(), CLOCK)):
        with pytest.raises(StartError, match=r"PMOVES_NATS_HOST") as caught:
            await GuestDoor(tmp_path / "data" / "nats", CLOCK).admit(guest.guest_access())
    assert "\n" not in str(caught.value)


async def test_a_directory_of_no_server_is_told_from_one_of_one(tmp_path: Path) -> None:
    guest = SecuredMesh(tmp_path, "guest")
    with pytest.raises(StartError, match=r"PMOVES_NATS_DIR") as caught:
        await GuestDoor(tmp_path / "nowhere", CLOCK).admit(guest.guest_access())
    assert "\n" not in str(caught.value)


async def test_a_renewed_server_certificate_of_a_guest_is_taken_up(house: House) -> None:
    guest = house.guest
    guest.certify(guest.owner)
    await house.door.admit(guest.guest_access())
    await house.door.reload()
    async with guest.connected(guest.owner, house.port):
        pass


async def test_a_limit_on_a_trust_domain_of_one_label_is_one_that_the_server_understands(
    tmp_path: Path,
) -> None:
    """The anchor alone, in a server that knows nothing else: its own members pass, others do not."""
    mesh = SecuredMesh(tmp_path)
    anchors = tmp_path / "anchors.pem"
    anchors.write_text(constrained_anchor(mesh.authority.certificate, mesh.mesh))
    owner = mesh.owner
    extra = (
        f'tls {{ cert_file: "{owner.certificate}", key_file: "{owner.key}", '
        f'ca_file: "{anchors}", verify: true }}'
    )
    forged = forge(mesh, x509.UniformResourceIdentifier(VISITOR))
    with NatsServer(tmp_path, config_extra=extra) as server:
        settings = mesh.settings(owner, server.port, api_prefix="$JS.API.")
        async with Connection(settings) as connection:
            await connection.wait_connected(5)
        stranger = replace(settings, tls_cert=forged.certificate, tls_key=forged.key)
        assert isinstance(await refused(stranger), LogError)
        assert "is not permitted by any constraint" in server.log

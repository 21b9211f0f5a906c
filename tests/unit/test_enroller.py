"""The CA's counter: who gets a certificate, who does not and why, and what is written down about it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.agent.trust.enroller import LocalEnroller
from pmoves_mesh.agent.trust.issuing import GRACE_MS, PACE_MAX, Issuing
from pmoves_mesh.core.event import EnrolmentRefused, IdentityIssued
from pmoves_mesh.core.limits import patterns_of
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import EnrolmentRefusedError, LogUnavailable, PkiError, RateLimitedError
from pmoves_mesh.pki import keystore, tokens
from pmoves_mesh.pki.requests import key_id, make_request
from pmoves_mesh.pki.rotation import begin_rotation
from pmoves_mesh.ports import Enrolment, IssuedIdentity, Renewal, ServiceRequest
from pmoves_mesh.store.ledger import IssuedCertificate, StoredToken

MESH = "test-mesh"
NOW_MS = 1_800_000_000_000
TTL_MS = 900_000
DAY_MS = 86_400_000


class StoodClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = NOW_MS
        self.slept = asyncio.Event()

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1000

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        await self.slept.wait()
        self.slept.clear()


class Office:
    """A CA, its enroller, and all that it told others."""

    def __init__(self, tls_dir: Path) -> None:
        keystore.ensure_authority(tls_dir, MESH, NOW_MS)
        self.tls_dir = tls_dir
        self.clock = StoodClock()
        self.issuing = Issuing(tls_dir, MESH, "main")
        self.ledger = self.issuing.ledger
        self.issued: list[IssuedCertificate] = []
        self.notes: list[tuple[type, dict[str, Any]]] = []
        self.failure: Exception | None = None
        self.enroller = LocalEnroller(
            self.issuing,
            self.clock,
            issued=self.admit,
            note=self.note,
            settings=lambda node: {"MESH_HOSTNAME": node},
        )

    async def admit(self, certificate: IssuedCertificate) -> None:
        assert self.ledger.certificate(certificate.fingerprint) == certificate, "durable before it is shown"
        if self.failure is not None:
            raise self.failure
        self.issued.append(certificate)

    async def note(self, event: type, **fields: str | int) -> None:
        place = {"mesh": MESH, "node": "main", "incarnation": 1, "revision": 1}
        event(**place, **fields)
        self.notes.append((event, fields))

    def token(self, **fields: Any) -> tuple[str, str]:
        """Returns the public part and the secret of a new token."""
        made = tokens.new_token(MESH, ("https://127.0.0.1:8100",), "0" * 64, "main")
        given = {"created_ms": self.clock.now, "expires_ms": self.clock.now + TTL_MS}
        self.ledger.add_token(
            StoredToken(**(given | {"id": made.id, "hash": tokens.hashed(made.secret)} | fields))
        )
        return made.id, made.secret

    async def enrol(self, token: tuple[str, str], host: Host) -> IssuedIdentity:
        wanted = Enrolment(token=token[0], secret=token[1], csr=host.csr(), remote="10.0.0.7")
        return await self.enroller.enrol(wanted)

    async def renew(self, host: Host, certificate: str, signer: Host | None = None) -> IssuedIdentity:
        csr = (signer or host).csr()
        return await self.enroller.renew(Renewal(certificate=certificate, csr=csr, remote="10.0.0.7"))

    async def certify(self, name: str, requester: str, host: Host | None = None) -> IssuedIdentity:
        csr = (host or Host(name, "service")).csr()
        return await self.enroller.certify(
            ServiceRequest(name=name, csr=csr, requester=requester, remote="10.0.0.7")
        )

    def refused(self) -> list[tuple[str, int]]:
        return [(note["reason"], note["count"]) for kind, note in self.notes if kind is EnrolmentRefused]


class Host:
    """Somebody who wants a certificate, with a key of its own."""

    def __init__(self, name: str, kind: Any = "node", mesh: str = MESH) -> None:
        self.name, self.kind, self.mesh = name, kind, mesh
        self.key = ec.generate_private_key(ec.SECP256R1())

    def csr(self) -> str:
        return make_request(self.mesh, self.kind, self.name, self.key, (f"{self.name}.lan",))


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "tls")


def read(identity: IssuedIdentity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate.encode())


async def refusal(asking: Any) -> str:
    with pytest.raises(EnrolmentRefusedError) as refused:
        await asking
    assert "\n" not in str(refused.value)
    return refused.value.reason


# Joining


async def test_a_token_lets_a_host_in_with_what_the_token_says(office: Office):
    jetson = Host("jetson")
    token = office.token(node="jetson", allow=("whisper-*",), lifetime_s=3600)
    given = await office.enrol(token, jetson)
    certificate = read(given)
    assert certificate.public_key() == jetson.key.public_key()
    assert patterns_of(certificate) == ("whisper-*",)
    assert certificate.not_valid_after_utc.timestamp() == NOW_MS / 1000 + 3600
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["jetson.lan"]
    assert given.settings == {"MESH_HOSTNAME": "jetson"}
    (root,) = given.roots
    signer = Trust(MESH, [x509.load_pem_x509_certificate(root.encode())]).admit(office.issued[0].der)
    assert (signer.id, signer.fingerprint) == (
        f"spiffe://{MESH}/node/jetson",
        office.issued[0].fingerprint,
    )
    assert office.issued[0].key_id == key_id(jetson.key.public_key())
    ((kind, note),) = office.notes
    assert kind is IdentityIssued
    assert (note["identity"], note["token"], note["remote"]) == (signer.id, token[0], "10.0.0.7")


async def test_each_token_that_is_no_good_is_refused_for_its_own_reason(office: Office):
    good, used = office.token(), office.token()
    await office.enrol(used, Host("first"))
    host = Host("jetson")
    assert await refusal(office.enrol(("0000", good[1]), host)) == "token_unknown"
    assert await refusal(office.enrol((good[0], used[1]), host)) == "token_forged"
    assert await refusal(office.enrol((used[0], good[1]), host)) == "token_forged"
    assert await refusal(office.enrol(used, host)) == "token_used"
    office.clock.now += TTL_MS
    assert await refusal(office.enrol(good, host)) == "token_expired"
    assert await refusal(office.enrol(used, host)) == "token_used"
    assert [one.name for one in office.ledger.certificates()] == ["first"]
    assert [one.name for one in office.issued] == ["first"]
    assert {reason for reason, _ in office.refused()} == {
        "token_unknown",
        "token_forged",
        "token_used",
        "token_expired",
    }


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (Host("other"), "name_not_allowed"),
        (Host("jetson", "operator"), "name_not_allowed"),
        (Host("jetson", "service"), "name_not_allowed"),
        (Host("jetson", mesh="elsewhere"), "request_rejected"),
    ],
)
async def test_a_request_for_anybody_but_the_tokens_node_leaves_the_token_unused(
    office: Office, host: Host, reason: str
):
    token = office.token(node="jetson")
    assert await refusal(office.enrol(token, host)) == reason
    assert office.issued == []
    await office.enrol(token, Host("jetson"))
    assert len(office.issued) == 1


async def test_a_name_that_a_living_node_has_is_given_only_by_a_token_that_names_it(office: Office):
    await office.enrol(office.token(), Host("jetson"))
    token = office.token()
    assert await refusal(office.enrol(token, Host("jetson"))) == "name_taken"
    await office.enrol(office.token(node="jetson"), Host("jetson"))
    await office.enrol(token, Host("xavier"))
    assert [one.name for one in office.issued] == ["jetson", "jetson", "xavier"]


async def test_a_name_whose_certificate_ended_or_was_revoked_is_free_again(office: Office):
    await office.enrol(office.token(lifetime_s=60), Host("slept"))
    await office.enrol(office.token(), Host("stolen"))
    office.ledger.revoke([office.issued[1].fingerprint], office.clock.now)
    office.clock.now += 60_000
    for name in ("slept", "stolen"):
        await office.enrol(office.token(), Host(name))


async def test_nobody_becomes_the_node_that_keeps_the_authority(office: Office):
    for named in (None, "main"):
        assert await refusal(office.enrol(office.token(node=named), Host("main"))) == "name_taken"


async def test_a_host_whose_answer_went_astray_gets_the_same_again_and_nobody_else_does(office: Office):
    token, host = office.token(), Host("jetson")
    office.failure = LogUnavailable("away")
    with pytest.raises(LogUnavailable):
        await office.enrol(token, host)
    office.failure = None
    given = await office.enrol(token, host)
    assert await refusal(office.enrol(token, Host("jetson"))) == "token_used"
    assert len(office.ledger.certificates()) == 1
    assert read(given).public_key() == host.key.public_key()
    assert [kind for kind, _ in office.notes] == [IdentityIssued, EnrolmentRefused]
    office.ledger.revoke([office.issued[0].fingerprint], office.clock.now)
    assert await refusal(office.enrol(token, host)) == "certificate_revoked"


async def test_of_many_hosts_that_show_a_token_at_once_one_is_let_in(office: Office):
    token = office.token()
    answers = await asyncio.gather(
        *(office.enrol(token, Host(f"n{number}")) for number in range(10)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, EnrolmentRefusedError)]
    assert [one.reason for one in refused] == ["token_used"] * 9
    assert len(office.ledger.certificates()) == len(office.issued) == 1


async def test_of_two_hosts_that_want_a_name_at_once_one_gets_it(office: Office):
    answers = await asyncio.gather(
        *(office.enrol(office.token(), Host("jetson")) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, IssuedIdentity) for answer in answers) == 1


async def test_a_key_that_was_revoked_is_never_certified_again(office: Office):
    host = Host("jetson")
    await office.enrol(office.token(), host)
    office.ledger.revoke([office.issued[0].fingerprint], office.clock.now)
    assert await refusal(office.enrol(office.token(), host)) == "certificate_revoked"


# Renewal


async def joined(office: Office, host: Host, **fields: Any) -> str:
    return (await office.enrol(office.token(**fields), host)).certificate


async def test_a_renewal_keeps_limits_and_lifetime_and_takes_no_token(office: Office):
    host = Host("jetson")
    held = await joined(office, host, allow=("rag",), lifetime_s=7200)
    for _ in range(3):
        office.clock.now += 5_000_500
        given = await office.renew(host, held)
        certificate = read(given)
        assert patterns_of(certificate) == ("rag",)
        assert certificate.not_valid_after_utc.timestamp() == office.clock.now // 1000 + 7200
        assert certificate.public_key() == host.key.public_key()
        assert given.settings == {}
        held = given.certificate
    assert office.notes[-1][1]["token"] == ""


async def test_a_node_that_slept_past_its_end_comes_back_within_ninety_days(office: Office):
    host = Host("jetson")
    held = await joined(office, host, lifetime_s=3600)
    office.clock.now += 3_600_000 + GRACE_MS - 1
    fresh = await office.renew(host, held)
    assert read(fresh).not_valid_after_utc.timestamp() * 1000 > office.clock.now
    office.clock.now += 1
    assert await refusal(office.renew(host, held)) == "grace_over"


async def test_each_renewal_that_is_no_good_is_refused_for_its_own_reason(office: Office, tmp_path: Path):
    host = Host("jetson")
    held = await joined(office, host)
    thief, renamed = Host("jetson"), Host("other")
    renamed.key = host.key
    assert await refusal(office.renew(host, held, thief)) == "key_mismatch"
    assert await refusal(office.renew(host, held, renamed)) == "name_not_allowed"
    assert await refusal(office.renew(host, "nothing")) == "certificate_unknown"
    foreign = Office(tmp_path / "foreign")
    assert await refusal(office.renew(host, await joined(foreign, host))) == "certificate_unknown"
    office.ledger.revoke([office.issued[0].fingerprint], office.clock.now)
    assert await refusal(office.renew(host, held)) == "certificate_revoked"
    assert len(office.issued) == 1


async def test_a_host_in_whose_place_another_came_cannot_come_back(office: Office):
    first, second = Host("jetson"), Host("jetson")
    old = await joined(office, first, lifetime_s=60)
    office.clock.now += 70_000
    new = await joined(office, second)
    assert await refusal(office.renew(first, old)) == "name_taken"
    await office.renew(second, new)


async def test_during_a_rotation_a_renewal_comes_from_the_new_authority_with_both_roots(office: Office):
    host = Host("jetson")
    held = await joined(office, host)
    begun = begin_rotation(office.tls_dir, MESH, office.clock.now)
    given = await office.renew(host, held)
    roots = [x509.load_pem_x509_certificate(root.encode()) for root in given.roots]
    assert roots == [begun.root, *begun.retiring]
    read(given).verify_directly_issued_by(begun.root)


async def test_whoever_asks_too_often_is_told_to_wait(office: Office):
    host = Host("jetson")
    held = await joined(office, host)
    for _ in range(PACE_MAX - 1):
        await office.renew(host, held)
    with pytest.raises(RateLimitedError) as limited:
        await office.renew(host, held)
    assert 0 < limited.value.retry_after_s <= 60
    office.clock.now += 60_000
    await office.renew(host, held)


# Services


async def test_a_service_of_this_host_gets_an_identity(office: Office):
    for requester in ("", f"spiffe://{MESH}/node/main"):
        given = await office.certify("whisper", requester)
        signer = Trust(MESH, keystore.read_roots(office.tls_dir)).admit(office.issued[-1].der)
        assert signer.id == f"spiffe://{MESH}/service/whisper"
        assert given.settings == {}
    assert [one.requester for one in office.issued] == ["", ""]


async def test_a_node_vouches_for_the_services_that_its_certificate_allows(office: Office):
    await office.enrol(office.token(allow=("whisper-*",)), Host("jetson"))
    node = f"spiffe://{MESH}/node/jetson"
    await office.certify("whisper-large", node)
    assert office.issued[-1].requester == node
    assert await refusal(office.certify("rag", node)) == "not_allowed"


@pytest.mark.parametrize("name", ["nats", "client-main"])
async def test_no_other_host_gets_an_identity_of_the_mesh_itself(office: Office, name: str):
    await office.enrol(office.token(), Host("jetson"))
    assert await refusal(office.certify(name, f"spiffe://{MESH}/node/jetson")) == "not_allowed"
    await office.certify(name, "")


async def test_whoever_cannot_vouch_for_a_service_is_refused(office: Office):
    await office.enrol(office.token(), Host("jetson"))
    await office.certify("rag", "")
    node = f"spiffe://{MESH}/node/jetson"
    assert await refusal(office.certify("rag", f"spiffe://{MESH}/node/nobody")) == "certificate_unknown"
    assert await refusal(office.certify("rag", f"spiffe://{MESH}/service/rag")) == "not_allowed"
    assert await refusal(office.certify("rag", "spiffe://elsewhere/node/jetson")) == "not_allowed"
    assert await refusal(office.certify("rag", node, Host("rag", "operator"))) == "name_not_allowed"
    assert await refusal(office.certify("rag", node, Host("other", "service"))) == "name_not_allowed"
    office.ledger.revoke([office.issued[0].fingerprint], office.clock.now)
    assert await refusal(office.certify("rag", node)) == "certificate_revoked"


# What the CA gave in other ways


async def test_the_files_that_init_made_are_recorded_once_and_can_be_revoked(office: Office):
    keystore.init(office.tls_dir, MESH, "main", [], NOW_MS)
    foreign = keystore.init(office.tls_dir / "services", MESH, "main", [], NOW_MS)[0]
    assert foreign, "certificates of another CA lie there too"
    for _ in range(2):
        recorded = office.issuing.record_files(NOW_MS)
        assert {(one.kind, one.name) for one in recorded} == {("service", "nats"), ("service", "client-main")}
    assert len(office.ledger.certificates()) == 2
    assert len(office.ledger.revoke([recorded[0].fingerprint], NOW_MS)) == 1


# What is written down


async def test_a_flood_of_refusals_is_one_event_of_each_reason_in_ten_seconds(office: Office):
    for _ in range(50):
        await refusal(office.enrol(("0000", "x"), Host("jetson")))
    await refusal(office.renew(Host("jetson"), "nothing"))
    assert office.refused() == [("token_unknown", 1), ("certificate_unknown", 1)]
    office.clock.now += 10_000
    noting = asyncio.create_task(office.enroller.run())
    office.clock.slept.set()
    async with asyncio.timeout(10):
        while len(office.refused()) < 3:
            await asyncio.sleep(0)
    noting.cancel()
    await asyncio.wait([noting])
    assert office.refused()[2] == ("token_unknown", 49)
    note = office.notes[2][1]
    assert (note["name"], note["token"], note["remote"]) == ("node/jetson", "0000", "10.0.0.7")


async def test_what_a_stranger_sends_does_not_make_an_event_too_large(office: Office):
    await refusal(office.enrol(("t" * 100_000, "x"), Host("jetson")))
    (_, note) = office.notes[0]
    assert len(note["token"]) <= 128


async def test_a_caller_that_goes_away_does_not_leave_a_certificate_that_nobody_knows(office: Office):
    begun, go_on = asyncio.Event(), asyncio.Event()
    admit = office.admit

    async def slowly(certificate: IssuedCertificate) -> None:
        begun.set()
        await go_on.wait()
        await admit(certificate)

    office.enroller._issued = slowly
    asking = asyncio.create_task(office.enrol(office.token(), Host("jetson")))
    async with asyncio.timeout(10):
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        go_on.set()
        while not office.issued:
            await asyncio.sleep(0)


async def test_without_the_authoritys_key_nobody_is_let_in_and_the_token_stays(office: Office):
    token = office.token()
    key = (office.tls_dir / "ca.key").rename(office.tls_dir / "away.key")
    with pytest.raises(PkiError, match=r"ca\.key"):
        await office.enrol(token, Host("jetson"))
    key.rename(office.tls_dir / "ca.key")
    await office.enrol(token, Host("jetson"))

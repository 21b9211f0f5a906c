"""The routes that give identities: who may ask for which, and how a refusal is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import announced, revoked
from certificates import MESH, FileAuthority
from http_support import HOST, NODE, Caller, exposed, served
from structlog.testing import capture_logs

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.errors import (
    CertificateExpired,
    CertificateRequestRejected,
    EnrolmentRefusedError,
    KeyPermission,
    LogUnavailable,
    RateLimitedError,
)
from pmoves_mesh.ports import Enrolment, IssuedIdentity, Renewal, ServiceRequest
from pmoves_mesh.views.http import enrolment
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.facade import TrustReport
from pmoves_mesh.views.http.limits import Bounds
from pmoves_mesh.views.http.listener import Exposure

TOKEN = "correct horse battery staple"
SECRET = "what only programs of this host can read"
ENROL = {"token": "t1", "secret": "s1", "csr": "a request"}
RENEW = {"certificate": "the old one", "csr": "a request"}
CERTIFY = {"name": "Whisper", "csr": "a request"}
ISSUED = IssuedIdentity(certificate="a certificate", roots=("a root",), settings={"NATS_URL": "tls://main"})
ALL = [("/api/enrol", ENROL), ("/api/renew", RENEW), ("/api/certificates", CERTIFY)]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def as_json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


class Ledger:
    """An enroller that notes what it is asked, and answers what a test wants."""

    def __init__(self) -> None:
        self.asked: list[Enrolment | Renewal | ServiceRequest] = []
        self.error: Exception | None = None

    async def _answer(self, wanted: Enrolment | Renewal | ServiceRequest) -> IssuedIdentity:
        self.asked.append(wanted)
        if self.error is not None:
            raise self.error
        return ISSUED

    enrol = renew = certify = _answer


class StillClock(SystemClock):
    def monotonic_s(self) -> float:
        return 1000.0


@pytest.fixture
def ca(tmp_path: Path) -> FileAuthority:
    return FileAuthority(tmp_path / "tls")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


async def test_a_host_enrols_and_renews_over_tls_and_shows_no_certificate(
    tmp_path: Path, ca: FileAuthority, ledger: Ledger
):
    async with exposed(tmp_path, ca, enroller=ledger) as here:
        caller = here.caller()
        for path, body in (("/api/enrol", ENROL), ("/api/renew", RENEW)):
            answer = await caller.ask("POST", path, json=body)
            assert (answer.status, answer.body) == (200, as_json(ISSUED))
        assert ledger.asked == [
            Enrolment(**ENROL, remote=caller.address),
            Renewal(**RENEW, remote=caller.address),
        ]


async def test_without_tls_only_this_host_asks_for_identities(
    tmp_path: Path, ca: FileAuthority, ledger: Ledger
):
    async with exposed(
        tmp_path, ca, exposure=Exposure(insecure=True), enroller=ledger, token=TOKEN, local_secret=SECRET
    ) as here:
        for path, body in ALL:
            refused = await here.plain().ask("POST", path, json=body, headers=bearer(TOKEN))
            assert (refused.status, "over TLS only" in refused.body["detail"]) == (403, True)
            local = await here.plain(HOST).ask("POST", path, json=body, headers=bearer(SECRET))
            assert local.status == 200
        assert [one.remote for one in ledger.asked] == [HOST] * 3


@pytest.mark.parametrize(("path", "body"), ALL)
async def test_a_web_page_from_elsewhere_asks_for_no_identity(
    tmp_path: Path, ledger: Ledger, path: str, body: dict[str, str]
):
    async with served(tmp_path) as mesh:
        facade = replace(mesh.facade, enroller=ledger, local_secret=SECRET)
        async with serving(facade, HOST, 0) as port:
            headers = {"Origin": "http://evil.example", **bearer(SECRET)}
            assert (await Caller(port, HOST).ask("POST", path, json=body, headers=headers)).status == 403
    assert not ledger.asked


@pytest.mark.parametrize(("path", "body"), ALL)
async def test_a_node_that_does_not_keep_the_ca_says_so(tmp_path: Path, path: str, body: dict[str, str]):
    async with served(tmp_path) as mesh:
        mesh.facade = replace(mesh.facade, local_secret=SECRET)
        async with serving(mesh.facade, HOST, 0) as port:
            answer = await Caller(port, HOST).ask("POST", path, json=body, headers=bearer(SECRET))
            assert (answer.status, "does not keep the CA" in answer.body["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("error", "status", "members"),
    [
        (EnrolmentRefusedError("token_used", "the token was used"), 403, {"reason": "token_used"}),
        (CertificateRequestRejected("the key is not P-256"), 422, {"field": "csr"}),
        (RateLimitedError("attempts", 41.2), 429, {}),
        (CertificateExpired("the mesh's CA", "2026-01-01"), 503, {}),
        (KeyPermission("ca.key", "cannot be read by this user"), 503, {}),
        (LogUnavailable("no answer within 2 s"), 503, {}),
    ],
)
async def test_a_refusal_says_why(
    tmp_path: Path, ca: FileAuthority, ledger: Ledger, error: Exception, status: int, members: dict[str, str]
):
    ledger.error = error
    async with exposed(tmp_path, ca, enroller=ledger) as here:
        with capture_logs() as logged:
            answer = await here.caller().ask("POST", "/api/enrol", json=ENROL)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["detail"] == str(error)
    assert members.items() <= answer.body.items()
    assert answer.headers.get("Retry-After") == {429: "42", 503: "1"}.get(status)
    faults = [entry for entry in logged if entry["log_level"] == "error"]
    assert bool(faults) == isinstance(error, CertificateExpired | KeyPermission)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        (b"[]", 422, "body"),
        (b'{"token": "t1", "secret": "s1"}', 422, "body"),
        (b'{"token": 1, "secret": "s1", "csr": "x"}', 422, "token"),
        (b'{"token": "t1", "secret": "", "csr": "x"}', 422, "secret"),
        (b'{"token": "t1", "secret": "s1", "csr": "%b"}' % (b"x" * 20_000), 422, "csr"),
        (b"x" * 70_000, 413, None),
    ],
)
async def test_a_request_that_is_none_is_refused_by_name(
    tmp_path: Path, ledger: Ledger, body: bytes, status: int, field: str | None
):
    async with served(tmp_path) as mesh, serving(replace(mesh.facade, enroller=ledger), HOST, 0) as port:
        answer = await Caller(port, HOST).ask("POST", "/api/enrol", data=body)
        assert (answer.status, answer.body.get("field")) == (status, field)
    assert not ledger.asked


async def test_a_ca_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    async def never(_: Any) -> IssuedIdentity:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(ledger, "enrol", never)
    monkeypatch.setattr(enrolment, "_ANSWER_S", 0.01)
    async with served(tmp_path) as mesh, serving(replace(mesh.facade, enroller=ledger), HOST, 0) as port:
        answer = await Caller(port, HOST).ask("POST", "/api/enrol", json=ENROL)
        assert (answer.status, "the CA did not answer" in answer.body["detail"]) == (503, True)


async def test_attempts_to_join_are_few_for_each_host(tmp_path: Path, ca: FileAuthority, ledger: Ledger):
    bounds = Bounds(enrolments_per_min=3)
    async with exposed(tmp_path, ca, enroller=ledger, bounds=bounds, clock=StillClock()) as here:
        paths = ["/api/enrol", "/api/renew", "/api/enrol", "/api/renew", "/api/enrol"]
        bodies = {"/api/enrol": ENROL, "/api/renew": RENEW}
        answers = [await here.caller().ask("POST", path, json=bodies[path]) for path in paths]
        assert [one.status for one in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].headers["Retry-After"] == "20"
        assert (await here.plain(HOST).ask("POST", "/api/enrol", json=ENROL)).status == 200
        assert len(ledger.asked) == 4


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (bearer(SECRET), 200),
        (bearer(TOKEN), 200),
        (bearer("wrong"), 401),
        (bearer(""), 401),
        ({}, 401),
    ],
)
async def test_a_program_of_this_host_asks_for_its_service_with_the_secret_or_the_token(
    tmp_path: Path, ledger: Ledger, authorization: dict[str, str], status: int
):
    async with served(tmp_path, token=TOKEN) as mesh:
        facade = replace(mesh.facade, enroller=ledger, local_secret=SECRET)
        async with serving(facade, HOST, 0) as port:
            answer = await Caller(port, HOST).ask(
                "POST", "/api/certificates", json=CERTIFY, headers=authorization
            )
            assert answer.status == status
    wanted = ServiceRequest(name="whisper", csr=CERTIFY["csr"], requester="", remote=HOST)
    assert ledger.asked == ([wanted] if status == 200 else [])


async def test_where_no_secret_is_set_none_opens(tmp_path: Path, ledger: Ledger):
    async with served(tmp_path) as mesh, serving(replace(mesh.facade, enroller=ledger), HOST, 0) as port:
        for headers in ({}, bearer(""), bearer("None")):
            answer = await Caller(port, HOST).ask("POST", "/api/certificates", json=CERTIFY, headers=headers)
            assert answer.status == 401


@pytest.mark.parametrize("kind", ["node", "operator"])
async def test_a_node_or_an_operator_of_another_host_vouches_for_a_service(
    tmp_path: Path, ca: FileAuthority, ledger: Ledger, kind: str
):
    voucher = ca.identity("beta", kind)
    async with exposed(tmp_path, ca, enroller=ledger) as here:
        caller = here.caller(voucher)
        assert (await caller.ask("POST", "/api/certificates", json=CERTIFY)).status == 200
        (asked,) = ledger.asked
        assert asked == ServiceRequest(
            name="whisper",
            csr=CERTIFY["csr"],
            requester=f"spiffe://{MESH}/{kind}/beta",
            remote=caller.address,
        )
        here.mesh.replica.registry.revoked[voucher.fingerprint] = 1
        assert (await caller.ask("POST", "/api/certificates", json=CERTIFY)).status == 403
        rebound = {"Host": "rebound.example"}
        assert (await caller.ask("POST", "/api/certificates", json=CERTIFY, headers=rebound)).status == 403


async def test_nobody_else_vouches_for_a_service(tmp_path: Path, ca: FileAuthority, ledger: Ledger):
    async with exposed(tmp_path, ca, enroller=ledger, token=TOKEN, local_secret=SECRET) as here:
        for caller, headers in (
            (here.caller(), {}),
            (here.caller(), bearer(SECRET)),  # it is good on its own host alone
            (here.caller(), bearer(TOKEN)),
            (here.caller(ca.identity("whisper", "service")), {}),
        ):
            answer = await caller.ask("POST", "/api/certificates", json=CERTIFY, headers=headers)
            assert answer.status == 403
            assert SECRET not in str(answer.body)
    assert not ledger.asked


async def test_the_trust_is_open_to_all_and_holds_what_a_newcomer_needs(
    tmp_path: Path, ca: FileAuthority, ledger: Ledger
):
    async with exposed(tmp_path, ca, enroller=ledger, enrols=True) as here:
        await here.mesh.tell(announced(1, [], node="beta"))
        fingerprint = here.mesh.identities["beta", "node"].fingerprint
        position = here.mesh.publish(revoked(fingerprint), kind="operator", by="root")
        answer = await here.caller().ask("GET", f"/api/trust?min_position={position}")
        report = msgspec.convert(answer.body, TrustReport)
        assert (report.mesh, report.node, report.enrols) == (MESH, NODE, True)
        assert report.ca == list(here.mesh.replica.verifier.trust.root_fingerprints)
        assert report.roots[1] == ca.roots.read_text()
        assert report.revoked == [fingerprint]
        (beta,) = [one for one in report.certificates if one.name == "beta"]
        assert (beta.identity, beta.fingerprint) == (f"spiffe://{MESH}/node/beta", fingerprint)
        assert (beta.root, beta.revoked) == (report.ca[0], True)
        assert beta.not_after == "2026-02-01T00:00:00.000Z"


async def test_where_tokens_are_kept_the_trust_says_how_many_could_still_be_used(tmp_path: Path):
    async with (
        served(tmp_path) as mesh,
        serving(replace(mesh.facade, tokens_pending=lambda: 7), HOST, 0) as port,
    ):
        assert (await Caller(port, HOST).ask("GET", "/api/trust")).body["tokens_pending"] == 7

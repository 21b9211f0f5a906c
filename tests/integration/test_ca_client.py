"""Asking the CA over HTTPS: the secret goes to the node that the token names, and to nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from authority_host import MESH, Answer, Host, pem
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pmoves_mesh.agent.trust import ca_client
from pmoves_mesh.agent.trust.enroller import RemoteEnroller
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.errors import EnrolmentRefusedError, PkiError, RateLimitedError
from pmoves_mesh.pki.authority import Authority
from pmoves_mesh.pki.requests import make_request, read_request
from pmoves_mesh.pki.rotation import begin_rotation
from pmoves_mesh.ports import ServiceRequest


def request_of(name: str, kind: Any = "node") -> str:
    return make_request(MESH, kind, name, ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
async def main(tmp_path: Path) -> AsyncIterator[Host]:
    async with Host(tmp_path / "main").serving() as host:
        yield host


async def refusal(asking: Awaitable[Any]) -> EnrolmentRefusedError:
    with pytest.raises(EnrolmentRefusedError) as refused:
        await asking
    assert "\n" not in str(refused.value)
    return refused.value


# Joining


async def test_a_host_joins_with_nothing_but_the_token(main: Host):
    token, csr = main.token(), request_of("jetson")
    given = await ca_client.join(token, csr)
    certificate = x509.load_pem_x509_certificate(given.certificate.encode())
    assert certificate.public_key() == read_request(csr, MESH).public_key
    assert given.roots == (pem(main.roots[0]),)
    assert given.settings == {"NATS_URL": "tls://main:4222"}
    assert main.asked == [
        ("/api/trust", {}),
        ("/api/enrol", {"token": token.id, "secret": token.secret, "csr": csr}),
    ]
    assert main.peers == [None, None], "who has no identity yet shows none"


async def test_a_host_with_another_authority_never_sees_the_secret(main: Host, tmp_path: Path):
    async with Host(tmp_path / "impostor").serving() as impostor:
        token = main.token(urls=(impostor.url,))
        refused = await refusal(ca_client.join(token, request_of("jetson")))
        assert refused.reason == "wrong_ca"
        assert impostor.url in str(refused)
        assert [path for path, _ in impostor.asked] == ["/api/trust"]


async def test_a_host_that_shows_the_right_authority_but_does_not_have_it_never_sees_the_secret(
    main: Host, tmp_path: Path
):
    async with Host(tmp_path / "impostor").serving() as impostor:
        impostor.answers["/api/trust"] = (200, {"mesh": MESH, "roots": [pem(main.roots[0])]})
        token = main.token(urls=(impostor.url,))
        refused = await refusal(ca_client.join(token, request_of("jetson")))
        assert refused.reason == "wrong_ca"
        assert [path for path, _ in impostor.asked] == ["/api/trust"]


async def test_another_node_of_the_right_mesh_never_sees_the_secret(main: Host, tmp_path: Path):
    async with Host(tmp_path / "main", node="thief").serving() as thief:
        assert thief.roots == main.roots
        token = main.token(urls=(thief.url,), issuer="main")
        refused = await refusal(ca_client.join(token, request_of("jetson")))
        assert refused.reason == "wrong_ca"
        assert f"spiffe://{MESH}/node/thief" in str(refused)
        assert [path for path, _ in thief.asked] == ["/api/trust"]


async def test_the_addresses_are_tried_in_turn_until_the_right_one_answers(main: Host, tmp_path: Path):
    async with Host(tmp_path / "neighbour").serving() as neighbour:
        token = main.token(urls=("https://127.0.0.1:1", neighbour.url, main.url))
        assert (await ca_client.join(token, request_of("jetson"))).certificate
        token = main.token(urls=("https://127.0.0.1:1", neighbour.url))
        assert (await refusal(ca_client.join(token, request_of("jetson")))).reason == "wrong_ca"


async def test_a_refusal_is_passed_on_with_its_reason_and_ends_the_search(main: Host):
    main.answers["/api/enrol"] = (
        403,
        {"title": "no", "detail": "this token\nwas used", "reason": "token_used"},
    )
    token = main.token(urls=(main.url, main.url))
    refused = await refusal(ca_client.join(token, request_of("jetson")))
    assert (refused.reason, str(refused)) == ("token_used", "this token was used")
    assert len(main.asked) == 2


async def test_a_host_that_asks_too_often_is_told_when_to_come_back(main: Host):
    main.answers["/api/enrol"] = (429, {"title": "slowly"})
    with pytest.raises(RateLimitedError) as limited:
        await ca_client.join(main.token(), request_of("jetson"))
    assert limited.value.retry_after_s == 7


@pytest.mark.parametrize("path", ["/api/trust", "/api/enrol"])
@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>It works!</html>"),
        (200, b"\xff\xfe"),
        (200, [1, 2]),
        (200, {"mesh": MESH, "roots": ["nothing"], "certificate": "nothing"}),
        (200, b"[" * 100_000),
        (200, b'"' + b"x" * (ca_client.ANSWER_BYTES_MAX + 1) + b'"'),
        (302, {}),
        (404, b"not here"),
        (500, {"title": "a bug"}),
    ],
)
async def test_an_answer_that_makes_no_sense_is_one_line_with_the_address(
    main: Host, path: str, answer: Answer
):
    main.answers[path] = answer
    with pytest.raises(PkiError) as failed:
        await ca_client.join(main.token(), request_of("jetson"))
    assert main.url in str(failed.value)
    assert "\n" not in str(failed.value)
    assert not isinstance(failed.value, EnrolmentRefusedError)


async def test_a_host_that_hangs_is_given_up(main: Host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ca_client, "TIMEOUT_S", 0.3)
    over = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with main.serving(hang):
        with pytest.raises(PkiError, match="did not answer within"):
            await ca_client.join(main.token(), request_of("jetson"))
        over.set()


async def test_a_port_that_does_not_speak_tls_is_given_up():
    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(PkiError, match="cannot be reached"):
        await ca_client.fetch_roots(url)
    server.close()


async def test_a_certificate_that_was_not_asked_for_is_not_taken(main: Host):
    token = main.token()
    _, theirs = main.answer("/api/enrol", {"csr": request_of("other")})
    main.answers["/api/enrol"] = (200, theirs)
    with pytest.raises(PkiError, match="not asked for: it is that of spiffe://test-mesh/node/other"):
        await ca_client.join(token, request_of("jetson"))
    del main.answers["/api/enrol"]
    main.issuer = Authority.create(MESH, SystemClock().now_ms())
    with pytest.raises(PkiError, match="does not trust"):
        await ca_client.join(token, request_of("jetson"))


async def test_during_a_rotation_a_host_that_pinned_the_old_authority_takes_both(main: Host):
    token = main.token()
    begun = begin_rotation(main.tls_dir, MESH, SystemClock().now_ms())
    given = await ca_client.join(token, request_of("jetson"))
    assert given.roots == (pem(begun.root), *map(pem, begun.retiring))
    x509.load_pem_x509_certificate(given.certificate.encode()).verify_directly_issued_by(begun.root)


# Renewal, and services


async def test_a_renewal_shows_no_certificate_and_goes_to_a_node_of_the_mesh_alone(
    main: Host, tmp_path: Path
):
    csr, held = request_of("jetson"), pem(main.identity.certificate)
    given = await ca_client.renew(("https://127.0.0.1:1", main.url), main.roots, MESH, csr, held)
    assert x509.load_pem_x509_certificate(given.certificate.encode()).issuer == main.roots[0].subject
    assert main.asked == [("/api/renew", {"certificate": held, "csr": csr})]
    assert main.peers == [None]
    async with Host(tmp_path / "impostor").serving() as impostor:
        refused = await refusal(ca_client.renew((impostor.url,), main.roots, MESH, csr, held))
        assert refused.reason == "wrong_ca"
        assert impostor.asked == []


async def test_a_node_cannot_give_another_an_authority_of_its_own_making(main: Host):
    forged = Authority.create(MESH, SystemClock().now_ms())
    main.issuer = forged
    _, answer = main.answer("/api/renew", {"csr": (csr := request_of("jetson"))})
    main.answers["/api/renew"] = (200, answer | {"roots": [pem(forged.certificate)]})
    with pytest.raises(PkiError, match="does not trust"):
        await ca_client.renew((main.url,), main.roots, MESH, csr, pem(main.identity.certificate))


async def test_without_an_address_of_the_authority_the_setting_is_named(main: Host):
    with pytest.raises(PkiError, match="PMOVES_CA_URL"):
        await ca_client.renew((), main.roots, MESH, request_of("jetson"), "")


async def test_a_node_that_vouches_for_a_service_shows_who_it_is(main: Host, tmp_path: Path):
    node = Host(tmp_path / "main", node="jetson")
    remote = RemoteEnroller(node.identity.id, node.tls_dir, lambda: (main.url,), node.holder)
    csr = request_of("whisper", "service")
    given = await remote.certify(ServiceRequest(name="whisper", csr=csr, remote="127.0.0.1"))
    assert x509.load_pem_x509_certificate(given.certificate.encode())
    assert main.asked == [("/api/certificates", {"name": "whisper", "csr": csr})]
    assert main.peers == [spiffe_id(MESH, "node", "jetson")]


@pytest.mark.parametrize(
    ("name", "kind", "requester", "reason"),
    [
        ("rag", "service", "", "name_not_allowed"),
        ("whisper", "node", "", "name_not_allowed"),
        ("whisper", "service", f"spiffe://{MESH}/node/other", "not_here"),
    ],
)
async def test_what_a_node_cannot_vouch_for_does_not_leave_it(
    main: Host, name: str, kind: str, requester: str, reason: str
):
    remote = RemoteEnroller(main.identity.id, main.tls_dir, lambda: (main.url,), main.holder)
    wanted = ServiceRequest(name=name, csr=request_of("whisper", kind), requester=requester, remote="")
    assert (await refusal(remote.certify(wanted))).reason == reason
    assert main.asked == []

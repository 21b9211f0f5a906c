"""The rules of leases as a table, and what a lease must be to be believed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from builders import BEGIN, END, MESH, NOW_MS, Authority, Identity

from pmoves_mesh.core import lease
from pmoves_mesh.core.lease import NAMED_MAX, Claim, Lease, Verdict, decide
from pmoves_mesh.errors import (
    BadSignature,
    CertificateNotHeld,
    MalformedEvent,
    SignerNotEntitled,
    UntrustedIssuer,
)

MINE, A, B, C, D = (letter * 16 for letter in "eabcd")
DAY_MS = 24 * 60 * 60 * 1000


def held(holder: str, over: tuple[str, ...] = (), refused: tuple[str, ...] = (), **fields: Any) -> Lease:
    return Lease(
        **{
            "node": "alpha",
            "incarnation": 7,
            "holder": holder,
            "over": over,
            "refused": refused,
            "host": "10.0.0.1",
            "time_ms": NOW_MS,
            **fields,
        }
    )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def alpha(authority: Authority) -> Identity:
    return authority.identity("alpha")


@pytest.mark.parametrize(
    ("claim", "found", "verdict", "over", "refused"),
    [
        # Nothing, or nothing to be believed, is there: the server was restarted, or it ran out.
        (Claim(MINE), None, "keep", (), ()),
        (Claim(MINE, (A,), (B,)), None, "keep", (A,), (B,)),
        # It is mine: the answer to the write was lost.
        (Claim(MINE, (A,), (B,)), held(MINE), "keep", (A,), (B,)),
        # Another's that says nothing of me: my own earlier run, or one that lives; only it can tell.
        (Claim(MINE), held(A), "take", (A,), ()),
        (Claim(MINE), held(B, over=(A,)), "take", (B, A), ()),
        (Claim(MINE), held(A, refused=(B,)), "take", (A,), ()),
        # It has not looked since I took it, or I was away while it took a name that was free.
        (Claim(MINE, (A,)), held(A), "take", (A,), ()),
        (Claim(MINE, (A, B)), held(B), "take", (B, A), ()),
        (Claim(MINE, (A,), (B,)), held(C), "take", (C, A), (B,)),
        # It was written over mine: I was there first.
        (Claim(MINE), held(A, over=(MINE,)), "refuse", (), (A,)),
        (Claim(MINE, (), (B,)), held(A, over=(MINE,)), "refuse", (), (A, B)),
        # Of three, the third found the second on top of me.
        (Claim(MINE), held(C, over=(B, MINE)), "refuse", (), (C, B)),
        (Claim(MINE), held(C, over=(B, MINE, A)), "refuse", (), (C, B)),
        # The newcomer refused others before it came to me: without this, three could chase each other.
        (Claim(MINE), held(A, over=(MINE,), refused=(B,)), "refuse", (), (A, B)),
        # I refused it before, and it does not know that yet.
        (Claim(MINE, (), (A,)), held(A, over=(MINE,)), "refuse", (), (A,)),
        (Claim(MINE, (), (A, B)), held(B), "take", (B,), (A, B)),
        # It lives, and was there first.
        (Claim(MINE, (A,)), held(A, refused=(MINE,)), "stop", (A,), ()),
        (Claim(MINE, (B, A)), held(A, refused=(B, MINE)), "stop", (B, A), ()),
        # Both took the name from each other while the server forgot: whose refusal is read first counts.
        (Claim(MINE, (A,)), held(A, over=(MINE,), refused=(MINE,)), "stop", (A,), ()),
        (Claim(MINE, (A,), (A,)), held(A, refused=(MINE,)), "stop", (A,), (A,)),
        (Claim(MINE, (A,)), held(A, over=(MINE,)), "refuse", (A,), (A,)),
    ],
)
def test_what_a_run_does_follows_from_what_it_claims_and_what_it_finds(
    claim: Claim, found: Lease | None, verdict: Verdict, over: tuple[str, ...], refused: tuple[str, ...]
):
    decision = decide(claim, found)
    assert decision.verdict == verdict
    assert decision.claim == Claim(MINE, over, refused)


def test_a_lease_names_only_the_latest_of_many_runs():
    claim = Claim(MINE)
    for number in range(3 * NAMED_MAX):
        claim = decide(claim, held(f"{number:016x}")).claim
        claim = decide(claim, held(f"{number + 256:016x}", over=(MINE,))).claim
    assert claim.over == tuple(f"{number:016x}" for number in reversed(range(2 * NAMED_MAX, 3 * NAMED_MAX)))
    assert len(claim.refused) == NAMED_MAX
    assert claim.refused[0] == f"{3 * NAMED_MAX - 1 + 256:016x}"


def test_a_signed_lease_comes_back_as_it_was_and_is_small(authority: Authority, alpha: Identity):
    full = held(MINE, over=(A, B) * (NAMED_MAX // 2), refused=(C, D) * (NAMED_MAX // 2))
    for one in (held(MINE), full):
        value = lease.seal(one, MESH, alpha)
        assert lease.signer_of(value) == alpha.fingerprint
        assert lease.unseal(value, "alpha", authority.trust, NOW_MS) == one
    assert len(lease.seal(held(MINE), MESH, alpha)) < 512
    assert len(lease.seal(full, MESH, alpha)) < 1024


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"garbage", b"\x00" * 5000, b'{"signer":"","signature":"","lease":{}}']
)
def test_what_is_no_lease_names_no_connection(value: bytes):
    assert lease.connection_of(value) == ""


def test_a_lease_names_the_connection_through_which_it_was_written(alpha: Identity):
    assert lease.connection_of(lease.seal(held(MINE, connection="server-7"), MESH, alpha)) == "server-7"
    assert lease.connection_of(lease.seal(held(MINE), MESH, alpha)) == ""


def test_no_changed_byte_of_a_lease_is_believed(authority: Authority, alpha: Identity):
    value = lease.seal(held(MINE, over=(A,)), MESH, alpha)
    for place in range(len(value)):
        changed = bytearray(value)
        changed[place] ^= 1
        try:
            found = lease.unseal(bytes(changed), "alpha", authority.trust, NOW_MS)
        except (BadSignature, MalformedEvent, UntrustedIssuer):
            continue
        # The last character of a base64 text has bits that count for nothing.
        assert found == held(MINE, over=(A,))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b'{"signer": 1, "signature": "", "lease": {}}',
        b'{"signer": "", "signature": "", "lease": ',
        b"[" * 4000,
        b'{"signer": "", "signature": "", "lease": "' + 5000 * b"x" + b'"}',
    ],
)
def test_what_is_no_lease_is_told_as_such(authority: Authority, value: bytes):
    for look in (
        lambda: lease.signer_of(value),
        lambda: lease.unseal(value, "alpha", authority.trust, NOW_MS),
    ):
        with pytest.raises(MalformedEvent):
            look()


@pytest.mark.parametrize(
    "fields",
    [
        {"holder": "E" * 16},
        {"holder": "e" * 17},
        {"over": (A,) * (NAMED_MAX + 1)},
        {"refused": ("x",)},
        {"host": "two words"},
        {"incarnation": -1},
        {"node": "Alpha"},
    ],
)
def test_a_lease_whose_fields_are_out_of_bounds_is_not_believed(
    authority: Authority, alpha: Identity, fields: dict[str, Any]
):
    value = lease.seal(msgspec.structs.replace(held(MINE), **fields), MESH, alpha)
    with pytest.raises(MalformedEvent):
        lease.unseal(value, "alpha", authority.trust, NOW_MS)


def test_a_signature_that_is_no_base64_is_told_as_such(authority: Authority, alpha: Identity):
    value = json.loads(lease.seal(held(MINE), MESH, alpha))
    value["signature"] = "*"
    with pytest.raises(MalformedEvent, match="base64"):
        lease.unseal(json.dumps(value).encode(), "alpha", authority.trust, NOW_MS)


def test_only_the_node_itself_may_hold_its_lease(authority: Authority, alpha: Identity):
    for other in (
        authority.identity("beta"),
        authority.identity("alpha", "operator"),
        authority.identity("alpha", "service"),
    ):
        with pytest.raises(SignerNotEntitled):
            lease.unseal(lease.seal(held(MINE), MESH, other), "alpha", authority.trust, NOW_MS)
    with pytest.raises(SignerNotEntitled):
        lease.unseal(lease.seal(held(MINE), MESH, alpha), "beta", authority.trust, NOW_MS)
    with pytest.raises(SignerNotEntitled):
        lease.unseal(lease.seal(held(MINE, node="beta"), MESH, alpha), "alpha", authority.trust, NOW_MS)


def test_a_lease_of_another_mesh_is_not_believed(authority: Authority, alpha: Identity):
    with pytest.raises(BadSignature):
        lease.unseal(lease.seal(held(MINE), "guest", alpha), "alpha", authority.trust, NOW_MS)


def test_an_unknown_an_ended_and_a_replaced_certificate_speak_for_nobody():
    authority = Authority()
    alpha = authority.identity("alpha")
    value = lease.seal(held(MINE), MESH, alpha)
    begin_ms, end_ms = (int(moment.timestamp() * 1000) for moment in (BEGIN, END))
    for now_ms in (begin_ms - DAY_MS, end_ms + DAY_MS):
        with pytest.raises(CertificateNotHeld):
            lease.unseal(value, "alpha", authority.trust, now_ms)
    with pytest.raises(UntrustedIssuer, match="not known"):
        lease.unseal(value, "alpha", Authority().trust, NOW_MS)
    authority.trust.rotate([Authority().root], [(authority.root, 5)])
    with pytest.raises(UntrustedIssuer, match="replaced"):
        lease.unseal(value, "alpha", authority.trust, NOW_MS)

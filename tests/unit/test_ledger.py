"""The CA's ledger: durable, for its owner alone, and right when several write at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pmoves_mesh.errors import StoreError
from pmoves_mesh.store.ledger import TOKEN_KEPT_MS, IssuedCertificate, Ledger, StoredToken

ROOT = Path(__file__).resolve().parents[2]
NOW_MS = 1_800_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tls" / "authority.db"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger(path)


def token(public: str = "t1", /, **fields: Any) -> StoredToken:
    given = {"id": public, "hash": "h" * 64, "created_ms": NOW_MS, "expires_ms": NOW_MS + 1000}
    return StoredToken(**(given | fields))


def certificate(fingerprint: str = "c1", /, **fields: Any) -> IssuedCertificate:
    given = {
        "fingerprint": fingerprint,
        "kind": "node",
        "name": "alpha",
        "key_id": "k1",
        "not_before_ms": NOW_MS - 10,
        "not_after_ms": NOW_MS + 1000,
        "der": b"\x30\x00",
        "issued_ms": NOW_MS,
        "root": "r1",
    }
    return IssuedCertificate(**(given | fields))


def test_a_ledger_that_nobody_wrote_to_is_empty_and_makes_no_file(ledger: Ledger, path: Path):
    assert ledger.tokens() == []
    assert ledger.token("t1") is None
    assert ledger.certificates() == []
    assert ledger.certificate("c1") is None
    assert ledger.revoke(["c1"], NOW_MS) == []
    assert not ledger.drop_token("t1")
    assert not path.parent.exists()


def test_only_its_owner_can_read_it_and_nothing_stays_beside_it(ledger: Ledger, path: Path):
    ledger.add_token(token())
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_token_is_found_as_it_was_added_until_it_is_dropped(ledger: Ledger):
    added = token(node="jetson", allow=("whisper-*", "rag"), lifetime_s=3600)
    ledger.add_token(added)
    ledger.add_token(token("t2", created_ms=NOW_MS + 1))
    assert ledger.token("t1") == added
    assert [one.id for one in ledger.tokens()] == ["t2", "t1"]
    assert ledger.drop_token("t1")
    assert not ledger.drop_token("t1")
    assert ledger.token("t1") is None


def test_tokens_that_ended_long_ago_are_forgotten(ledger: Ledger):
    ledger.add_token(token("old"))
    ledger.add_token(token("new", created_ms=NOW_MS + 1000 + TOKEN_KEPT_MS))
    assert ledger.token("old") is not None
    ledger.add_token(token("newest", created_ms=NOW_MS + 1001 + TOKEN_KEPT_MS))
    assert ledger.token("old") is None


def test_a_token_is_used_once_and_with_it_the_certificate_is_recorded(ledger: Ledger):
    ledger.add_token(token())
    assert ledger.use_token("t1", certificate(), NOW_MS + 5)
    used = ledger.token("t1")
    assert used is not None
    assert (used.used_ms, used.used_by) == (NOW_MS + 5, "c1")
    assert ledger.certificate("c1") == certificate()
    assert not ledger.use_token("t1", certificate("c2"), NOW_MS + 6)
    assert ledger.certificate("c2") is None
    assert ledger.token("t1") == used


@pytest.mark.parametrize(("name", "now_ms"), [("t1", NOW_MS + 1000), ("unknown", NOW_MS)])
def test_a_token_that_ended_or_was_never_there_records_nothing(ledger: Ledger, name: str, now_ms: int):
    ledger.add_token(token())
    assert not ledger.use_token(name, certificate(), now_ms)
    assert ledger.certificates() == []


def test_of_many_threads_that_use_a_token_at_once_one_is_told_yes(ledger: Ledger, path: Path):
    ledger.add_token(token())
    with ThreadPoolExecutor(8) as threads:
        told = list(
            threads.map(lambda n: Ledger(path).use_token("t1", certificate(f"c{n}"), NOW_MS), range(24))
        )
    assert told.count(True) == 1
    (recorded,) = ledger.certificates()
    assert recorded.fingerprint == f"c{told.index(True)}"


def test_of_several_processes_that_use_tokens_at_once_one_gets_each(path: Path):
    program = (
        "import sys, msgspec; from pathlib import Path\n"
        "from pmoves_mesh.store.ledger import Ledger, StoredToken, IssuedCertificate\n"
        "ledger, me, now = Ledger(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])\n"
        "sys.stdin.read(1)\n"
        "won = 0\n"
        "for n in range(12):\n"
        "    ledger.add_token(StoredToken(id=str(n), hash='', created_ms=now, expires_ms=now + 9))\n"
        "    one = IssuedCertificate(fingerprint=f'{n}-{me}', kind='node', name='a', key_id=me, der=b'',\n"
        "        not_before_ms=0, not_after_ms=0, issued_ms=0, root='')\n"
        "    won += ledger.use_token(str(n), one, now)\n"
        "print(won)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, path, str(number), str(NOW_MS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    won = [int(run.communicate("x", timeout=60)[0]) for run in runs]
    assert sum(won) == 12
    assert len(Ledger(path).certificates()) == 12


def test_certificates_are_found_by_what_they_are(ledger: Ledger):
    held = certificate(allow=("whisper-*",))
    renewed = certificate("c2", issued_ms=NOW_MS + 1)
    service = certificate(
        "c3", kind="service", name="whisper", key_id="k2", requester="spiffe://m/node/alpha"
    )
    for one in (held, renewed, service):
        assert ledger.record(one) == one
    assert ledger.certificate("c1") == held
    assert ledger.certificates() == [renewed, service, held]
    assert ledger.certificates(kind="node", name="alpha") == [renewed, held]
    assert ledger.certificates(key_id="k2") == [service]
    assert ledger.certificates(requester="spiffe://m/node/alpha") == [service]
    assert ledger.certificates(kind="service", name="alpha") == []


def test_to_revoke_a_certificate_is_to_revoke_its_key(ledger: Ledger):
    ledger.record(certificate("c1"))
    ledger.record(certificate("c2", issued_ms=NOW_MS + 1))
    ledger.record(certificate("c3", key_id="k2"))
    assert {one.fingerprint for one in ledger.revoke(["c1", "unknown"], NOW_MS + 7)} == {"c1", "c2"}
    assert [one.revoked_ms for one in ledger.certificates(key_id="k1")] == [NOW_MS + 7] * 2
    assert [one.revoked_ms for one in ledger.certificates(key_id="k2")] == [None]
    assert ledger.revoke(["c1", "c2"], NOW_MS + 8) == []


def test_a_certificate_for_a_revoked_key_is_revoked_from_the_start(ledger: Ledger):
    ledger.record(certificate("c1"))
    ledger.revoke(["c1"], NOW_MS + 7)
    assert ledger.record(certificate("c2")).revoked_ms == NOW_MS + 7


def test_to_record_a_certificate_again_does_not_bring_it_back(ledger: Ledger):
    ledger.record(certificate())
    ledger.revoke(["c1"], NOW_MS + 7)
    assert ledger.record(certificate()).revoked_ms == NOW_MS + 7


def test_a_certificate_holds_until_it_ends_or_is_revoked():
    assert certificate().holds(NOW_MS + 999)
    assert not certificate().holds(NOW_MS + 1000)
    assert not certificate(revoked_ms=NOW_MS).holds(NOW_MS)


def test_a_ledger_that_is_damaged_says_so_in_one_line(ledger: Ledger, path: Path):
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"authority\.db: it is no database"):
        ledger.tokens()

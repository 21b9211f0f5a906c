"""Which certificates a host keeps, and when their end becomes a warning and an alarm."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.errors import PkiError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates
from pmoves_mesh.pki.inventory import (
    CertificateFact,
    Severity,
    certificate_files,
    fact_of,
    facts_of,
    inventory,
    key_files,
    severity,
)

MESH = "lab"
NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RANKS: dict[Severity, int] = {"ok": 0, "warning": 1, "alarm": 2}


def living(life_ms: int) -> CertificateFact:
    """A certificate that begins now and ends after `life_ms`."""
    return CertificateFact(
        kind="node", name="alpha", fingerprint="ab", not_before_ms=NOW_MS, not_after_ms=NOW_MS + life_ms
    )


def left(life_ms: int, left_ms: int) -> Severity:
    """How urgent it is when `left_ms` of a life are left."""
    return severity(living(life_ms), NOW_MS + life_ms - left_ms)


@pytest.mark.parametrize(
    ("life_ms", "warning_ms", "alarm_ms"),
    [
        (HOUR_MS, HOUR_MS // 4, HOUR_MS // 5),
        (DAY_MS, 6 * HOUR_MS, DAY_MS // 5),
        (30 * DAY_MS, 30 * DAY_MS // 4, 3 * DAY_MS),
        (90 * DAY_MS, 90 * DAY_MS // 4, 9 * DAY_MS),
        (397 * DAY_MS, 397 * DAY_MS // 4, 30 * DAY_MS),
        (3650 * DAY_MS, 180 * DAY_MS, 30 * DAY_MS),
    ],
)
def test_a_warning_comes_before_an_alarm_in_proportion_to_the_life(
    life_ms: int, warning_ms: int, alarm_ms: int
):
    assert left(life_ms, warning_ms) == "ok"
    assert left(life_ms, warning_ms - 1) == "warning"
    assert left(life_ms, alarm_ms) == "warning"
    assert left(life_ms, alarm_ms - 1) == "alarm"


@given(st.integers(1, 20 * 365 * DAY_MS), st.integers(0, 40 * 365 * DAY_MS))
def test_what_has_ended_is_an_alarm_whatever_its_life(life_ms: int, ago_ms: int):
    assert left(life_ms, -ago_ms) == "alarm"


@given(st.integers(HOUR_MS, 20 * 365 * DAY_MS), st.integers(0, 100), st.integers(0, 100))
def test_the_nearer_the_end_the_more_urgent(life_ms: int, one: int, other: int):
    earlier, later = sorted((one, other))
    assert (
        RANKS[left(life_ms, life_ms * (100 - earlier) // 100)]
        <= RANKS[left(life_ms, life_ms * (100 - later) // 100)]
    )


@given(st.integers(HOUR_MS, 20 * 365 * DAY_MS))
def test_nothing_is_urgent_before_renewal_is_due(life_ms: int):
    assert left(life_ms, life_ms // 3 + 1) == "ok"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A host's tls and data directories: the mesh's CA, its files, and the node's identity."""
    tls_dir, data_dir = tmp_path / "tls", tmp_path / "data"
    keystore.init(tls_dir, MESH, "alpha", [], NOW_MS)
    keystore.open_identity(data_dir / "identity", tls_dir, MESH, "alpha", [], NOW_MS)
    return tls_dir, data_dir


def test_the_inventory_has_every_certificate_of_the_host(folders: tuple[Path, Path]):
    tls_dir, data_dir = folders
    service = tls_dir / "services" / "whisper.crt"
    service.parent.mkdir()
    service.write_bytes((tls_dir / "server.crt").read_bytes())
    found = {Path(fact.path).name: (fact.kind, fact.name) for fact in inventory(tls_dir, data_dir)}
    assert set(found) == {"ca.crt", "server.crt", "client.crt", "whisper.crt", "node.crt"}
    assert found["ca.crt"] == ("ca", MESH)
    assert found["whisper.crt"] == ("service", "nats")
    assert found["node.crt"] == ("node", "alpha")
    assert [path.name for path in key_files(tls_dir, data_dir)] == [
        "ca.key",
        "client.key",
        "server.key",
        "node.key",
    ]


def test_a_bundle_of_roots_is_a_fact_for_each(folders: tuple[Path, Path]):
    tls_dir, _ = folders
    other = tls_dir.parent / "other"
    keystore.ensure_authority(other, MESH, NOW_MS)
    bundle = tls_dir / "ca.crt"
    bundle.write_bytes(bundle.read_bytes() + (other / "ca.crt").read_bytes())
    facts = list(facts_of(bundle))
    assert [fact.kind for fact in facts] == ["ca", "ca"]
    assert len({fact.fingerprint for fact in facts}) == 2


def test_a_fact_has_the_bounds_and_the_fingerprint_of_its_certificate(folders: tuple[Path, Path]):
    path = folders[1] / "identity" / "node.crt"
    (certificate,) = read_certificates(path)
    fact = fact_of(certificate)
    assert (fact.not_before_ms, fact.not_after_ms) == (
        certificate.not_valid_before_utc.timestamp() * 1000,
        certificate.not_valid_after_utc.timestamp() * 1000,
    )
    assert len(fact.fingerprint) == 64
    assert fact.path == ""


def test_a_file_that_cannot_be_read_hides_no_other(folders: tuple[Path, Path]):
    tls_dir, data_dir = folders
    broken = tls_dir / "ca.crt"
    broken.write_text("nothing")
    assert broken in certificate_files(tls_dir, data_dir)
    assert {Path(fact.path).name for fact in inventory(tls_dir, data_dir)} == {
        "server.crt",
        "client.crt",
        "node.crt",
    }
    with pytest.raises(PkiError):
        list(facts_of(broken))


def test_a_host_without_certificates_has_none(tmp_path: Path):
    assert inventory(tmp_path / "tls", tmp_path / "data") == []

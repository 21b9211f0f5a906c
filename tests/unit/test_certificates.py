"""The certificates on a host's disk: what a status says of them long before one ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pmoves_mesh.agent.trust.certificates import CertificateWatch
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.pki import keystore

DAY_MS = 86_400_000
BEGIN_MS = 1_800_000_000_000


class StillClock(SystemClock):
    """A clock that stands."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now


@pytest.mark.parametrize(
    ("days", "said"),
    [(0, None), (20, None), (24, "ends at 2027-02-14"), (31, "ended at 2027-02-14")],
)
async def test_a_status_warns_of_a_certificate_that_nobody_renewed(
    tmp_path: Path, days: int, said: str | None
):
    config = replace(load({}, tmp_path), node="alpha")
    keystore.ensure_authority(config.tls_dir, config.mesh, BEGIN_MS)
    identity_dir = config.data_dir / "identity"
    keystore.open_identity(identity_dir, config.tls_dir, config.mesh, "alpha", (), BEGIN_MS)
    watch = CertificateWatch(config, StillClock(BEGIN_MS + days * DAY_MS))
    await watch.look()
    lines = watch.warnings()
    assert len(lines) == (said is not None)
    assert said is None or (said in lines[0] and "node alpha" in lines[0])

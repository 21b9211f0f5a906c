"""What `doctor` says of Tailscale, by what the real program writes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tailscale_stub import MYSELF, StubTailscale, status_text

from pmoves_mesh.cli import check_tailscale
from pmoves_mesh.cli.findings import AgentState, Finding, Host, run_checks
from pmoves_mesh.config import load

NOW_MS = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp() * 1000)
DOWN = "failed to connect to local tailscaled; it doesn't appear to be running"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubTailscale:
    made = StubTailscale.made(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.directory}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return made


def examine(directory: Path, mode: str = "tailscale", address: str = "100.101.1.1") -> list[Finding]:
    config = load({"MESH_NETWORK_MODE": mode, "MESH_HOSTNAME": "alpha"}, directory)
    agent = AgentState(url="", alive=True, nodes=[{"name": "alpha", "tailscale_ip": address}])
    return run_checks(Host(config=config, now_ms=NOW_MS, agent=agent), check_tailscale.CHECKS)


def test_a_host_in_its_tailnet_is_well_and_only_the_status_is_asked(stub: StubTailscale, tmp_path: Path):
    assert [found.severity for found in examine(tmp_path)] == ["ok"]
    assert stub.calls == ["status --json"]


@pytest.mark.parametrize(
    ("output", "error", "what", "remedy"),
    [
        ("", DOWN, "tailscaled is not running", "systemctl enable --now tailscaled"),
        (status_text("NeedsLogin"), "", "this host is not logged in to Tailscale", "make mesh-setup"),
        (status_text("Stopped"), "", "Tailscale is down on this host", "make mesh-setup"),
        (
            status_text("NeedsLogin", Self={**MYSELF, "KeyExpiry": "2029-01-01T00:00:00Z"}),
            "",
            "this host's own key of Tailscale has expired",
            "make mesh-setup",
        ),
    ],
)
def test_each_failure_of_tailscale_has_its_line_and_remedy(
    stub: StubTailscale, tmp_path: Path, output: str, error: str, what: str, remedy: str
):
    stub.says(output, error=error, code=1 if error else 0)
    (found,) = examine(tmp_path)
    assert (found.severity, found.what) == ("alarm", what)
    assert remedy in found.remedy
    (found,) = examine(tmp_path, "both")
    assert found.severity == "warning"
    (found,) = examine(tmp_path, "nats")
    assert found.severity == "ok"


def test_a_host_without_tailscale_is_an_alarm_only_where_tailscale_is_what_joins_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [found.what for found in examine(tmp_path)] == ["Tailscale is not installed"]
    assert [found.severity for found in examine(tmp_path, "both")] == ["ok"]


def test_a_key_that_ends_soon_another_address_and_tailscales_own_warnings_are_told(
    stub: StubTailscale, tmp_path: Path
):
    stub.says(
        status_text(
            Self={**MYSELF, "KeyExpiry": "2030-01-08T00:00:00Z"}, Health=["router: setting up failed"]
        )
    )
    found = examine(tmp_path, address="100.101.1.9")
    assert {one.severity for one in found} == {"warning"}
    assert [one.what for one in found] == [
        "this host's own key of Tailscale ends at 2030-01-08T00:00:00.000Z",
        "this node announces 100.101.1.9, and Tailscale gives it 100.101.1.1",
        "Tailscale warns: router: setting up failed",
    ]

"""Every failure of the real program has its own line, and what to do; none shows a key."""

from __future__ import annotations

from pathlib import Path

import pytest
from tailscale_stub import MYSELF, StubTailscale, status_text

from pmoves_mesh.errors import MeshError
from pmoves_mesh.tailscale.failures import TailscaleError, failure_of, stopped
from pmoves_mesh.tailscale.program import Tailscale, locate
from pmoves_mesh.tailscale.settings import TailscaleSettings
from pmoves_mesh.tailscale.state import parse_status

SOCKET = "dial unix /var/run/tailscale/tailscaled.sock: connect"
REAL_OUTPUT = [
    (
        (
            "failed to connect to local tailscaled; it doesn't appear to be running "
            "(sudo systemctl start tailscaled ?)"
        ),
        "daemon_down",
    ),
    (
        (
            "Failed to connect to local Tailscale daemon for /localapi/v0/status; systemd tailscaled.service "
            f"not running. Error: {SOCKET}: no such file or directory"
        ),
        "daemon_down",
    ),
    (f"failed to connect to local tailscaled. Got error: {SOCKET}: connection refused", "daemon_down"),
    ("failed to connect to local Tailscale service; is Tailscale running?", "daemon_down"),
    (
        (
            "Access denied: checkprefs access denied\n\nUse 'sudo tailscale up'.\n"
            "To not require root, use 'sudo tailscale set --operator=$USER' once."
        ),
        "permission",
    ),
    (f"failed to connect to local tailscaled. Got error: {SOCKET}: permission denied", "permission"),
    ("sudo: a password is required", "permission"),
    ("backend error: invalid key: API key does not exist", "key_wrong"),
    ("backend error: invalid key: unable to validate API key", "key_wrong"),
    ("backend error: invalid key: API key kAbC not valid", "key_wrong"),
    ("backend error: AuthKey not found", "key_wrong"),
    ("backend error: authkey expired", "key_expired"),
    ("backend error: invalid key: the key has expired", "key_expired"),
    ("backend error: authkey already used", "key_used"),
    ("backend error: requested tags [tag:pmoves] are invalid or not permitted", "tags_refused"),
    (
        "Error: changing settings via 'tailscale up' requires mentioning all\nnon-default flags.",
        "settings_differ",
    ),
    (
        (
            "To approve your machine, visit (as admin):\n\n\thttps://login.tailscale.com/admin\n\n"
            "timeout waiting for Tailscale service to enter a Running state"
        ),
        "approval_needed",
    ),
    ("To authenticate, visit:\n\n\thttps://login.tailscale.com/a/1a2b", "not_logged_in"),
    (
        'fetch control key: Get "https://mesh.example/key": dial tcp: lookup mesh.example: no such host',
        "server_unreachable",
    ),
    ("timeout waiting for Tailscale service to enter a Running state", "timeout"),
    ("something that nobody has seen yet", "unknown"),
    ("", "unknown"),
]


@pytest.fixture
def stub(tmp_path: Path) -> StubTailscale:
    return StubTailscale.made(tmp_path / "bin")


def asked(stub: StubTailscale) -> Tailscale:
    return Tailscale(stub.program, {"PATH": f"{stub.directory}:/usr/bin:/bin"})


@pytest.mark.parametrize(("output", "kind"), REAL_OUTPUT)
def test_each_failure_has_a_line_of_its_own_and_a_remedy(stub: StubTailscale, output: str, kind: str):
    stub.says("", error=output, code=1)
    with pytest.raises(TailscaleError) as caught:
        asked(stub).status()
    assert caught.value.kind == kind
    assert str(caught.value) == f"{caught.value.problem}; {caught.value.remedy}"
    assert "\n" not in str(caught.value)


def test_no_two_kinds_of_failure_have_the_same_line():
    found = {error.kind: str(error) for error in (failure_of(output) for output, _ in REAL_OUTPUT)}
    assert len(set(found.values())) == len(found)


def test_a_program_that_is_nowhere_is_not_installed(tmp_path: Path):
    with pytest.raises(TailscaleError, match="not installed; install it: make mesh-setup"):
        locate({"PATH": str(tmp_path)})


def test_output_that_is_no_status_is_a_failure_and_no_crash(stub: StubTailscale):
    stub.says("<html>")
    with pytest.raises(MeshError, match="says nothing of use"):
        asked(stub).status()


@pytest.mark.parametrize(
    ("state", "fields", "kind"),
    [
        ("NeedsLogin", {}, "not_logged_in"),
        (
            "NeedsLogin",
            {"Health": ["You are logged out. The last login error was: invalid key: API key does not exist"]},
            "key_wrong",
        ),
        ("NeedsLogin", {"Self": {**MYSELF, "KeyExpiry": "2020-01-01T00:00:00Z"}}, "node_key_expired"),
        ("NeedsMachineAuth", {}, "approval_needed"),
        ("Stopped", {}, "stopped"),
        ("InUseOtherUser", {}, "other_user"),
        ("Starting", {}, "starting"),
        ("NoState", {}, "starting"),
    ],
)
def test_a_host_that_is_not_in_its_tailnet_says_why(state: str, fields: dict[str, object], kind: str):
    status = parse_status(status_text(state, **fields).encode())
    problem = stopped(status, 1_900_000_000_000)
    assert problem is not None
    assert problem.kind == kind


def test_a_running_host_has_no_failure():
    assert stopped(parse_status(status_text().encode()), 0) is None


def test_a_key_in_the_output_is_never_shown():
    secret = "tskey-" + "auth-kAbCdEf1CNTRL-abcdef"
    assert secret not in str(failure_of(f"odd answer to {secret}"))
    assert "***" in str(failure_of(f"odd answer to {secret}"))


def test_a_key_that_is_in_no_file_goes_through_a_pipe(stub: StubTailscale):
    settings = TailscaleSettings(tags=("tag:pmoves", "tag:gpu"), login_server="https://mesh.example")
    asked(stub).up("alpha", "the-key", settings)
    assert stub.read("key") == "the-key"
    assert stub.calls == [
        (
            "up --hostname=alpha --accept-routes=true --auth-key=file:/dev/stdin "
            "--login-server=https://mesh.example --advertise-tags=tag:pmoves,tag:gpu --timeout=300s"
        )
    ]


def test_the_program_does_not_get_the_key_through_the_environment(stub: StubTailscale):
    environ = {"PATH": "/usr/bin:/bin", "TAILSCALE_AUTHKEY": "the-key", "MAKEFLAGS": " -- AUTHKEY=the-key"}
    Tailscale(stub.program, environ).status()
    assert "the-key" not in stub.read("environment")


def test_a_program_that_hangs_is_given_up(stub: StubTailscale, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pmoves_mesh.tailscale.program._LEEWAY_S", -0.9)
    stub.hangs_when_up()
    with pytest.raises(TailscaleError) as caught:
        asked(stub).up("alpha", None, TailscaleSettings(timeout_s=1))
    assert caught.value.kind == "timeout"

"""What `doctor` makes of firewalls: of ufw by what it prints, of nftables by the kernel's own answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import namespaces
import nft_library
import pytest
from agents import ROOT, SETTING_PREFIXES

from pmoves_mesh.cli import check_firewall
from pmoves_mesh.cli.findings import AgentState, Finding, Host, run_checks
from pmoves_mesh.cli.nft_rules import Packet, Ruleset
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.store.ledger import LEDGER_FILE, IssuedCertificate, Ledger

PORT: Final = 4222
OFFERED: Final = {"PMOVES_NATS_HOST": "0.0.0.0", "MESH_HOSTNAME": "alpha"}

UFW: Final = """\
Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), disabled (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
22/tcp (OpenSSH)           ALLOW IN    Anywhere                   # remote access
{rules}
22/tcp (OpenSSH (v6))      ALLOW IN    Anywhere (v6)
4222/tcp (v6)              ALLOW IN    Anywhere (v6)
443                        ALLOW OUT   Anywhere

"""
NOT_ROOT: Final = "ERROR: You need to be root to run this script"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH; a program is put into it as a script that replays an output."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def replays(directory: Path, name: str, output: str, code: int = 0) -> None:
    """Puts a program there that prints what the real one did, and notes how it was called."""
    path = directory / name
    path.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"open({str(directory / 'calls')!r}, 'a').write(' '.join([{name!r}, *sys.argv[1:]]) + '\\n')\n"
        f"sys.stdout.write({output!r})\nsys.exit({code})\n"
    )
    path.chmod(0o755)


def examine(directory: Path, *, tailnet: bool, **settings: str) -> list[Finding]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check_firewall, "_on_tailnet", lambda: tailnet)
        config = load({**OFFERED, **settings}, directory)
        host = Host(config=config, now_ms=SystemClock().now_ms(), agent=AgentState(url=""))
        return run_checks(host, check_firewall.CHECKS)


@pytest.mark.parametrize(
    ("rules", "tailnet", "kept_out"),
    [
        ("", True, True),
        ("", False, True),
        ("4222/tcp                   ALLOW IN    100.64.0.0/10", True, False),
        ("4222                       ALLOW IN    100.0.0.0/8", True, False),
        ("4222/tcp                   ALLOW IN    Anywhere", False, False),
        ("4000:4300,8100/tcp         LIMIT IN    Anywhere", True, False),
        ("Anywhere on tailscale0     ALLOW IN    Anywhere", True, False),
        ("4222/tcp                   ALLOW IN    192.168.0.0/16", True, True),
        ("4222/tcp                   ALLOW IN    192.168.0.0/16", False, False),
        ("4222/tcp (NATS)            ALLOW IN    Anywhere", True, False),
        ("4222,8222/tcp (NATS (all)) DENY IN     Anywhere", True, True),
        ("4222/tcp                   ALLOW IN    Anywhere                   (log)", True, False),
        ("4222/tcp                   ALLOW IN    100.64.0.0/10              (log-all) # mesh", True, False),
        ("4222/udp                   ALLOW IN    Anywhere", True, True),
        ("4222/tcp                   DENY IN     Anywhere", True, True),
        (
            "4222/tcp  DENY IN     100.64.0.0/10\n4222/tcp  ALLOW IN    Anywhere",
            True,
            True,
        ),
        (
            "4222/tcp  ALLOW IN    100.64.0.0/10\nAnywhere  REJECT IN   Anywhere",
            True,
            False,
        ),
    ],
)
def test_ufw_is_read_as_it_decides(programs: Path, rules: str, tailnet: bool, kept_out: bool):
    replays(programs, "ufw", UFW.format(rules=rules))
    (found,) = examine(programs.parent, tailnet=tailnet)
    assert found.severity == ("alarm" if kept_out else "ok")
    if kept_out:
        assert "from port 4222" in found.what
        whom = "100.64.0.0/10" if tailnet else "192.168.0.0/16"
        assert found.remedy == f"sudo ufw allow from {whom} to any port 4222 proto tcp"
    assert (programs / "calls").read_text() == "ufw status verbose\n"


@pytest.mark.parametrize(
    "output", ["Status: inactive\n", UFW.format(rules="").replace("deny (incoming)", "allow (incoming)")]
)
def test_a_ufw_that_keeps_nobody_out_is_no_finding(programs: Path, output: str):
    replays(programs, "ufw", output)
    assert [found.severity for found in examine(programs.parent, tailnet=True)] == ["ok"]


def test_a_firewall_that_only_root_may_read_is_a_warning(programs: Path):
    replays(programs, "ufw", NOT_ROOT, code=1)
    replays(programs, "nft", "Operation not permitted (you must be root)\n", code=1)
    found = examine(programs.parent, tailnet=True)
    assert {(one.severity, one.remedy) for one in found} == {
        ("warning", "run it as root: sudo pmoves-mesh doctor")
    }
    assert len(found) == 2


def test_the_agents_own_port_counts_where_it_is_for_other_hosts(programs: Path):
    replays(programs, "ufw", UFW.format(rules="4222/tcp                   ALLOW IN    Anywhere"))
    (found,) = examine(programs.parent, tailnet=True, SERVICE_REGISTRY_HOST="0.0.0.0")
    assert "from port 8100" in found.what


def test_the_port_for_leaf_nodes_counts_once_a_host_has_one(programs: Path):
    rules = UFW.format(rules="4222/tcp                   ALLOW IN    Anywhere")
    replays(programs, "ufw", rules)
    assert [found.severity for found in examine(programs.parent, tailnet=True)] == ["ok"]
    Ledger(programs.parent / "tls" / LEDGER_FILE).record(
        IssuedCertificate(
            fingerprint="1",
            kind="service",
            name="leaf-edge",
            key_id="1",
            der=b"",
            not_before_ms=0,
            not_after_ms=1,
            issued_ms=0,
            root="",
        )
    )
    (found,) = examine(programs.parent, tailnet=True)
    assert "from port 7422" in found.what


def test_where_nothing_is_for_other_hosts_no_firewall_is_asked(programs: Path):
    replays(programs, "ufw", UFW.format(rules=""))
    assert [one.severity for one in examine(programs.parent, tailnet=True, PMOVES_NATS_HOST="")] == ["ok"]
    assert not (programs / "calls").exists()


# nftables, by the kernel's own answer

STANDARD: Final = """\
  ct state vmap { established : accept, related : accept, invalid : drop }
  iifname "lo" accept
  ip protocol icmp accept
"""
RULESETS: Final = {
    "none of ours": ("policy drop;", STANDARD, "drop"),
    "our port": ("policy drop;", f"{STANDARD}  tcp dport 4222 accept\n", "accept"),
    "a set of ports": ("policy drop;", f"{STANDARD}  tcp dport {{ 22, 4000-4300 }} accept\n", "accept"),
    "another port": ("policy drop;", f"{STANDARD}  tcp dport {{ 22, 4000-4100 }} accept\n", "drop"),
    "our network": ("policy drop;", f"{STANDARD}  ip saddr 10.77.0.0/24 tcp dport 4222 accept\n", "accept"),
    "another network": ("policy drop;", f"{STANDARD}  ip saddr 100.64.0.0/10 accept\n", "drop"),
    "a named set": ("policy drop;", f"{STANDARD}  ip saddr @friends accept\n", "accept"),
    "all but a network": ("policy accept;", f"{STANDARD}  ip saddr != 10.9.0.0/16 drop\n", "drop"),
    "a chain of its own": ("policy drop;", f"{STANDARD}  jump mesh\n", "accept"),
    "a chain that is gone to": ("policy drop;", f"{STANDARD}  goto ports\n  accept\n", "drop"),
    "our device": ("policy drop;", f'{STANDARD}  iifname "eth*" accept\n', "accept"),
    "another device": ("policy drop;", f'{STANDARD}  iifname "tailscale0" accept\n', "drop"),
    "rejected": ("policy accept;", "  tcp dport 4222 reject with tcp reset\n", "drop"),
    "a map of ports": ("policy accept;", "  tcp dport vmap { 22 : accept, 4222 : drop }\n", "drop"),
    "counted and let in": ("policy drop;", '  counter log prefix "in " accept\n', "accept"),
    "only udp": ("policy drop;", f"{STANDARD}  udp dport 4222 accept\n", "drop"),
}
TABLE: Final = """\
table inet filter {{
 set friends {{
  type ipv4_addr
  flags interval
  elements = {{ 10.77.0.1-10.77.0.9, 100.64.0.0/10 }}
 }}
 chain mesh {{
  tcp dport 4222 accept
 }}
 chain ports {{
  tcp dport 22 accept
 }}
 chain input {{
  type filter hook input priority 0; {policy}
{rules} }}
}}
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[namespaces.Namespace, ...]]:
    if why := namespaces.problem() or nft_library.problem():
        pytest.skip(why)
    with namespaces.network(2) as made:
        yield made


@pytest.fixture
def nft(tmp_path: Path, hosts: tuple[namespaces.Namespace, ...]) -> Any:
    """Runs nft on the first host."""
    nft_library.program_in(tmp_path)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    def run(*words: str) -> str:
        command = [*hosts[0].inside, shutil.which("nft", path=path) or "nft", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    run("flush", "ruleset")


@contextmanager
def listening(host: namespaces.Namespace) -> Iterator[None]:
    """Listens on our port there."""
    program = (
        "import socket\n"
        f"with socket.create_server(('0.0.0.0', {PORT})) as listener:\n"
        " print('ready', flush=True)\n"
        " while True: listener.accept()\n"
    )
    with subprocess.Popen(
        [*host.inside, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            process.kill()


def gets_in(host: namespaces.Namespace, address: str) -> bool:
    program = f"import socket; socket.create_connection(({address!r}, {PORT}), 1)"
    command = [*host.inside, sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", RULESETS)
def test_what_is_said_of_a_ruleset_is_what_the_kernel_does(
    hosts: tuple[namespaces.Namespace, ...], nft: Any, name: str
):
    one, two = hosts
    policy, rules, wanted = RULESETS[name]
    nft(TABLE.format(policy=policy, rules=rules))
    fate, chain = Ruleset(json.loads(nft("--json", "list", "ruleset"))).fate(
        Packet(PORT, two.address, "eth0")
    )
    assert fate == wanted
    assert chain == ("inet filter input" if wanted == "drop" else "")
    with listening(one):
        assert gets_in(two, one.address) == (wanted == "accept")


@pytest.mark.parametrize("tailnet", [False, True])
def test_doctor_names_the_chain_that_keeps_others_out_and_its_remedy_lets_them_in(
    hosts: tuple[namespaces.Namespace, ...], nft: Any, tmp_path: Path, tailnet: bool
):
    one, _ = hosts
    own = ["ip", "-n", one.name]
    if tailnet:
        subprocess.run([*own, "link", "add", "tailscale0", "type", "bridge"], check=True)
        subprocess.run([*own, "address", "add", "100.64.0.7/10", "dev", "tailscale0"], check=True)
        subprocess.run([*own, "link", "set", "tailscale0", "up"], check=True)
    try:
        nft(TABLE.format(policy="policy drop;", rules=STANDARD))
        (found,) = said_of_the_firewall(one, tmp_path)
        assert found["severity"] == "alarm"
        whom = "the tailnet (100.64.0.0/10)" if tailnet else "every other host"
        assert found["what"] == f"nftables (inet filter input) keeps {whom} from port 4222"
        remedy = re.match(r"sudo nft (insert rule .* accept);", found["remedy"])
        assert remedy is not None
        nft(remedy[1])
        assert [line["severity"] for line in said_of_the_firewall(one, tmp_path)] == ["ok"]
    finally:
        subprocess.run([*own, "link", "delete", "tailscale0"], capture_output=True, check=False)


def said_of_the_firewall(host: namespaces.Namespace, directory: Path) -> list[dict[str, Any]]:
    """Runs the command itself on a host."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(SETTING_PREFIXES)}
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*host.inside, sys.executable, "-m", "pmoves_mesh", "doctor", "--json"],
        cwd=directory,
        env={**clean, **OFFERED, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return [line for line in json.loads(done.stdout)["findings"] if line["check"] == "firewall"]


def test_a_condition_that_is_not_understood_makes_no_alarm():
    odd = {
        "nftables": [
            {
                "chain": {
                    "family": "ip",
                    "table": "filter",
                    "name": "INPUT",
                    "hook": "input",
                    "prio": 0,
                    "policy": "drop",
                }
            },
            {
                "rule": {
                    "family": "ip",
                    "table": "filter",
                    "chain": "INPUT",
                    "expr": [{"xt": {"type": "match", "name": "conntrack"}}, {"accept": None}],
                }
            },
        ]
    }
    assert Ruleset(odd).fate(Packet(PORT, "100.64.0.1", "tailscale0")) == ("unknown", "ip filter INPUT")
    drops = {"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "expr": [{"drop": None}]}}
    odd["nftables"].append(drops)
    assert Ruleset(odd).fate(Packet(PORT, "100.64.0.1", "tailscale0")) == ("unknown", "ip filter INPUT")
    assert Ruleset({"nftables": []}).fate(Packet(PORT)) == ("accept", "")

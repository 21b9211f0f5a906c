"""What `doctor` reads of this host's firewall: whether other hosts get to what the mesh offers here.

It only reads, and that needs root. ufw speaks for its own rules; whatever else nftables holds is
asked of `nft` itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Final, NamedTuple

from pmoves_mesh.cli.findings import Check, Complaint, Host
from pmoves_mesh.cli.nft_rules import Packet, Ruleset
from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.server.leaf import is_leaf
from pmoves_mesh.store.ledger import LEDGER_FILE, Ledger

TAILNET: Final = IPv4Network("100.64.0.0/10")
"""Source: RFC 6598; tailscale.com/kb/1015 (all addresses of a tailnet are within it)."""

_TAILNET_HOST: Final = "100.64.0.1"
_TAILSCALE: Final = "tailscale0"
_MAGIC_DNS: Final = ("100.100.100.100", 53)
_READ_S: Final = 3.0
_AS_ROOT: Final = "run it as root: sudo pmoves-mesh doctor"
_UFW_RULE: Final = re.compile(
    r"(?P<to>\S.*?)\s+(?P<action>ALLOW|DENY|REJECT|LIMIT)( (?P<way>IN|OUT|FWD))?"
    r"\s+(?P<source>\S.*?)(\s+#.*)?\Z"
)
_UFW_PORTS: Final = re.compile(r"(?P<ports>[\d,:]+)(/(?P<kind>tcp|udp))?\Z")
_UFW_ASIDES: Final = re.compile(r"\s+\((?!v6\)).*\)\Z")
"""The application that ports are named after, as in `22/tcp (OpenSSH)`, and what a rule logs: `(log)`."""

_ANYWHERE: Final = "Anywhere"


class _UfwRule(NamedTuple):
    """A rule of ufw: what it is for, whether it lets that in, and from where."""

    to: str
    allows: bool
    source: str


def offered(config: Config) -> tuple[int, ...]:
    """Returns the ports at which this host is to be reached by others."""
    nats = config.embedded and not is_loopback(config.nats_host)
    http = config.http_port and not is_loopback(config.http_host)
    leafs = nats and config.leaf_port and _has_leafs(config)
    routes = [one.port for one in config.nats_cluster if one.name == config.node]
    return (
        *((config.nats_port,) if nats else ()),
        *routes,
        *((config.leaf_port,) if leafs else ()),
        *((config.http_port,) if http else ()),
    )


def _has_leafs(config: Config) -> bool:
    """Returns whether any host has a leaf node: before that, nobody listens at the port for them."""
    return any(map(is_leaf, Ledger(config.tls_dir / LEDGER_FILE).certificates(kind="service")))


def _firewall(host: Host) -> Iterator[Complaint]:
    """Neither ufw nor nftables keeps other hosts from the ports that are for them."""
    ports = offered(host.config)
    if ports and shutil.which("ufw"):
        yield from _ufw(ports)
    if ports and shutil.which("nft"):
        yield from _nft(ports)


def _ufw(ports: tuple[int, ...]) -> Iterator[Complaint]:
    said = _read("ufw", "status", "verbose")
    if said is None:
        yield Complaint("warning", "ufw was not read: only root may", _AS_ROOT)
        return
    lines = said.splitlines()
    if "Status: active" not in lines:
        return
    denies = not any(re.match(r"Default: allow \(incoming\)", line) for line in lines)
    rules = [
        _UfwRule(_plain(rule["to"]), rule["action"] in {"ALLOW", "LIMIT"}, _plain(rule["source"]))
        for rule in _rules(lines)
    ]
    for port in ports:
        if not _ufw_lets_in(rules, port, in_general=not denies):
            yield Complaint(
                "alarm",
                f"ufw keeps {_whom()} from port {port}",
                f"sudo ufw allow from {_networks()} to any port {port} proto tcp",
            )


def _rules(lines: list[str]) -> Iterator[re.Match[str]]:
    for line in lines:
        found = _UFW_RULE.match(line.strip())
        if found and "(v6)" not in line and found["way"] in {None, "IN"}:
            yield found


def _plain(place: str) -> str:
    return _UFW_ASIDES.sub("", place)


def _ufw_lets_in(rules: list[_UfwRule], port: int, *, in_general: bool) -> bool:
    """Returns whether ufw lets in who connects to a port: from the tailnet if there is one, else somebody.

    The first rule that fits decides. One for a part of the sources lets in where there is no tailnet.

    Source: ufw(8), `status`.
    """
    for rule in rules:
        if not _is_for(rule.to, port):
            continue
        fits = _covers_tailnet(rule.source)
        if fits or (rule.allows and not _on_tailnet()):
            return rule.allows
    return in_general


def _is_for(to: str, port: int) -> bool:
    """Returns whether a rule is for a port of this host."""
    if to in {_ANYWHERE, f"{_ANYWHERE} on {_TAILSCALE}"}:
        return True
    found = _UFW_PORTS.match(to.removesuffix(f" on {_TAILSCALE}").rpartition(" ")[2])
    if found is None or found["kind"] == "udp":
        return False
    bounds = (span.partition(":") for span in found["ports"].split(","))
    return any(int(low) <= port <= int(high or low) for low, _, high in bounds)


def _covers_tailnet(source: str) -> bool:
    if source == _ANYWHERE:
        return True
    try:
        return TAILNET.subnet_of(IPv4Network(source.partition(" ")[0], strict=False))
    except ValueError:
        return False


def _nft(ports: tuple[int, ...]) -> Iterator[Complaint]:
    said = _read("nft", "--json", "list", "ruleset")
    if said is None:
        yield Complaint("warning", "nftables was not read: only root may", _AS_ROOT)
        return
    ruleset = Ruleset(json.loads(said))
    for port in ports:
        packet = Packet(port, _TAILNET_HOST, _TAILSCALE) if _on_tailnet() else Packet(port)
        fate, chain = ruleset.fate(packet)
        if fate == "drop":
            yield Complaint(
                "alarm",
                f"nftables ({chain}) keeps {_whom()} from port {port}",
                f"sudo nft insert rule {chain} ip saddr {_networks()} tcp dport {port} accept; "
                "and put it into /etc/nftables.conf",
            )


def _whom() -> str:
    return f"the tailnet ({TAILNET})" if _on_tailnet() else "every other host"


def _networks() -> str:
    """Returns whom to let in: the tailnet, or the network that the operator knows."""
    return str(TAILNET) if _on_tailnet() else "192.168.0.0/16"


def _on_tailnet() -> bool:
    """Returns whether this host has an address of a tailnet, by the way that packets to one would take."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_MAGIC_DNS)  # sends nothing
        except OSError:
            return False
        return ip_address(probe.getsockname()[0]) in ip_network(TAILNET)


def _read(*command: str) -> str | None:
    """Returns what a program prints that only reads; None if this user may not.

    Raises:
        OSError: if it fails for another reason.
    """
    done = subprocess.run(  # noqa: S603 - fixed words, found on PATH
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_READ_S,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode == 0:
        return done.stdout
    problem = f"{done.stderr.strip()} {done.stdout.strip()}".strip()
    if re.search(r"root|permitted|permission", problem, re.IGNORECASE):
        return None
    raise OSError(f"{command[0]}: {problem or f'exit code {done.returncode}'}")


CHECKS: Final = (Check("firewall", _firewall, "keeps nobody from what is for other hosts"),)

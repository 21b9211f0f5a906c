"""What `doctor` asks of Tailscale: whether this host is in its tailnet, and for how long."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from pmoves_mesh.cli.console import cell
from pmoves_mesh.cli.findings import Check, Complaint, Host
from pmoves_mesh.core.query import iso
from pmoves_mesh.tailscale.failures import TailscaleError, stopped
from pmoves_mesh.tailscale.program import Tailscale, locate
from pmoves_mesh.tailscale.state import TailscaleStatus

_DAY_MS: Final = 86_400_000
_SOON_MS: Final = 14 * _DAY_MS
_RENEW: Final = "sudo tailscale up --force-reauth, or switch its key expiry off in the admin console"


def _tailscale(host: Host) -> Iterator[Complaint]:
    """This host is in its tailnet, unless none is wanted, and nothing ends soon."""
    mode = host.config.tailscale.mode
    if mode == "nats":
        return
    try:
        status = Tailscale(locate(os.environ), os.environ).status()
        failure = stopped(status, host.now_ms)
    except TailscaleError as error:
        status, failure = None, error
    if failure is not None:
        # With `both` a host without Tailscale may well be reached otherwise.
        if failure.kind != "not_installed" or mode == "tailscale":
            yield Complaint("alarm" if mode == "tailscale" else "warning", failure.problem, failure.remedy)
    elif status is not None:
        yield from _running(host, status)


def _running(host: Host, status: TailscaleStatus) -> Iterator[Complaint]:
    expires = status.myself.key_expires if status.myself else None
    if expires is not None and 0 < expires.timestamp() * 1000 - host.now_ms < _SOON_MS:
        what = f"this host's own key of Tailscale ends at {iso(int(expires.timestamp() * 1000))}"
        yield Complaint("warning", what, _RENEW)
    announced = next(
        (node.get("tailscale_ip") for node in host.agent.nodes if node.get("name") == host.config.node), None
    )
    own = status.myself.ipv4 if status.myself else None
    if announced and own and announced != own:
        what = f"this node announces {cell(announced)}, and Tailscale gives it {own}"
        yield Complaint("warning", what, "restart the agent: pmoves-mesh down, then pmoves-mesh up")
    for line in status.health or ():
        yield Complaint("warning", f"Tailscale warns: {cell(line)}", "see: tailscale status")


CHECKS: Final = (Check("Tailscale", _tailscale, "this host is in its tailnet, or none is wanted"),)

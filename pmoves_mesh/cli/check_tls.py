"""What `doctor` checks of the NATS servers' TLS: whom they prove to be, and for how long."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cryptography import x509

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.cli.findings import Check, Complaint, Host
from pmoves_mesh.config import is_loopback
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import ConfigError, PkiError, RightMissing
from pmoves_mesh.log import credentials
from pmoves_mesh.pki.inventory import CertificateFact, fact_of, severity

_CONNECT_S: Final = 2.0
_GREETING_BYTES_MAX: Final = 64 * 1024
_RENEW: Final = "on its host: pmoves-mesh down, then pmoves-mesh up, which renews it; else see its agent.log"


def _tls(host: Host) -> Iterator[Complaint]:
    """Each server that TLS is spoken with shows a certificate that is believed here, and that lasts."""
    for url in host.config.nats_servers:
        parts = urlsplit(url)
        if parts.scheme == "tls":
            yield from _server(host, url, parts)
        elif parts.scheme == "nats" and not is_loopback(parts.hostname or ""):
            yield Complaint(
                "warning",
                f"{url}: what is said to it crosses the network in the clear, unless it insists on TLS",
                "say tls:// in NATS_URL; pmoves-mesh join TOKEN gives this host what it needs",
            )


def _server(host: Host, url: str, parts: SplitResult) -> Iterator[Complaint]:
    place = (parts.hostname or "", parts.port or 4222)
    try:
        login = credentials.load(nats_settings(host.config), url)
        context = login.tls or ssl.create_default_context()
        shown = _shown(place, context, login.tls_name or place[0])
    except (RightMissing, ConfigError) as error:
        yield Complaint("alarm", f"{url}: {error}", "see identity and keys")
    except (ssl.SSLError, PkiError) as error:
        yield _refused(host, url, place, error)
    except OSError:
        yield Complaint("warning", f"{url}: not checked, it does not answer", "see NATS")
    else:
        urgency = severity(shown, host.now_ms)
        if urgency != "ok":
            yield Complaint(urgency, f"{url}: its certificate {_ends(shown, host.now_ms)}", _RENEW)


def _refused(host: Host, url: str, place: tuple[str, int], error: Exception) -> Complaint:
    """Returns why a server is not believed: by its dates if it is that."""
    reason = getattr(error, "verify_message", "") or " ".join(str(error).split())
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE  # it is read for its dates, and nothing is sent
    try:
        shown = _shown(place, unchecked, place[0])
    except (OSError, ValueError):
        shown = None
    if shown is not None and shown.not_after_ms <= host.now_ms:
        return Complaint("alarm", f"{url}: its certificate {_ends(shown, host.now_ms)}", _RENEW)
    if shown is not None and shown.not_before_ms > host.now_ms:
        what = f"{url}: its certificate begins only at {iso(shown.not_before_ms)}"
        return Complaint("alarm", what, "set this host's clock, or the server's: by NTP")
    who = f" of {shown.kind} {shown.name}" if shown is not None else ""
    return Complaint(
        "alarm",
        f"{url}: its certificate{who} is not believed here ({reason})",
        "see that it is the server of this mesh; if so, take its CA: pmoves-mesh join TOKEN",
    )


def _shown(place: tuple[str, int], context: ssl.SSLContext, name: str) -> CertificateFact:
    """Returns what the server shows within the handshake; nothing is sent to it afterwards.

    Raises:
        OSError: if it does not answer; an `ssl.SSLError` if it is not believed.
        PkiError: if it is genuine, and not one of those expected.

    Source: docs.nats.io, "NATS protocol": INFO in the clear, then TLS.
    """
    with socket.create_connection(place, _CONNECT_S) as connection:
        connection.settimeout(_CONNECT_S)
        greeting = b""
        while b"\n" not in greeting:
            # Not one byte more than the line: what follows is the handshake.
            byte = connection.recv(1)
            if not byte or len(greeting) >= _GREETING_BYTES_MAX:
                raise ConnectionError("no greeting")
            greeting += byte
        with context.wrap_socket(connection, server_hostname=name) as tls:
            return fact_of(x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b""))


def _ends(fact: CertificateFact, now_ms: int) -> str:
    verb = "ended" if fact.not_after_ms <= now_ms else "ends"
    return f"({fact.kind} {fact.name}) {verb} at {iso(fact.not_after_ms)}"


CHECKS: Final = (Check("TLS", _tls, "each NATS server that speaks it is believed here"),)

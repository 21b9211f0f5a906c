"""A host that keeps a CA, as far as those who ask it over HTTPS can tell."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh import tls
from pmoves_mesh.agent.trust.ca_client import Holder
from pmoves_mesh.agent.trust.enroller import LocalEnroller
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.errors import EnrolmentRefusedError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.authority import Authority
from pmoves_mesh.pki.requests import read_request
from pmoves_mesh.pki.templates import CertificateRequest
from pmoves_mesh.pki.tokens import JoinToken, new_token
from pmoves_mesh.ports import Enrolment

MESH = "test-mesh"
Answer = tuple[int, Any]


class Host:
    """A node with an authority of its own, which answers over TLS and remembers what it was asked.

    Without an `enroller` it gives whatever is asked for.
    """

    def __init__(self, directory: Path, node: str = "main", mesh: str = MESH) -> None:
        self.tls_dir, self.identity_dir = directory / "tls", directory / node
        self.node, self.mesh = node, mesh
        now_ms = SystemClock().now_ms()
        keystore.ensure_authority(self.tls_dir, mesh, now_ms)
        self.identity = keystore.open_identity(self.identity_dir, self.tls_dir, mesh, node, (), now_ms)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.peers: list[str | None] = []
        self.answers: dict[str, Answer] = {}
        self.issuer: Authority | None = None
        self.enroller: LocalEnroller | None = None
        self.url = ""

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        return keystore.read_roots(self.tls_dir)

    @property
    def holder(self) -> Holder:
        return Holder(self.identity_dir / "node.crt", self.identity_dir / "node.key")

    def token(self, **fields: Any) -> JoinToken:
        given = {"mesh": MESH, "urls": (self.url,), "ca": fingerprint(self.roots[0]), "issuer": self.node}
        return new_token(**(given | fields))

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        if path in self.answers:
            return self.answers[path]
        if path == "/api/trust":
            return 200, {"mesh": self.mesh, "roots": [pem(root) for root in self.roots], "more": 1}
        requested = read_request(body["csr"], self.mesh)
        authority = self.issuer or keystore.load_authority(self.tls_dir, self.mesh)
        certificate = authority.issue(
            CertificateRequest(kind=requested.kind, name=requested.name, public_key=requested.public_key),
            SystemClock().now_ms(),
        )
        settings = {"NATS_URL": "tls://main:4222"} if path == "/api/enrol" else {}
        return 200, {
            "certificate": pem(certificate),
            "roots": [pem(root) for root in self.roots],
            "settings": settings,
        }

    async def answered(self, path: str, body: dict[str, Any]) -> Answer:
        if self.enroller is None or path != "/api/enrol" or path in self.answers:
            return self.answer(path, body)
        try:
            given = await self.enroller.enrol(Enrolment(**body, remote="127.0.0.1"))
        except EnrolmentRefusedError as error:
            return 403, {"title": "Forbidden", "detail": error.problem, "reason": error.reason}
        return 200, msgspec.to_builtins(given)

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.peers.append(tls.peer_id(writer))
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.split("\r\n")
                    if line.lower().startswith("content-length")
                ),
                0,
            )
            body = json.loads(await reader.readexactly(length)) if length else {}
            path = head.split(" ")[1]
            self.asked.append((path, body))
            status, answer = await self.answered(path, body)
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            writer.write(
                f"HTTP/1.1 {status} x\r\nContent-Length: {len(raw)}\r\nRetry-After: 7\r\n"
                f"Location: https://127.0.0.1:1/\r\nConnection: close\r\n\r\n".encode()
            )
            writer.write(raw)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away, as it should when it does not trust this host
        finally:
            writer.close()

    @asynccontextmanager
    async def serving(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None
    ) -> AsyncIterator[Host]:
        certificate, key = self.holder
        context: ssl.SSLContext = tls.server_context(
            certificate, key, self.tls_dir / "ca.crt", require_client=False
        )
        server = await asyncio.start_server(serve or self.serve_one, "127.0.0.1", 0, ssl=context)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()

"""Mutual TLS by SPIFFE name: over plain sockets, `http.client`, asyncio and uvloop."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop
from certificates import MESH, FileAuthority, IdentityFiles

from pmoves_mesh.errors import InvalidFieldError, PkiError
from pmoves_mesh.tls import client_context, is_allowed, peer_id, server_context

DEADLINE_S: Final = 10.0
SERVER: Final = f"spiffe://{MESH}/service/whisper"
CLIENT: Final = f"spiffe://{MESH}/service/whisper-client"
REFUSED: Final = (ssl.SSLError, ConnectionError)
LOOPS: Final = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture
def mesh(tmp_path: Path) -> FileAuthority:
    return FileAuthority(tmp_path / "mesh")


@pytest.fixture
def whisper(mesh: FileAuthority) -> IdentityFiles:
    return mesh.identity("whisper")


@pytest.fixture
def client(mesh: FileAuthority) -> IdentityFiles:
    return mesh.identity("whisper-client")


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs a coroutine to its end, on a loop of either kind."""

    def run_it(wanted: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(wanted, DEADLINE_S))

    return run_it


def serving(files: IdentityFiles, **options: Any) -> ssl.SSLContext:
    return server_context(files.certificate, files.key, files.roots, **options)


def calling(files: IdentityFiles, *allow: str) -> ssl.SSLContext:
    return client_context(files.certificate, files.key, files.roots, allow=allow or (SERVER,))


async def exchange(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str | None, str | None]:
    """Lets a client and a server talk; each says whom it talks to, and the client's word comes second."""
    refused: list[BaseException] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            assert await reader.readexactly(4) == b"ping"
            writer.write((peer_id(writer) or "-").encode())
            await writer.drain()
        except OSError as error:
            refused.append(error)
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            seen = peer_id(writer)
            writer.write(b"ping")
            heard = (await reader.read()).decode()
            if not heard:
                raise ConnectionResetError
            return seen, None if heard == "-" else heard
        finally:
            writer.close()


def test_both_sides_learn_the_name_of_the_other(run: Any, whisper: IdentityFiles, client: IdentityFiles):
    assert run(exchange(serving(whisper, allow=[CLIENT]), calling(client))) == (SERVER, CLIENT)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_either_version_of_tls_is_spoken_and_checked(
    run: Any, mesh: FileAuthority, whisper: IdentityFiles, client: IdentityFiles, version: ssl.TLSVersion
):
    def of(files: IdentityFiles) -> ssl.SSLContext:
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        plain.check_hostname = False
        plain.maximum_version = plain.minimum_version = version
        plain.load_verify_locations(files.roots)
        plain.load_cert_chain(files.certificate, files.key)
        return plain

    server = serving(whisper, allow=[CLIENT])
    assert run(exchange(server, of(client))) == (SERVER, CLIENT)
    with pytest.raises(REFUSED):
        run(exchange(server, of(mesh.identity("stranger"))))


def test_a_client_that_is_not_listed_gets_no_byte(run: Any, mesh: FileAuthority, whisper: IdentityFiles):
    unlisted = mesh.identity("stranger")
    with pytest.raises(REFUSED):
        run(exchange(serving(whisper, allow=[CLIENT]), calling(unlisted)))


def test_a_server_that_is_not_listed_is_left_before_a_byte_is_sent(
    run: Any, mesh: FileAuthority, client: IdentityFiles
):
    impostor = mesh.identity("impostor")
    with pytest.raises(
        ssl.SSLCertVerificationError, match=f"spiffe://{MESH}/service/impostor is not one of {SERVER}"
    ):
        run(exchange(serving(impostor), calling(client)))


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_peer_of_another_mesh_is_refused_though_it_bears_the_right_name(
    run: Any, tmp_path: Path, mesh: FileAuthority, who: str
):
    foreign = FileAuthority(tmp_path / "foreign")
    server = (foreign if who == "server" else mesh).identity("whisper")
    client = (foreign if who == "client" else mesh).identity("whisper-client")
    with pytest.raises(REFUSED):
        run(
            exchange(
                server_context(server.certificate, server.key, mesh.roots, allow=[CLIENT]),
                client_context(client.certificate, client.key, mesh.roots, allow=[SERVER]),
            )
        )


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_certificate_that_has_ended_is_refused(run: Any, mesh: FileAuthority, who: str):
    server = mesh.identity("whisper", ended=who == "server")
    client = mesh.identity("whisper-client", ended=who == "client")
    with pytest.raises(REFUSED, match="certificate has expired" if who == "server" else None):
        run(exchange(serving(server), calling(client)))


def test_a_client_without_a_certificate_is_refused_unless_none_is_required(run: Any, whisper: IdentityFiles):
    anonymous = client_context(None, None, whisper.roots, allow=[SERVER])
    with pytest.raises(REFUSED):
        run(exchange(serving(whisper), anonymous))
    assert run(exchange(serving(whisper, require_client=False), anonymous)) == (SERVER, None)
    assert run(exchange(serving(whisper, require_client=False, allow=[CLIENT]), anonymous)) == (SERVER, None)


def test_a_certificate_is_checked_even_where_none_is_required(
    run: Any, mesh: FileAuthority, whisper: IdentityFiles, client: IdentityFiles
):
    server = serving(whisper, require_client=False, allow=[CLIENT])
    assert run(exchange(server, calling(client))) == (SERVER, CLIENT)
    with pytest.raises(REFUSED):
        run(exchange(server, calling(mesh.identity("stranger"))))


@pytest.mark.parametrize("uris", [(), (SERVER, f"spiffe://{MESH}/service/rag")])
def test_a_certificate_with_no_name_or_two_is_nobodys(
    run: Any, mesh: FileAuthority, client: IdentityFiles, uris: tuple[str, ...]
):
    nobody = mesh.identity("whisper", uris=uris)
    with pytest.raises(ssl.SSLCertVerificationError, match="a peer without a SPIFFE ID is not one of"):
        run(exchange(serving(nobody), calling(client)))


@pytest.mark.parametrize(
    ("peer", "allow", "allowed"),
    [
        (CLIENT, (CLIENT,), True),
        (CLIENT, (SERVER, CLIENT), True),
        (CLIENT, (f"spiffe://{MESH}/service/*",), True),
        (CLIENT, (f"spiffe://{MESH}/service/whisper-*",), True),
        (CLIENT, (SERVER,), False),
        (SERVER, (CLIENT,), False),
        (CLIENT, (f"spiffe://{MESH}/node/*",), False),
        (f"spiffe://{MESH}-2/service/whisper-client", (f"spiffe://{MESH}/*",), False),
        (CLIENT, (), False),
        (None, (f"spiffe://{MESH}/*",), False),
    ],
)
def test_a_name_is_on_the_list_or_begins_as_an_entry_says(
    peer: str | None, allow: tuple[str, ...], allowed: bool
):
    assert is_allowed(peer, allow) is allowed


@pytest.mark.parametrize(
    "entry", ["", "*", "spiffe://*", "whisper", f"spiffe://{MESH}", "spiffe://a/*/b", SERVER]
)
def test_a_list_holds_spiffe_ids_and_nothing_else(whisper: IdentityFiles, entry: str):
    if entry == SERVER:
        calling(whisper, entry)
        return
    with pytest.raises(InvalidFieldError, match=r"^allow: "):
        calling(whisper, entry)
    with pytest.raises(InvalidFieldError, match=r"^allow: "):
        serving(whisper, allow=SERVER)  # a text is not a list of them


# Plain sockets


@contextmanager
def answering(context: ssl.SSLContext, *, at_once: bool = True) -> Iterator[tuple[int, list[str]]]:
    """A server with plain sockets, which answers each client with its name, and notes what it heard."""
    heard: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))
    wrapped = context.wrap_socket(listening, server_side=True, do_handshake_on_connect=at_once)
    wrapped.settimeout(DEADLINE_S)

    def serve() -> None:
        while True:
            try:
                connection, _ = wrapped.accept()
            except ssl.SSLError as error:
                heard.append(f"refused: {error}")
                continue
            except OSError:
                return
            with connection:
                connection.settimeout(DEADLINE_S)
                try:
                    heard.append(connection.recv(100).decode())
                    connection.sendall((peer_id(connection) or "-").encode())
                except OSError as error:
                    heard.append(f"refused: {error}")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield wrapped.getsockname()[1], heard
    finally:
        # Closing a socket does not wake whoever accepts on it.
        socket.socket.shutdown(wrapped, socket.SHUT_RDWR)
        thread.join(DEADLINE_S)
        wrapped.close()


def ask(port: int, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), DEADLINE_S) as raw,
        context.wrap_socket(raw, server_hostname="whisper.example") as connection,
    ):
        connection.sendall(b"ping")
        return connection.recv(200).decode()


@pytest.mark.parametrize("at_once", [True, False])
def test_plain_sockets_check_the_peer_whether_or_not_they_make_the_handshake_at_once(
    mesh: FileAuthority, whisper: IdentityFiles, client: IdentityFiles, at_once: bool
):
    with answering(serving(whisper, allow=[CLIENT]), at_once=at_once) as (port, heard):
        assert ask(port, calling(client)) == CLIENT
        with pytest.raises((*REFUSED, AssertionError)):
            assert ask(port, calling(mesh.identity("stranger")))
    assert heard == ["ping", f"refused: spiffe://{MESH}/service/stranger is not one of {CLIENT}"]


def test_a_socket_that_was_refused_stays_so_however_often_it_is_tried(
    whisper: IdentityFiles, client: IdentityFiles
):
    with (
        answering(serving(whisper)) as (port, heard),
        socket.create_connection(("127.0.0.1", port), DEADLINE_S) as raw,
    ):
        other = calling(client, f"spiffe://{MESH}/service/rag")
        connection = other.wrap_socket(raw, do_handshake_on_connect=False)
        for attempt in (
            connection.do_handshake,
            lambda: connection.send(b"ping"),
            lambda: connection.sendall(b"ping"),
            lambda: connection.write(b"ping"),
            lambda: connection.recv(1),
            lambda: connection.recv_into(bytearray(1)),
            connection.read,
        ):
            with pytest.raises(ssl.SSLCertVerificationError, match="is not one of"):
                attempt()
        connection.close()
    assert "ping" not in heard


def test_buffers_check_the_peer_even_if_nobody_asks_for_the_handshake(
    whisper: IdentityFiles, client: IdentityFiles
):
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving(whisper).wrap_bio(server_in, server_out, server_side=True)
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = calling(client, f"spiffe://{MESH}/service/rag").wrap_bio(client_in, client_out)

    def talk() -> None:
        for _ in range(10):
            with suppress(ssl.SSLWantReadError):
                caller.write(b"secret")
            server_in.write(client_out.read())
            with pytest.raises(ssl.SSLWantReadError):
                server.read()
            client_in.write(server_out.read())

    with pytest.raises(ssl.SSLCertVerificationError, match="is not one of"):
        talk()


def test_a_client_of_the_standard_library_talks_to_a_server_of_it(
    whisper: IdentityFiles, client: IdentityFiles
):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (peer_id(self.connection) or "-").encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = serving(whisper, allow=[CLIENT]).wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        asking = http.client.HTTPSConnection(
            "127.0.0.1", server.server_port, timeout=DEADLINE_S, context=calling(client)
        )
        asking.request("GET", "/")
        assert asking.getresponse().read().decode() == CLIENT
        asking.close()
        server.shutdown()


# Renewal


def test_a_renewed_certificate_is_used_from_the_next_connection_on_and_drops_none(
    run: Any, mesh: FileAuthority, whisper: IdentityFiles, client: IdentityFiles
):
    server, caller = serving(whisper), calling(client, f"spiffe://{MESH}/service/*")

    async def scenario() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        async def says(stream: Any, word: bytes) -> bool:
            stream[1].write(word + b"\n")
            return bool(await stream[0].readline() == word + b"\n")

        def shown(stream: Any) -> bytes:
            certificate = stream[1].get_extra_info("ssl_object").getpeercert(True)
            assert isinstance(certificate, bytes)
            return certificate

        async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server) as listening:
            port = listening.sockets[0].getsockname()[1]
            before = await asyncio.open_connection("127.0.0.1", port, ssl=caller)
            assert await says(before, b"before")
            mesh.identity("whisper")
            after = await asyncio.open_connection("127.0.0.1", port, ssl=caller)
            assert await says(after, b"after")
            assert await says(before, b"still")
            assert shown(before) != shown(after)
            again = await asyncio.open_connection("127.0.0.1", port, ssl=caller)
            assert shown(again) == shown(after)
            for _, writer in (before, after, again):
                writer.close()

    run(scenario())


def test_a_listening_socket_takes_up_a_renewed_certificate(
    mesh: FileAuthority, whisper: IdentityFiles, client: IdentityFiles
):
    with answering(serving(whisper, allow=[CLIENT])) as (port, _):
        caller = calling(client, f"spiffe://{MESH}/service/*")
        assert ask(port, caller) == CLIENT
        mesh.identity("whisper", uris=(f"spiffe://{MESH}/service/renamed",))
        assert ask(port, caller) == CLIENT
        with pytest.raises(ssl.SSLCertVerificationError, match="service/renamed is not one of"):
            ask(port, calling(client))


def test_a_half_written_file_leaves_the_earlier_one_in_use_until_it_is_whole(
    run: Any, mesh: FileAuthority, whisper: IdentityFiles, client: IdentityFiles
):
    server, caller = serving(whisper), calling(client)
    certificate, key = whisper.certificate.read_bytes(), whisper.key.read_bytes()
    for broken in (b"", certificate[: len(certificate) // 2], b"no certificate"):
        whisper.certificate.write_bytes(broken)
        assert run(exchange(server, caller)) == (SERVER, CLIENT)
    whisper.certificate.unlink()
    assert run(exchange(server, caller)) == (SERVER, CLIENT)
    mesh.identity("whisper", uris=(f"spiffe://{MESH}/service/renamed",))
    renewed = whisper.key.read_bytes()
    whisper.key.write_bytes(key)  # the certificate is there already, its key not yet
    assert run(exchange(server, caller)) == (SERVER, CLIENT)
    whisper.key.write_bytes(renewed)
    with pytest.raises(ssl.SSLCertVerificationError, match="service/renamed is not one of"):
        run(exchange(server, caller))


def test_new_roots_are_believed_and_dropped_ones_are_not(
    run: Any, tmp_path: Path, mesh: FileAuthority, whisper: IdentityFiles
):
    successor = FileAuthority(tmp_path / "successor")
    fresh = successor.identity("whisper-client")
    stale = mesh.identity("whisper-client")
    server = serving(whisper)
    old, new = mesh.roots.read_bytes(), successor.roots.read_bytes()
    for side in (fresh, stale):
        side.roots.write_bytes(new + old)
    assert run(exchange(server, calling(fresh))) == (SERVER, CLIENT)
    assert run(exchange(server, calling(stale))) == (SERVER, CLIENT)
    caller = calling(stale)
    renewed = successor.identity("whisper")
    whisper.certificate.write_bytes(renewed.certificate.read_bytes())
    whisper.key.write_bytes(renewed.key.read_bytes())
    whisper.roots.write_bytes(new)
    assert run(exchange(server, calling(fresh))) == (SERVER, CLIENT)
    with pytest.raises(REFUSED):
        run(exchange(server, caller))


@pytest.mark.parametrize("missing", ["certificate", "key", "roots"])
def test_a_context_is_not_made_from_files_that_are_not_there(whisper: IdentityFiles, missing: str):
    getattr(whisper, missing).unlink()
    with pytest.raises(PkiError, match=r"cannot be used for TLS \([^\n]+\)$"):
        serving(whisper)


def test_protocols_that_a_client_library_asks_for_are_offered_after_a_renewal_too(
    run: Any, mesh: FileAuthority, whisper: IdentityFiles, client: IdentityFiles
):
    server, caller = serving(whisper), calling(client)
    for context in (server, caller):
        context.set_alpn_protocols(["http/1.1"])

    async def agreed() -> str | None:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=server) as listening:
            port = listening.sockets[0].getsockname()[1]
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=caller)
            found: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            writer.close()
            return found

    assert run(agreed()) == "http/1.1"
    mesh.identity("whisper")
    assert run(agreed()) == "http/1.1"

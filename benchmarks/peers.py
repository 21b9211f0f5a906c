"""What a user would pick instead, running on this machine where its program is there: nginx, etcd, Consul."""

from __future__ import annotations

import base64
import http.client
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.processes import free_port, seconds_until, started
from benchmarks.wrk import get, post

NGINX = "nginx, static files"
ETCD = "etcd, HTTP gateway"
CONSUL = "Consul"
BARE = "bare asyncio handler"

PREFIX = "/api/services/"

_CONFIGURATION = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  sendfile on;
  tcp_nopush on;
  default_type application/json;
  open_file_cache max=100000 inactive=1h;
  {temporary}
  server {{ listen 127.0.0.1:{port}; root {folder}/files; }}
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Peer(NamedTuple):
    """A server to ask.

    Attributes:
        requests: one for each service.
    """

    port: int
    pid: int
    requests: list[bytes]


@contextmanager
def nginx(folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Peer]:
    """Runs nginx with a file for each service, which holds what an agent answers of it."""
    port, program = free_port(), _found("nginx")
    files = folder / "files" / PREFIX.strip("/")
    files.mkdir(parents=True)
    for name, body in bodies.items():
        (files / name).write_bytes(body)
    # Its workers may be another user's, who has to get there.
    for path in (folder, *folder.glob("files/**")):
        path.chmod(0o755)
    temporary = "".join(f"{one}_temp_path {folder}/{one};" for one in _TEMPORARY)
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, port=port, temporary=temporary))
    with started([program, "-c", configuration, "-p", folder, "-e", "stderr"], folder, port) as process:
        yield Peer(port, process.pid, [get(f"{PREFIX}{name}") for name in bodies])


@contextmanager
def etcd(folder: Path) -> Iterator[Peer]:
    """Runs etcd, alone, with fsync, as it comes; nothing is in it."""
    port, program = free_port(), _found("etcd")
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
    own = ("--name", "one", "--initial-cluster", f"one={peer}", "--initial-advertise-peer-urls", peer)
    urls = ("--listen-peer-urls", peer, "--listen-client-urls", client, "--advertise-client-urls", client)
    command: list[str | Path] = [program, "--data-dir", folder / "etcd", *own, *urls, "--log-level", "error"]
    with started(command, folder, port) as process:
        seconds_until(lambda: _healthy(port))
        yield Peer(port, process.pid, [])


@contextmanager
def etcd_filled(folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Peer]:
    """Runs etcd with a key for each service, which holds what an agent answers of it."""
    with etcd(folder) as peer:
        connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=10)
        for name, body in bodies.items():
            _send(connection, "POST", "/v3/kv/put", etcd_body(name, value=body))
        connection.close()
        yield peer._replace(requests=[post("/v3/kv/range", etcd_body(name)) for name in bodies])


def etcd_body(name: str, **more: bytes) -> bytes:
    """Returns the body of a request to etcd's gateway, about the key of a service."""
    fields = {"key": f"/services/{name}".encode(), **more}
    return msgspec.json.encode({field: base64.b64encode(value).decode() for field, value in fields.items()})


@contextmanager
def consul(folder: Path, bodies: Mapping[str, bytes]) -> Iterator[Peer]:
    """Runs Consul as it is for development, all in memory, with each service registered."""
    port, program = free_port(), _found("consul")
    ports = {name: free_port() for name in ("serf-lan-port", "serf-wan-port", "server-port")}
    off = ("-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1")
    places = [text for name, value in ports.items() for text in (f"-{name}", str(value))]
    command = [program, "agent", "-dev", "-bind", "127.0.0.1", "-http-port", str(port), *off, *places]
    with started(command, folder, port) as process:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        seconds_until(lambda: _leads(port))
        for number, name in enumerate(bodies):
            record = {"Name": name, "Address": "10.1.2.3", "Port": 8000 + number % 1000, "Tags": ["all"]}
            _send(connection, "PUT", "/v1/agent/service/register", msgspec.json.encode(record))
        connection.close()
        yield Peer(port, process.pid, [get(f"/v1/health/service/{name}") for name in bodies])


@contextmanager
def bare(folder: Path, answer: bytes, requests: list[bytes]) -> Iterator[Peer]:
    """Runs the least that a Python server can do, with one answer to everything."""
    port, file = free_port(), folder / "answer"
    file.write_bytes(answer)
    command: list[str | Path] = [sys.executable, Path(__file__).with_name("bare.py"), str(port), file]
    with started(command, folder, port) as process:
        yield Peer(port, process.pid, requests)


def _found(program: str) -> str:
    """Returns where a program is.

    Raises:
        FileNotFoundError: if it is not on PATH.
    """
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise FileNotFoundError(f"{program} is not on PATH")
    return path


def _send(connection: http.client.HTTPConnection, method: str, path: str, body: bytes) -> None:
    connection.request(method, path, body)
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.read().decode()[:200]}")
    response.read()


def _healthy(port: int) -> bool:
    return b"true" in _read(port, "/health")


def _leads(port: int) -> bool:
    return b":" in _read(port, "/v1/status/leader")


def _read(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().read()
    return b""

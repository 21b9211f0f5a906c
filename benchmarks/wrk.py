"""Asking a server as fast as it answers: wrk, with 32 connections, whatever the requests are."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

CONNECTIONS = 32

_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
_WRONG = re.compile(r"(?:Non-2xx or 3xx responses|Socket errors):.*")
# Every server is asked through the same script, so that what it costs wrk is the same for all.
_SCRIPT = """
local requests, at = {}, 0
function init(arguments)
  local file = io.open(arguments[1], "rb")
  for one in file:read("*a"):gmatch("[^%z]+") do requests[#requests + 1] = one end
  file:close()
end
function request()
  at = at % #requests + 1
  return requests[at]
end
"""


def missing() -> str:
    """Returns why nothing can be asked; empty if it can."""
    return "" if shutil.which("wrk") else "wrk is not on PATH"


class Asking:
    """Requests for one server, kept in a file, from which wrk sends one after another."""

    def __init__(self, folder: Path, port: int, requests: Iterable[bytes]) -> None:
        self._port = port
        self._script = folder / "requests.lua"
        self._script.write_text(_SCRIPT)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".requests", delete=False) as file:
            file.write(b"\0".join(requests))
        self._requests = Path(file.name)

    def rate(self, seconds: float) -> float:
        """Returns how many answers a second come, each a success.

        Raises:
            RuntimeError: if one is no success.
        """
        load = ("-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s")
        command = ["wrk", *load, "-s", str(self._script), f"http://127.0.0.1:{self._port}"]
        command += ["--", str(self._requests)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found, wrong = _RATE.search(said), _WRONG.search(said)
        if found is None or wrong is not None:
            raise RuntimeError(f"port {self._port}: {said if wrong is None else wrong.group()}")
        return float(found[1])


class Always(Asking):
    """The same, of requests that are all different: each round goes on where the last one ended."""

    def __init__(self, folder: Path, port: int, requests: Iterable[bytes], per_round: int) -> None:
        self._folder, self._to, self._each = folder, port, per_round
        self._coming = iter(requests)
        super().__init__(folder, port, ())

    def rate(self, seconds: float) -> float:
        """Returns how many answers a second come."""
        self._requests.unlink()
        super().__init__(self._folder, self._to, itertools.islice(self._coming, self._each))
        return super().rate(seconds)


def get(path: str) -> bytes:
    """Returns a request for a path."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """Returns a request that brings a body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body

"""A `tailscale` on PATH that replays what the real program writes, and remembers how it was called."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = """\
#!/bin/sh
cd '{directory}' || exit 99
echo "$*" >> calls
env > environment
case "$1" in
up)
    for word in "$@"; do
        case "$word" in --auth-key=file:*)
            cat "${{word#--auth-key=file:}}" > key
            echo "${{word#--auth-key=file:}}" > key.path
        esac
    done
    [ -e up.hang ] && exec sleep 30
    cat up.err >&2
    [ "$(cat up.code)" = 0 ] && cp status.after status.out && echo 0 > status.code && : > status.err
    [ "$(cat up.code)" = 0 ] || [ ! -e status.failed ] || cp status.failed status.out
    exit "$(cat up.code)" ;;
status) cat status.out; cat status.err >&2; exit "$(cat status.code)" ;;
esac
"""

MYSELF: dict[str, Any] = {
    "ID": "n1CNTRL",
    "HostName": "Alpha",
    "DNSName": "main-pc.tail1a2b.ts.net.",
    "OS": "linux",
    "TailscaleIPs": ["100.101.1.1", "fd7a:115c:a1e0::1"],
    "Tags": ["tag:pmoves"],
    "CurAddr": "",
    "Relay": "fra",
    "LastSeen": "0001-01-01T00:00:00Z",
    "Online": False,
    "Active": False,
    "KeyExpiry": "2031-01-01T00:00:00Z",
}


def peer(name: str, number: int, **fields: Any) -> dict[str, Any]:
    """Returns a peer as the real program writes it: online, with a relay, and nothing exchanged with it."""
    own = {
        "HostName": name,
        "DNSName": f"{name}.tail1a2b.ts.net.",
        "TailscaleIPs": [f"100.101.1.{number}", f"fd7a:115c:a1e0::{number}"],
        "Online": True,
        "LastSeen": "0001-01-01T00:00:00Z",
    }
    return {**MYSELF, **own, **fields}


def status_text(state: str = "Running", *peers: dict[str, Any], spaces: bool = True, **fields: Any) -> str:
    """Returns `tailscale status --json`; the real one is indented, older wrappers are not."""
    body = {
        "Version": "1.90.9-t1f0817693-g56304b539",
        "TUN": True,
        "BackendState": state,
        "AuthURL": "",
        "TailscaleIPs": MYSELF["TailscaleIPs"],
        "Self": MYSELF,
        "Health": [],
        "MagicDNSSuffix": "tail1a2b.ts.net",
        "Peer": {f"nodekey:{one['HostName']}": one for one in peers} or None,
        "User": None,
        **fields,
    }
    return json.dumps(body, indent=2 if spaces else None, separators=None if spaces else (",", ":"))


@dataclass(frozen=True)
class StubTailscale:
    """The stub in a directory of its own, to be put on PATH."""

    directory: Path

    @classmethod
    def made(cls, directory: Path) -> StubTailscale:
        """Makes one that is running."""
        directory.mkdir(parents=True)
        program = directory / "tailscale"
        program.write_text(SCRIPT.format(directory=directory))
        program.chmod(0o755)
        stub = cls(directory)
        stub.says(status_text())
        stub.when_up("", after=status_text())
        return stub

    @property
    def program(self) -> Path:
        return self.directory / "tailscale"

    @property
    def calls(self) -> list[str]:
        path = self.directory / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def says(self, output: str, *, error: str = "", code: int = 0) -> None:
        """What `tailscale status` writes from now on."""
        self._write("status", out=output, err=error, code=str(code))

    def when_up(self, error: str, *, code: int = 0, after: str = "") -> None:
        """What `tailscale up` writes, and what `status` does once it succeeded."""
        self._write("up", err=error, code=str(code))
        self._write("status", after=after)

    def when_up_fails(self, after: str) -> None:
        """What `tailscale status` writes once `up` has failed."""
        self._write("status", failed=after)

    def hangs_when_up(self) -> None:
        self._write("up", hang="")

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def _write(self, stem: str, **texts: str) -> None:
        for suffix, text in texts.items():
            # Whole at once, since the program may be reading it.
            whole = self.directory / f"{stem}.{suffix}.new"
            whole.write_text(text)
            whole.replace(whole.with_suffix(""))

"""What the embedded nats-server is told: its configuration file, as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from msgspec import Struct

HOST: Final = "127.0.0.1"
MAX_PAYLOAD: Final = "1MB"


class ServerFiles(Struct, frozen=True):
    """Where the embedded server of one node keeps what it writes: all below one directory."""

    directory: Path

    @property
    def config(self) -> Path:
        """The configuration; its path on the server's command line also marks the process as ours."""
        return self.directory / "nats-server.conf"

    @property
    def name(self) -> Path:
        """The server's name, made once for this directory."""
        return self.directory / "server_name"

    @property
    def pid(self) -> Path:
        """The process id, while the server runs."""
        return self.directory / "nats-server.pid"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.directory / "nats-server.log"

    @property
    def output(self) -> Path:
        """What the server says before it has a log, and when it crashes."""
        return self.directory / "nats-server.out"

    @property
    def streams(self) -> Path:
        """The streams and buckets."""
        return self.directory / "jetstream"


def render(files: ServerFiles, server_name: str, port: int) -> str:
    """Returns the configuration of a server on loopback whose acknowledgements mean: on the disk.

    Source: docs.nats.io, "Configuration" and "JetStream, sync_interval".
    """
    return f"""\
listen: {_quoted(f"{HOST}:{port}")}
server_name: {_quoted(server_name)}
max_payload: {MAX_PAYLOAD}
pid_file: {_quoted(str(files.pid))}
log_file: {_quoted(str(files.log))}
logfile_size_limit: 10MB
logfile_max_num: 3
jetstream {{
    store_dir: {_quoted(str(files.streams))}
    sync_interval: always
}}
"""


def _quoted(text: str) -> str:
    """Returns `text` as a string of the configuration, which escapes quotes and backslashes as JSON does."""
    return json.dumps(text, ensure_ascii=False)

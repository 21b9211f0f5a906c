"""The agent's image for tests, where no registry is reached: from debootstrap and wheels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "deploy" / "locks" / "runtime.txt"
BASE = "pmoves-mesh-test-base:bookworm"
AGENT = "pmoves-mesh-test-agent:built"
BASE_PYTHON = "3.11"
MADE_S = 480
MIRROR = "http://deb.debian.org/debian"


def base_problem(client: Any) -> str:
    """Returns why there is no base image and none can be made, or nothing if there is one now."""
    if client.images.list(BASE):
        return ""
    if shutil.which("debootstrap") is None:
        return "no debootstrap is installed, to make a base image without a registry"
    if os.geteuid() != 0:
        return "debootstrap needs root"
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root"
        words = ["--variant=minbase", "--include=python3,python3-venv", "bookworm", str(root), MIRROR]
        try:
            made = subprocess.run(
                ["debootstrap", *words],
                env={**os.environ, "DPKG_FORCE": "unsafe-io"},  # nothing of it has to survive a power failure
                capture_output=True,
                text=True,
                timeout=MADE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"debootstrap has made no base image within {MADE_S} s"
        if made.returncode != 0:
            return f"debootstrap makes no base image: {made.stdout.strip().splitlines()[-1:]}"
        packed = Path(directory) / "base.tar"
        subprocess.run(
            ["tar", "-C", root, "--exclude=./var/cache/apt/archives/*", "-cf", packed, "."], check=True
        )
        name, tag = BASE.split(":")
        client.api.import_image_from_file(str(packed), repository=name, tag=tag)
    return ""


def build_agent(client: Any, directory: Path) -> str:
    """Builds the agent's image as its recipe says, and returns why it can not, or nothing."""
    fetched = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--require-hashes",
                "--only-binary",
                ":all:",
            ),
            *("--python-version", BASE_PYTHON, "--requirement", LOCK, "--dest", directory),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if fetched.returncode != 0:
        return f"pip reaches no package index here: {fetched.stderr.strip()[-200:]}"
    with served(directory) as url:
        client.images.build(
            path=str(ROOT),
            dockerfile="deploy/Dockerfile",
            buildargs={"BASE_IMAGE": BASE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": url},
            network_mode="host",
            tag=AGENT,
            rm=True,
        )
    return ""


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serves a folder on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

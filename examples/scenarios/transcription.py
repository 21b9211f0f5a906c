"""Scenario: a Jetson that can work alone transcribes for a PC, and survives losing it in between.

    python examples/scenarios/transcription.py

Two hosts are started on this machine, all of it real; it ends with 1 if anything is not as it says.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Final

import aiohttp
from hosts import PATIENCE_S, Host, free_port, hosts
from morse import speak

from pmoves_mesh import Mesh

SUBJECT: Final = "ingest.transcript.ready.v1"


async def main() -> None:
    """Has something transcribed while both hosts are there, while the PC is lost, and once it is back."""
    port = os.environ.get("PMOVES_NATS_PORT") or str(free_port())
    alone = {"SERVICE_MODE": "standalone", "NATS_EXTERNAL_URL": f"nats://127.0.0.1:{port}"}
    with hosts({"pc": {"PMOVES_NATS_PORT": port}, "jetson": alone}) as mesh:
        pc, jetson = mesh["pc"], mesh["jetson"]
        jetson.run("transcriber.py")
        await send(pc, "first", "the pc asks")
        await heard(pc, {"first": "the pc asks"})
        print("both are there: the PC's recording is transcribed on the jetson", flush=True)
        pc.lose()
        await send(jetson, "second", "the pc is away")
        await send(jetson, "third", "we go on")
        print("the PC is lost: the jetson finds its transcriber, which takes 2 recordings", flush=True)
        pc.start()
        await heard(pc, {"first": "the pc asks", "second": "the pc is away", "third": "we go on"})
        print("the PC is back: it has all 3 transcripts", flush=True)


async def send(host: Host, name: str, text: str) -> None:
    """Lets a host have a recording transcribed by whoever can: its own agent knows who, even without NATS."""
    async with aiohttp.ClientSession() as http, Mesh.connect(host.url) as mesh, asyncio.timeout(PATIENCE_S):
        async for change in mesh.watch(None, "stt"):
            if change.instance.is_discoverable:
                url = change.instance.url(f"/recordings/{name}")
                async with http.put(url, data=speak(text)) as answer:
                    answer.raise_for_status()
                return


async def heard(host: Host, expected: Mapping[str, str]) -> None:
    """Waits until the stream that a host reads holds these transcripts, by their ids, and no others."""
    words = [sys.executable, "-m", "pmoves_mesh", "events", "tail", SUBJECT, "--since", "1h", "--json"]
    reading = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, env=host.environment
    )
    found: dict[str, str] = {}
    try:
        async with asyncio.timeout(PATIENCE_S):
            while found != expected and reading.stdout is not None:
                message = json.loads(await reading.stdout.readline())["payload"]
                found[message["payload"]["transcript_id"]] = message["payload"]["text"]
    except TimeoutError:
        sys.exit(f"heard {found}, expected {expected}")
    finally:
        reading.kill()
        await reading.wait()


if __name__ == "__main__":
    asyncio.run(main())

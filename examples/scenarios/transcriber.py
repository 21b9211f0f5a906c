"""A transcriber: takes recordings, and tells the mesh what is said in them, if need be once that is back.

What it has taken is on its disk before it says so, and stays there until the transcript is in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from aiohttp import web
from morse import understand
from program import run

from pmoves_mesh import Mesh, TranscriptReady
from pmoves_mesh.errors import LogUnavailable

SPOOL = Path("spool")


class Transcriber:
    """Takes recordings, and works through them one after another."""

    def __init__(self, mesh: Mesh) -> None:
        """Takes the mesh that it tells."""
        self._mesh = mesh
        self._taken = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        """Answers `PUT /recordings/{name}` once the recording is kept."""
        name = request.match_info["name"]
        part = SPOOL / f"{name}.part"
        part.write_bytes(await request.read())
        part.rename(SPOOL / f"{name}.wav")
        self._taken.set()
        return web.json_response({"taken": name}, status=202)

    async def work(self) -> None:
        """Transcribes for ever; while the stream is out of reach transcripts wait."""
        while True:
            self._taken.clear()
            for file in waiting():
                await self._transcribe(file)
            await self._taken.wait()

    async def _transcribe(self, file: Path) -> None:
        text = await asyncio.to_thread(lambda: understand(file.read_bytes()))
        print(f"{file.stem}: {text}", flush=True)
        while True:
            with contextlib.suppress(LogUnavailable):
                await self._mesh.record(TranscriptReady(transcript_id=file.stem, source="morse", text=text))
                await asyncio.to_thread(file.unlink)
                return
            await asyncio.sleep(0.2)


def waiting() -> list[Path]:
    """Returns the recordings that wait, in the order of their names."""
    return sorted(SPOOL.glob("*.wav"))


async def serve() -> None:
    """Transcribes for whoever asks, until it is told to end."""
    await asyncio.to_thread(SPOOL.mkdir, exist_ok=True)
    async with Mesh.connect() as mesh:
        transcriber = Transcriber(mesh)
        app = web.Application()
        app.router.add_put("/recordings/{name:[a-z0-9-]+}", transcriber.take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            port = runner.addresses[0][1]
            async with mesh.register("transcriber", port=port, capabilities=["stt"]):
                await transcriber.work()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    run(serve())

"""A service that answers only the callers on its list: it reads a line and says it back in capitals."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

from pmoves_mesh.tls import peer_id, server_context

ANSWER_S = 10.0


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one caller, whose name was checked before it got here."""
    try:
        async with asyncio.timeout(ANSWER_S):
            line = await reader.readline()
            print(f"{peer_id(writer)} asks", flush=True)
            writer.write(line.upper())
            await writer.drain()
    except (OSError, ValueError):
        pass  # it is gone, it is too slow, or its line is too long
    finally:
        writer.close()


async def serve(args: argparse.Namespace) -> None:
    """Listens until it is told to end."""
    context = server_context(args.certificate, args.key, args.roots, allow=args.allow)
    async with await asyncio.start_server(answer, args.host, args.port, ssl=context) as server:
        address, port, *_ = server.sockets[0].getsockname()
        print(f"listening on {address} port {port}", flush=True)
        await server.serve_forever()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", type=Path, required=True, help="this service's, PEM")
    parser.add_argument("--key", type=Path, required=True, help="its private key, PEM")
    parser.add_argument("--roots", type=Path, required=True, help="the mesh's CA certificates, PEM")
    parser.add_argument("--allow", action="append", required=True, help="SPIFFE ID of a caller; repeatable")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9443)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()

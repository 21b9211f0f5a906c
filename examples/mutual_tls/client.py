"""A caller that talks to one service alone: it sends a line, and shows what comes back."""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from pathlib import Path

from pmoves_mesh.tls import client_context

ANSWER_S = 10.0


async def call(args: argparse.Namespace) -> str:
    """Returns what the service answers."""
    context = client_context(args.certificate, args.key, args.roots, allow=[args.server])
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(args.host, args.port, ssl=context)
        try:
            writer.write(f"{args.line}\n".encode())
            line = await reader.readline()
            if not line:
                raise ConnectionResetError("the service does not let this caller in")
            return line.decode().rstrip("\n")
        finally:
            writer.close()


def main() -> None:
    """Reads the command line; ends with 1 and one line if there is no answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", type=Path, required=True, help="this caller's, PEM")
    parser.add_argument("--key", type=Path, required=True, help="its private key, PEM")
    parser.add_argument("--roots", type=Path, required=True, help="the mesh's CA certificates, PEM")
    parser.add_argument("--server", required=True, help="SPIFFE ID of the service to talk to")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9443)
    parser.add_argument("line")
    try:
        print(asyncio.run(call(parser.parse_args())))
    except ssl.SSLCertVerificationError as error:
        sys.exit(f"not the service that was asked for: {error}")
    except OSError as error:
        sys.exit(f"no answer: {str(error) or 'it took too long'}")


if __name__ == "__main__":
    main()

"""Today's PMOVES mesh agent, as it runs on hosts that know nothing of pmoves-mesh.

Every ANNOUNCE_SEC seconds it announces its host on NATS and posts itself to the registry, with
port 0 since it serves nothing. Whatever is not taken ends it with an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import time

import nats
import requests

SUBJECT = "mesh.node.announce.v1"


async def main() -> None:
    node, host = os.environ["NODE_NAME"], os.environ["NODE_HOST"]
    capabilities = os.environ["NODE_CAPABILITIES"].split(",")
    mode = os.environ.get("SERVICE_MODE", "docked")
    client = await nats.connect(os.environ["NATS_URL"])
    while True:
        announcement = {
            "type": SUBJECT,
            "node": node,
            "caps": dict.fromkeys(capabilities, True),
            "host": host,
            "tailscale_ip": None,
            "mode": mode,
            "ts": int(time.time()),  # noqa: TID251 (it has no other clock)
        }
        await client.publish(SUBJECT, json.dumps(announcement).encode())
        await client.flush()
        record = {
            "name": node,
            "host": host,
            "port": 0,
            "mode": mode,
            "capabilities": capabilities,
            "health_url": None,
        }
        url = f"{os.environ['SERVICE_REGISTRY_URL']}/api/services"
        response = await asyncio.to_thread(requests.post, url, json=record, timeout=10)
        response.raise_for_status()
        await asyncio.sleep(float(os.environ.get("ANNOUNCE_SEC", "15")))


if __name__ == "__main__":
    asyncio.run(main())

"""A real gRPC server with the health service, for an interpreter that has grpcio; prints its port."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    if "--without-health" not in sys.argv:
        servicer = health.HealthServicer()
        servicer.set("", SERVING)
        servicer.set("rag.Search", SERVING)
        servicer.set("rag.Index", NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)  # noqa: T201 - whoever started it reads the port
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()

"""Exits with 0 where the gRPC service at the given address says that it serves.

Usage: healthcheck.py HOST:PORT [SERVICE]
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 5.0


def status(address: str, service: str = "") -> str:
    """What grpc.health.v1 answers, or the status code of the call that failed."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


if __name__ == "__main__":
    answer = status(*sys.argv[1:])
    print(answer)
    sys.exit(answer != "SERVING")

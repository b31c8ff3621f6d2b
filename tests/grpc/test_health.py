"""What grpc.health.v1 tells those that watch."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def test_watches_that_end_while_the_status_changes_stop_no_call(running):
    over = threading.Event()
    request = health_pb2.HealthCheckRequest(service="reload")

    def come_and_go() -> int:
        watches = 0
        with grpc.insecure_channel(running.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not over.is_set():
                watch = stub.Watch(request, timeout=30)
                next(watch)
                watch.cancel()
                watches += 1
        return watches

    with ThreadPoolExecutor(8) as pool:
        watching = [pool.submit(come_and_go) for _ in range(8)]
        for number in range(2_000):
            running.service._report_health(serving=True, refused=bool(number % 2))
        over.set()
        assert all(watches.result(60) for watches in watching)
    assert running.client.get_model().serving


def test_a_watch_hears_of_changes_alone(start, releases):
    service = start()
    service.health.wait_for("NOT_SERVING", "reload")
    heard = []
    with grpc.insecure_channel(service.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for answer in stub.Watch(health_pb2.HealthCheckRequest(service="reload"), timeout=30):
            heard.append(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
            if heard[-1] == "SERVING":
                break
            for _ in range(5):
                service.service._report_health(serving=False, refused=True)
            releases.publish(1)
    assert heard == ["NOT_SERVING", "SERVING"]


def test_a_service_that_stops_waits_for_nobody_who_only_watches(start, releases):
    releases.publish(1)
    service = start(server={"drain_s": 3_600.0})
    service.health.wait_for("SERVING")
    with grpc.insecure_channel(service.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        service.service.stop()
        assert [answer.status for answer in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]

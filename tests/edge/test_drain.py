"""A pod of the edge stops without breaking off a call."""

from __future__ import annotations

import threading

import grpc
import httpx
from edge.conftest import Start
from edge.fakes_behind import CAP, Decoder
from samserve.edge.drain import calls_in_progress, drain
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from stacks import until


def test_draining_waits_for_the_calls_in_progress(start: Start, decoders: list[Decoder]) -> None:
    edge = start(SAMSERVE_EDGE_HEDGE_S=0)
    admin = edge.log.parent / "admin"
    ended: list[bool] = []
    for each in decoders:
        each.running.clear()
    try:
        with grpc.insecure_channel(edge.address) as channel:
            call = rpc.SegmentationServiceStub(channel).Predict.future(
                pb.PredictRequest(), timeout=CAP
            )
            until(lambda: calls_in_progress(admin) == 1)
            thread = threading.Thread(target=lambda: ended.append(drain(admin, CAP, fewest=0)))
            thread.start()
            ready = f"http://{edge.metrics}/ready"
            until(lambda: httpx.get(ready, timeout=CAP).status_code == 503)
            assert not ended

            for each in decoders:
                each.running.set()
            assert call.result().results == []
            thread.join()
            assert ended == [True]
    finally:
        for each in decoders:
            each.running.set()


def test_draining_ends_when_its_time_is_up(start: Start, decoders: list[Decoder]) -> None:
    edge = start(SAMSERVE_EDGE_HEDGE_S=0)
    admin = edge.log.parent / "admin"
    for each in decoders:
        each.running.clear()
    try:
        with grpc.insecure_channel(edge.address) as channel:
            call = rpc.SegmentationServiceStub(channel).Predict.future(
                pb.PredictRequest(), timeout=CAP
            )
            until(lambda: calls_in_progress(admin) == 1)
            assert drain(admin, 1, fewest=0) is False
            call.cancel()
    finally:
        for each in decoders:
            each.running.set()

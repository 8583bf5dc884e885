"""Services behind a real Envoy: they answer at once, and remember what reached them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types

CAP = 60.0
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Credentials = grpc.ServerCredentials | None


class Decoder(rpc.SegmentationServiceServicer):
    """Answers every click; holds them while it is stopped."""

    def __init__(self, credentials: Credentials = None) -> None:
        self.images: list[str] = []  # of each Predict
        self.streams: list[str] = []  # of each Interact
        self.metadata: list[dict[str, str]] = []
        self.running = threading.Event()
        self.running.set()

        # So many threads that held calls leave room for health checks.
        self._server = grpc.server(
            ThreadPoolExecutor(64), options=[("grpc.max_metadata_size", 64 * 1024)]
        )
        rpc.add_SegmentationServiceServicer_to_server(self, self._server)
        status = health.HealthServicer()
        status.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(status, self._server)
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def close(self) -> None:
        self.running.set()
        self._server.stop(0).wait()

    def Predict(
        self, request: pb.PredictRequest, context: grpc.ServicerContext
    ) -> pb.PredictResponse:
        self.images.append(request.ref.image_id)
        self.metadata.append({str(k): str(v) for k, v in context.invocation_metadata()})
        self.running.wait(CAP)
        return pb.PredictResponse(
            image=types.ImageRef(image_id=request.ref.image_id, width=100, height=50),
            cache=types.CACHE_STATUS_HIT,
            results=[pb.PromptResult(masks=[pb.Mask(area=1)]) for _ in request.prompts],
        )

    def Interact(
        self, requests: Iterator[pb.InteractRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.InteractResponse]:
        for request in requests:
            if request.HasField("open"):
                self.streams.append(request.open.ref.image_id)
                image = types.ImageRef(image_id=request.open.ref.image_id, width=100, height=50)
                opened = pb.InteractResponse.Opened(image=image, cache=types.CACHE_STATUS_HIT)
                yield pb.InteractResponse(opened=opened)
            else:
                answer = pb.InteractResponse.Answer(step=request.step.id, masks=[pb.Mask()])
                yield pb.InteractResponse(answer=answer)

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse()


@dataclass
class Gateway:
    """An HTTP/1.1 server that keeps its connections and every byte that it got on them."""

    port: int = 0
    received: list[bytes] = field(default_factory=list)  # of each connection
    _listener: socket.socket | None = None
    _connections: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        listener = self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._connections):
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer each head: what follows one is a body only as long as it says."""
        place = len(self.received)
        self.received.append(b"")
        left = b""
        try:
            while data := connection.recv(65536):
                self.received[place] += data
                left += data
                while b"\r\n\r\n" in left:
                    head, _, left = left.partition(b"\r\n\r\n")
                    length = [
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length:")
                    ]
                    while length and len(left) < length[0]:
                        more = connection.recv(65536)
                        self.received[place] += more
                        left += more
                    left = left[length[0] :] if length else left
                    connection.sendall(ANSWER)
        except OSError:
            return

"""An empty embedding service behind Ray Serve's default gRPC proxy; the argument is its port.

It shows what a call through Ray Serve costs without any work: a peer for loadtest.bench.embedding.
"""

from __future__ import annotations

import os
import signal
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from samserve.embedding.app import GRPC_SERVICERS
from samserve.local.process import free_port
from samserve.v1 import embedding_pb2 as pb


@serve.deployment(ray_actor_options={"num_cpus": 0.2}, max_ongoing_requests=64)
class Empty:
    """Returns an empty response."""

    async def Embed(self, _: pb.EmbedRequest) -> pb.EmbedResponse:
        return pb.EmbedResponse()


def main() -> None:
    # Ray's processes inherit the blocked signals: only this process reacts to them.
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    ray.init(address="local", include_dashboard=False, configure_logging=False, log_to_driver=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop)

    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=free_port()),
        grpc_options=gRPCOptions(port=int(sys.argv[1]), grpc_servicer_functions=GRPC_SERVICERS),
    )
    serve.run(Empty.bind(), name="embedding", route_prefix="/embedding")

    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    signal.sigwait(stop)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()

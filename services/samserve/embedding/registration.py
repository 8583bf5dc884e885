"""Registers the service's methods; Ray Serve's proxy and replicas import it by name."""

from __future__ import annotations

from typing import Any

from samserve.v1.embedding_pb2_grpc import add_EmbeddingServiceServicer_to_server
from samserve.wire.parts import PartLimit


def add_embedding_service(servicer: Any, server: Any) -> None:
    """Register the methods with a gRPC server; requests of too many parts are not parsed."""
    add_EmbeddingServiceServicer_to_server(servicer, PartLimit(server))

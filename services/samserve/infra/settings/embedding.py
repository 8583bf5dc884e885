"""The settings of the embedding service."""

from __future__ import annotations

from pydantic import Field

from samserve.codec.tensors import Coding
from samserve.core.image import Limits
from samserve.core.limits import BulkLimits
from samserve.infra.addresses import EMBEDDING_PORT, HTTP_PORT
from samserve.infra.settings.common import CommonSettings
from samserve.infra.settings.values import Port, variable


class EmbeddingSettings(CommonSettings):
    """The settings of the embedding service."""

    embedding_port: Port = Field(default=EMBEDDING_PORT, description="Port of the gRPC service.")
    http_port: Port = Field(
        default=HTTP_PORT,
        description="Port of Ray Serve's HTTP proxy, which answers health checks only.",
    )
    triton_url: str = Field(
        default="127.0.0.1:8001",
        validation_alias=variable("TRITON_URL"),
        description="Address of Triton's gRPC port, as `host:port`.",
    )
    encode_timeout_s: float = Field(
        default=300,
        gt=0,
        description=(
            "Time limit for Triton to encode one image, in seconds. "
            "A caller waits as long as it says itself; the embedding is cached all the same."
        ),
    )
    replicas: int = Field(default=1, gt=0, description="Replicas of the service.")
    replica_cpus: float = Field(
        default=0.2, ge=0, description="CPU cores that Ray reserves for each replica."
    )
    image_threads: int = Field(
        default=2, gt=0, description="Threads of a replica that hash images and pack embeddings."
    )
    image_workers: int = Field(
        default=2, gt=0, description="Processes of a replica that decode and resize images."
    )
    image_decode_s: int = Field(
        default=10,
        gt=0,
        description=(
            "Processor time to decode one image, in seconds. "
            "A worker that takes more is killed and replaced, and the image is refused."
        ),
    )
    embed_slots: int = Field(
        default=24,
        gt=0,
        description="Images that a replica encodes at once; a few of Triton's batches.",
    )
    embed_queue: int = Field(
        default=64,
        ge=0,
        description="Images that may wait for a slot; more are refused as overload.",
    )
    concept_slots: int = Field(
        default=4,
        gt=0,
        description=(
            "Calls of a concept head that a replica has in progress; more wait. "
            "Images have slots of their own."
        ),
    )
    idle_timeout_s: float = Field(
        default=60,
        ge=1,
        description=(
            "Time after which HAProxy ends a connection that sends nothing, or a call whose "
            "caller sends nothing and gets nothing, in seconds."
        ),
    )
    run_folder: str = Field(
        default="",
        description=(
            "Folder for sockets, the token and files of the running service, with a path of at "
            "most 24 plain letters. Empty: a temporary one, removed at the end."
        ),
    )
    ray_logs: str = Field(
        default="",
        description="Folder for the replicas' logs; empty: Ray's own, in the run folder.",
    )
    many_in_flight: int = Field(
        default=16, gt=0, description="Images of one `EmbedMany` stream that are in flight at once."
    )
    max_many_items: int = Field(
        default=1000, gt=0, description="Limit of the items of one `EmbedMany` request."
    )
    max_many_streams: int = Field(
        default=32,
        gt=0,
        description="Open `EmbedMany` streams of a replica; more are refused as overload.",
    )
    cache_coding: Coding = Field(
        default="small",
        description=(
            "Coding of cached embeddings. `small` is lossy; "
            "`exact` stores plain fp16, three times as large, and changes no mask."
        ),
    )

    @property
    def image_limits(self) -> Limits:
        """The limits on input images."""
        return Limits(self.max_image_bytes, self.max_image_pixels, self.max_image_aspect)

    @property
    def bulk_limits(self) -> BulkLimits:
        """The limits on EmbedMany: its items fill the slots, and one stream is looked up."""
        return BulkLimits(
            in_flight=self.many_in_flight,
            all_in_flight=self.embed_slots + self.many_in_flight,
            items=self.max_many_items,
            streams=self.max_many_streams,
            share=self.tenant_share,
        )

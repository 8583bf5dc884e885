"""The settings of the decoder."""

from __future__ import annotations

from pydantic import Field

from samserve.core.limits import (
    DEFAULT_BATCHES,
    DEFAULT_PROMPTS,
    DEFAULT_SWEEPS,
    RequestLimits,
)
from samserve.infra.addresses import DECODER_PORT, EMBEDDING_ADDRESS
from samserve.infra.settings.common import BundleSettings, CommonSettings
from samserve.infra.settings.values import MIB, Port, variable


class DecoderSettings(CommonSettings, BundleSettings):
    """The settings of the decoder."""

    decoder_port: Port = Field(default=DECODER_PORT, description="Port of the gRPC service.")
    embedding_url: str = Field(
        default=EMBEDDING_ADDRESS,
        validation_alias=variable("EMBEDDING_URL"),
        description="Address of the embedding service, for calls that bring an image's bytes.",
    )
    embed_timeout_s: float = Field(
        default=300, gt=0, description="Time limit for the embedding service to answer, in seconds."
    )
    decode_threads: int = Field(default=2, gt=0, description="Threads that decode prompts.")
    decode_queue: int = Field(
        default=24,
        ge=0,
        description="Prompts that may wait for a thread; more are refused as overload.",
    )
    decode_batches: int = Field(
        default=DEFAULT_BATCHES,
        gt=0,
        description=(
            "Calls of several prompts in progress; they take turns. More are refused as overload."
        ),
    )
    max_sweeps: int = Field(
        default=DEFAULT_SWEEPS,
        gt=0,
        description=(
            "Calls of `GenerateMasks` in progress; they take turns, and give way to clicks. "
            "More are refused as overload."
        ),
    )
    max_prompts: int = Field(
        default=DEFAULT_PROMPTS,
        gt=0,
        description="Limit of the prompts of one call; the Python client splits larger calls.",
    )
    max_points: int = Field(default=64, gt=0, description="Limit of the points of one prompt.")
    max_answer_bytes: int = Field(
        default=32 * MIB,
        gt=0,
        description=(
            "Size limit of an answer's masks together, in bytes. "
            "Clients must accept messages 1 MiB larger; the Python client accepts 64 MiB."
        ),
    )
    resident_bytes: int = Field(
        default=512 * MIB,
        ge=0,
        description=(
            "Memory for prepared images in this process, in bytes; "
            "an image takes 19 MiB, with SAM 2 31 MiB."
        ),
    )
    delete_within_s: float = Field(
        default=60,
        ge=1,
        description=(
            "Time within which a decoder uses no image that was deleted, in seconds, even if it "
            "cannot be told. It then asks Redis six times, and without an answer uses none."
        ),
    )
    transient_bytes: int = Field(
        default=512 * MIB,
        gt=0,
        description=(
            "Memory for requests and answers in flight, in bytes. If the process has more than at "
            "the start, the resident images and this together, incomplete messages are ended."
        ),
    )
    transfer_timeout_s: float = Field(
        default=30,
        gt=0,
        description="Time limit to receive a request, and to send an answer, in seconds.",
    )
    max_calls_per_connection: int = Field(
        default=128,
        gt=0,
        description="Calls and streams in progress on one connection; further ones wait.",
    )
    max_calls: int = Field(
        default=512,
        gt=0,
        description=(
            "Calls in progress in addition to the streams; further ones are refused as overload."
        ),
    )
    max_streams: int = Field(
        default=256,
        gt=0,
        description="Open `Interact` streams; further ones are refused as overload.",
    )
    max_steps_per_s: float = Field(
        default=200,
        gt=0,
        description="Steps of one `Interact` stream that are read per second; further ones wait.",
    )
    max_connection_idle_s: float = Field(
        default=120,
        gt=0,
        description="Time after which a connection without calls ends, in seconds.",
    )
    drain_s: float = Field(
        default=10, ge=0, description="Time for calls in flight to finish at shutdown, in seconds."
    )
    max_connection_age_s: float = Field(
        default=300,
        gt=0,
        description=(
            "Age at which a connection takes no new calls, in seconds. "
            "Clients then reconnect and find new pods."
        ),
    )
    max_stream_s: float = Field(
        default=600, gt=0, description="Lifetime of an `Interact` stream, in seconds."
    )

    @property
    def request_limits(self) -> RequestLimits:
        """The limits on requests and their answers."""
        return RequestLimits(self.max_prompts, self.max_points, self.max_answer_bytes)

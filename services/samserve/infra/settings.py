"""Settings, read once from the environment in each program's main and passed on from there."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from samserve.bundles.names import STORE, parse_models
from samserve.codec.tensors import Coding

Port = Annotated[int, Field(ge=0, le=65535)]


def require_otlp_extra(endpoint: str) -> str:
    """Raises ValueError if there is an endpoint for traces, but nothing to send them with."""
    if endpoint and find_spec("opentelemetry.exporter.otlp.proto.grpc") is None:
        raise ValueError("traces need the extra `tracing`: pip install 'samserve[tracing]'")
    return endpoint


Endpoint = Annotated[str, Field(pattern="^(https?://.+)?$"), AfterValidator(require_otlp_extra)]


def _env(name: str) -> AliasChoices:
    """A variable that keeps the name the world knows it by, with no SAMSERVE_ before it."""
    return AliasChoices(name)


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SAMSERVE_", frozen=True)

    log_level: str = Field("info", pattern="(?i)^(debug|info|warning|error)$")
    slow_s: float = Field(1, gt=0)  # an answer that takes longer is logged
    otlp_endpoint: Endpoint = ""  # where traces go, over gRPC; empty: nowhere
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", validation_alias=_env("REDIS_URL"), pattern="^(rediss?|unix)://"
    )
    cache_ttl_s: int = Field(24 * 3600, gt=0)
    redis_timeout_s: float = Field(0.3, gt=0)
    cache_coding: Coding = "small"
    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_models)] = Field(
        ("nano",), validate_default=False
    )
    metrics_port: Port = 0  # 0: none
    max_image_bytes: int = Field(32 * 2**20, gt=0)
    max_image_pixels: int = Field(100_000_000, gt=0)
    max_image_aspect: float = Field(64, ge=1)  # the long side over the short one


class EmbeddingSettings(_Settings):
    """The embedding service's."""

    host: str = "127.0.0.1"
    embedding_port: Port = 8500
    http_port: Port = 8502  # Ray Serve's own HTTP proxy: health only
    triton_url: str = Field("127.0.0.1:8001", validation_alias=_env("TRITON_URL"))
    encode_timeout_s: float = Field(30, gt=0)
    replicas: int = Field(1, gt=0)
    replica_cpus: float = Field(0.2, ge=0)
    image_threads: int = Field(2, gt=0)
    embed_slots: int = Field(
        24, gt=0
    )  # images under way at once in a replica: a few of Triton's batches
    embed_queue: int = Field(64, ge=0)  # that wait besides
    many_in_flight: int = Field(16, gt=0)  # of one EmbedMany stream


class DecoderSettings(_Settings):
    """The decoder's."""

    host: str = "127.0.0.1"
    decoder_port: Port = 8501
    embedding_url: str = Field("127.0.0.1:8500", validation_alias=_env("EMBEDDING_URL"))
    embed_timeout_s: float = Field(60, gt=0)
    bundles: Path = STORE  # the user's bundles
    decode_threads: int = Field(2, gt=0)
    decode_queue: int = Field(24, ge=0)  # prompts that wait besides: docs/decisions/0019
    resident_bytes: int = Field(512 * 2**20, ge=0)
    drain_s: float = Field(10, ge=0)
    max_connection_age_s: float = Field(
        300, gt=0
    )  # clients look for new pods when their connection ends
    max_stream_s: float = Field(
        600, gt=0
    )  # of one image's clicks; its connection lives on for as long


S = TypeVar("S", bound=BaseSettings)


def load_settings(settings: type[S]) -> S:
    """The settings, or a sentence for each wrong variable on stderr and exit 2."""
    try:
        return settings()
    except ValidationError as wrong:
        for problem in wrong.errors():
            name = str(problem["loc"][0])
            variable = name if name.isupper() else f"SAMSERVE_{name.upper()}"
            sys.stderr.write(f"{variable}={problem['input']!r}: {problem['msg']}\n")
        raise SystemExit(2) from None

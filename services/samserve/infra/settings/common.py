"""Settings that several programs read."""

from __future__ import annotations

from pydantic import Field, SecretStr

from samserve.bundles.names import DEFAULT_MODEL, user_folder
from samserve.core.embedding import DEFAULT_LIMITS, SizeLimits
from samserve.core.image import ImageRange
from samserve.infra.cache_options import CacheOptions
from samserve.infra.settings.values import (
    MIB,
    Endpoint,
    EnvironmentSettings,
    Folder,
    Models,
    Port,
    Secret,
    variable,
)


class BundleSettings(EnvironmentSettings):
    """The settings that the decoder and the command line share."""

    bundles: Folder = Field(
        default_factory=user_folder,
        description="Folder of your own model bundles; the shipped ones are always available.",
    )


class ListenerSettings(EnvironmentSettings):
    """The settings that every program that listens reads, the edge too."""

    host: str = Field(
        default="127.0.0.1",
        description="Interface to listen on; `0.0.0.0` means all of IPv4, `::` those of IPv6 too.",
    )
    metrics_port: Port = Field(
        default=0, description="Port of the Prometheus metrics; 0 serves no metrics."
    )
    max_image_bytes: int = Field(
        default=32 * MIB, gt=0, description="Size limit of an encoded image, in bytes."
    )
    log_level: str = Field(
        default="info",
        pattern="(?i)^(debug|info|warning|error)$",
        description="Lowest level of log lines: `debug`, `info`, `warning` or `error`.",
    )


class ProcessSettings(ListenerSettings):
    """The settings that every program that serves reads."""

    max_connections: int = Field(
        default=1024,
        gt=0,
        description=(
            "Connections that a decoder, a gateway, or HAProxy before the embedding service "
            "accepts at once. HAProxy counts those to replicas too."
        ),
    )
    slow_s: float = Field(
        default=1, gt=0, description="Calls that take longer than this are logged, in seconds."
    )
    otlp_endpoint: Endpoint = Field(
        default="",
        description=(
            "OTLP endpoint for OpenTelemetry traces over gRPC, such as `http://collector:4317`. "
            "Empty means no traces; needs the extra `samserve[tracing]`."
        ),
    )


class CommonSettings(ProcessSettings):
    """The settings that the embedding service and the decoder read."""

    models: Models = Field(
        default=(DEFAULT_MODEL,),
        validate_default=False,
        description=(
            "Models to serve, as `NAME` or `NAME:VARIANT`, separated by commas. "
            "Requests that name no model get the first."
        ),
    )
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        validation_alias=variable("REDIS_URL"),
        pattern="^(rediss?|unix)://",
        description="URL of the Redis that caches embeddings.",
    )
    redis_timeout_s: float = Field(
        default=0.3, gt=0, description="Time limit of one Redis operation, in seconds."
    )
    cache_ttl_s: int = Field(
        default=24 * 3600,
        gt=0,
        description="Lifetime of a cached embedding since its last use, in seconds.",
    )
    cache_secret: Secret = Field(
        default=SecretStr(""),
        description=(
            "Secret of at least 16 characters, the same for all services. Cached embeddings are "
            "then sealed with it, and entries that are not are ignored. Empty seals nothing."
        ),
    )
    max_image_pixels: int = Field(
        default=DEFAULT_LIMITS.max_pixels,
        gt=0,
        le=200_000_000,
        description=(
            "Size limit of a decoded image, in pixels; at most 200 million. "
            "A decoder refuses embeddings of larger ones, so set it for both services."
        ),
    )
    max_image_aspect: float = Field(
        default=DEFAULT_LIMITS.max_aspect,
        ge=1,
        description=(
            "Limit of an image's long side divided by its short side, likewise for both services."
        ),
    )
    image_range: ImageRange = Field(
        default="full",
        description=(
            "What is white in grey images of 16 bits. `full`: the largest value of 16 bits. "
            "`auto`: the largest value of the bits that the image uses, for cameras of 10 to 14 "
            "bits. Both services must have the same value."
        ),
    )

    @property
    def cache_options(self) -> CacheOptions:
        """The options of the cache."""
        return CacheOptions(
            self.redis_url,
            self.cache_ttl_s,
            self.redis_timeout_s,
            self.image_range,
            self.cache_secret.get_secret_value(),
        )

    @property
    def size_limits(self) -> SizeLimits:
        """The limits on the size of an image whose embedding is used."""
        return SizeLimits(self.max_image_pixels, self.max_image_aspect)

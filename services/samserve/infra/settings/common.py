"""Settings that several programs read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from samserve.bundles.names import DEFAULT_MODEL, user_folder
from samserve.core.embedding import DEFAULT_LIMITS, SizeLimits
from samserve.core.image import ImageRange
from samserve.core.plan import Plan
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

    edge_secret: Secret = Field(
        default=SecretStr(""),
        description=(
            "Secret of at least 16 characters that the edge and all services share. A service then "
            "refuses every call without it, and takes the tenant from the others. Empty: every "
            "caller names its tenant itself; for loopback only."
        ),
    )
    edge_secret_previous: Secret = Field(
        default=SecretStr(""),
        description="The secret before the last change, accepted as well while programs restart.",
    )
    tenants: Literal["separate", "shared"] = Field(
        default="separate",
        description=(
            "`separate`: an image that two tenants send is embedded once for each, and neither can "
            "tell whether the other has it. `shared`: once for all, for tenants that trust each "
            "other. All services must have the same value."
        ),
    )
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

    @property
    def edge_secrets(self) -> tuple[str, ...]:
        """The secrets of the edge that are accepted; the first is sent. None: calls are open."""
        secrets = (self.edge_secret, self.edge_secret_previous)
        return tuple(secret.get_secret_value() for secret in secrets if secret.get_secret_value())

    @property
    def tenants_share(self) -> bool:
        """Whether all tenants share their cache entries."""
        return self.tenants == "shared"


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
    tenant_share: float = Field(
        default=1,
        gt=0,
        le=1,
        description=(
            "Part of the streams, batches and sweeps in progress that one tenant may have. Less "
            "than 1 keeps some for the others."
        ),
    )
    tenant_requests: int = Field(
        default=0,
        ge=0,
        description=(
            "Calls, steps of streams and items of one tenant in a minute, in both services "
            "together; 0: no limit. A tenant's own record overrides this, likewise below."
        ),
    )
    tenant_encodes: int = Field(
        default=0,
        ge=0,
        description="Images of one tenant that are encoded in an hour; 0: no limit.",
    )
    tenant_pixels: int = Field(
        default=0, ge=0, description="Pixels of these images in an hour; 0: no limit."
    )
    tenant_cached_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes that one tenant writes to the cache in a day; 0: no limit.",
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
            self.quotas,
        )

    @property
    def quotas(self) -> Plan:
        """The quotas of tenants whose record does not say."""
        return Plan(
            requests=self.tenant_requests,
            encodes=self.tenant_encodes,
            pixels=self.tenant_pixels,
            cached_bytes=self.tenant_cached_bytes,
        )

    @property
    def size_limits(self) -> SizeLimits:
        """The limits on the size of an image whose embedding is used."""
        return SizeLimits(self.max_image_pixels, self.max_image_aspect)

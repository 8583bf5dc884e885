"""Settings, read once from the environment in each program's main and then passed on.

This file is the one source of every default. docs/configuration.md is generated from it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from samserve.bundles.names import DEFAULT_MODEL, parse_models, user_folder
from samserve.codec.tensors import Coding
from samserve.core.embedding import DEFAULT_LIMITS, SizeLimits
from samserve.core.image import ImageRange, Limits
from samserve.core.limits import (
    DEFAULT_BATCHES,
    DEFAULT_PROMPTS,
    DEFAULT_SWEEPS,
    BulkLimits,
    RequestLimits,
)
from samserve.infra.addresses import (
    DECODER_ADDRESS,
    DECODER_PORT,
    EMBEDDING_ADDRESS,
    EMBEDDING_PORT,
    GATEWAY_PORT,
    HTTP_PORT,
)
from samserve.infra.cache_options import CacheOptions
from samserve.infra.hosts import AllowedHost, parse_hosts

PREFIX = "SAMSERVE_"
OTHER_VARIABLES = frozenset({"SAMSERVE_LARGE"})  # read by the tests

MIB = 2**20
SECRET_NAMES = {"SECRET", "TOKEN"}  # in the names of variables whose values are not shown
SHORTEST_SECRET = 16  # characters


def require_otlp_extra(endpoint: str) -> str:
    """Return the endpoint for traces.

    Raises:
        ValueError: There is an endpoint, but the exporter is not installed.
    """
    if endpoint and find_spec("opentelemetry.exporter.otlp.proto.grpc") is None:
        raise ValueError("traces need the extra `tracing`: pip install 'samserve[tracing]'")
    return endpoint


def _as_folder(value: Any) -> Any:
    return value or user_folder()


def _parse_model_names(value: Any) -> Any:
    """Parse `NAME=MODEL,...`. Raises ValueError."""
    if not isinstance(value, str):
        return value
    pairs = [pair.strip().partition("=") for pair in value.split(",") if pair.strip()]
    for name, equals, model in pairs:
        if not (name and equals and model):
            raise ValueError(f"expected NAME=MODEL, separated by commas; found {name!r}")
    return {name.strip(): model.strip() for name, _, model in pairs}


def _parse_public_hosts(value: Any) -> Any:
    return parse_hosts(value) if isinstance(value, str) else value


def _parse_private_hosts(value: Any) -> Any:
    return parse_hosts(value, private=True) if isinstance(value, str) else value


def _check_secret(secret: SecretStr) -> SecretStr:
    if 0 < len(secret.get_secret_value()) < SHORTEST_SECRET:
        raise ValueError(f"a secret has at least {SHORTEST_SECRET} characters")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
Port = Annotated[int, Field(ge=0, le=65535)]
Endpoint = Annotated[str, Field(pattern="^(https?://.+)?$"), AfterValidator(require_otlp_extra)]
Models = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_models)]
ModelNames = Annotated[dict[str, str], NoDecode, BeforeValidator(_parse_model_names)]
Hosts = Annotated[tuple[AllowedHost, ...], NoDecode, BeforeValidator(_parse_public_hosts)]
PrivateHosts = Annotated[tuple[AllowedHost, ...], NoDecode, BeforeValidator(_parse_private_hosts)]
Folder = Annotated[Path, BeforeValidator(_as_folder)]


def _env(name: str) -> AliasChoices:
    """Name a variable that has no SAMSERVE_ before it."""
    return AliasChoices(name)


class EnvironmentSettings(BaseSettings):
    """Base of all settings: frozen values from variables that begin with SAMSERVE_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)


class BundleSettings(EnvironmentSettings):
    """The settings that the decoder and the command line share."""

    bundles: Folder = Field(
        default_factory=user_folder,
        description="Folder of your own model bundles; the shipped ones are always available.",
    )


class ProcessSettings(EnvironmentSettings):
    """The settings that every program that serves reads."""

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
    log_level: str = Field(
        default="info",
        pattern="(?i)^(debug|info|warning|error)$",
        description="Lowest level of log lines: `debug`, `info`, `warning` or `error`.",
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
        validation_alias=_env("REDIS_URL"),
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


class EmbeddingSettings(CommonSettings):
    """The settings of the embedding service."""

    embedding_port: Port = Field(default=EMBEDDING_PORT, description="Port of the gRPC service.")
    http_port: Port = Field(
        default=HTTP_PORT,
        description="Port of Ray Serve's HTTP proxy, which answers health checks only.",
    )
    triton_url: str = Field(
        default="127.0.0.1:8001",
        validation_alias=_env("TRITON_URL"),
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
        )


class DecoderSettings(CommonSettings, BundleSettings):
    """The settings of the decoder."""

    decoder_port: Port = Field(default=DECODER_PORT, description="Port of the gRPC service.")
    embedding_url: str = Field(
        default=EMBEDDING_ADDRESS,
        validation_alias=_env("EMBEDDING_URL"),
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


class GatewaySettings(ProcessSettings):
    """The settings of the HTTP gateway."""

    gateway_port: Port = Field(default=GATEWAY_PORT, description="Port of the HTTP service.")
    decoder_url: str = Field(
        default=DECODER_ADDRESS,
        validation_alias=_env("DECODER_URL"),
        description="Address of the decoder; `dns:///NAME:PORT` balances over all its servers.",
    )
    embedding_url: str = Field(
        default=EMBEDDING_ADDRESS,
        validation_alias=_env("EMBEDDING_URL"),
        description="Address of the embedding service.",
    )
    call_timeout_s: float = Field(
        default=60, gt=0, description="Time limit of a request's work, in seconds."
    )
    patience_s: float = Field(
        default=25,
        gt=0,
        description=(
            "Time that a request of a labeling tool waits for busy services, in seconds. "
            "These tools cannot take a refusal that asks them to retry."
        ),
    )
    gateway_models: ModelNames = Field(
        default={},
        validate_default=False,
        description=(
            "Models by the names that labeling tools use, as `NAME=MODEL`, separated by commas; "
            "`*` stands for every other name. Empty: always the default model."
        ),
    )
    cvat_answer: Literal["shapes", "mask"] = Field(
        default="shapes",
        description=(
            "What CVAT gets from its functions: `shapes`, or `mask` for older versions, rows of "
            "0 and 1 of the whole frame."
        ),
    )
    max_body_bytes: int = Field(
        default=48 * MIB,
        gt=0,
        description="Size limit of a request's body, in bytes; base64 takes a third more.",
    )
    max_bodies_bytes: int = Field(
        default=512 * MIB,
        gt=0,
        description="Memory for all bodies in flight, in bytes; more are refused as overload.",
    )
    max_json_parts: int = Field(
        default=20_000,
        gt=0,
        description="Limit of the values in a JSON body; Label Studio's may have 20 times more.",
    )
    upload_s: float = Field(
        default=30, gt=0, description="Time limit to receive a request, in seconds."
    )
    max_requests: int = Field(
        default=256,
        gt=0,
        description="Requests in progress; further ones are refused as overload.",
    )
    drain_s: float = Field(
        default=10,
        ge=0,
        description="Time for requests in flight to finish at shutdown, in seconds.",
    )
    image_hosts: Hosts = Field(
        default=(),
        validate_default=False,
        description=(
            "Public hosts from which images named by a URL are fetched, as `HOST` or `HOST:PORT`, "
            "separated by commas. Empty: images by URL are refused."
        ),
    )
    private_image_hosts: PrivateHosts = Field(
        default=(),
        validate_default=False,
        description="Such hosts that have private or loopback addresses, likewise.",
    )
    fetch_s: float = Field(
        default=20, gt=0, description="Time limit to fetch an image by its URL, in seconds."
    )
    label_studio_url: str = Field(
        default="",
        pattern=r"^(https?://[^/?#@\s]+(/[^?#\s]*)?)?$",
        description=(
            "URL of Label Studio, from which the images of its tasks are fetched, such as "
            "`https://studio.example.com`. It may be on a private network."
        ),
    )
    label_studio_token: SecretStr = Field(
        default=SecretStr(""),
        description=(
            "Personal access token or legacy token of a user of Label Studio. "
            "It is sent to `SAMSERVE_LABEL_STUDIO_URL` only."
        ),
    )
    label_studio_prewarm: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Images of the next tasks that are embedded ahead of the annotator.",
    )


Settings = TypeVar("Settings", bound=EnvironmentSettings)


def load_settings(kind: type[Settings]) -> Settings:
    """Read the settings from the environment.

    An invalid variable ends the program with status 2 and one line on stderr for each. An unknown
    one that begins with SAMSERVE_ is warned of on stderr.
    """
    for warning in unknown_variable_warnings(os.environ):
        sys.stderr.write(f"{warning}\n")

    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0])
            variable = name if name.isupper() else PREFIX + name.upper()
            value = "***" if SECRET_NAMES & set(variable.split("_")) else repr(problem["input"])
            sys.stderr.write(f"{variable}={value}: {problem['msg']}\n")
        raise SystemExit(2) from None


def parse_arguments(program: str, summary: str, kind: type[EnvironmentSettings]) -> None:
    """Answer --help with the variables of a program, and refuse all other arguments.

    Args:
        program: The command that starts it.
        summary: One line.
        kind: Its settings.
    """
    variables = [
        f"  {variable_of(name, field)}\n    {field.description}"
        for name, field in sorted(kind.model_fields.items())
    ]
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"{summary} It takes no arguments, only environment variables.",
        epilog="\n".join(["environment variables:", *variables]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()


def variable_of(name: str, field: FieldInfo) -> str:
    """Return the environment variable that a field of the settings is read from."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else PREFIX + name.upper()


def unknown_variable_warnings(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that begins with SAMSERVE_ and that no program reads.

    The variables of all programs are known to each, since they often share one environment.
    """
    known = OTHER_VARIABLES | {
        variable_of(name, field)
        for kind in (EmbeddingSettings, DecoderSettings, GatewaySettings)
        for name, field in kind.model_fields.items()
    }
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)

    warnings = []
    for name in unknown:
        closest = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        warnings.append(f"unknown variable {name} is ignored{hint}")
    return warnings

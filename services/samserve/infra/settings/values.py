"""The kinds of values that settings have, and the base of all settings."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from samserve.bundles.names import parse_models, user_folder
from samserve.infra.hosts import AllowedHost, parse_hosts

PREFIX = "SAMSERVE_"
MIB = 2**20
SHORTEST_SECRET = 16  # characters
ORIGIN = re.compile(r"https?://[\w.-]+(:\d{1,5})?")


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


def _parse_names(value: Any) -> Any:
    """Parse a list with commas."""
    if not isinstance(value, str):
        return value
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _parse_servers(value: Any) -> Any:
    """Parse `HOST:PORT,...`, each with or without `dns:///`. Raises ValueError."""
    servers = tuple(name.removeprefix("dns:///") for name in _parse_names(value))
    for server in servers:
        host, _, port = server.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 2**16):
            raise ValueError(f"expected HOST:PORT, separated by commas; found {server!r}")
    if not servers:
        raise ValueError("expected HOST:PORT")
    return servers


def _parse_origins(value: Any) -> Any:
    """Parse `https://HOST[:PORT],...`. Raises ValueError."""
    if not isinstance(value, str):
        return value
    origins = tuple(origin.strip() for origin in value.split(",") if origin.strip())
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise ValueError(f"expected origins such as https://example.com; found {origin!r}")
    return origins


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
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_names)]
Servers = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_servers)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_origins)]
Folder = Annotated[Path, BeforeValidator(_as_folder)]


def variable(name: str) -> AliasChoices:
    """Name a variable that has no SAMSERVE_ before it."""
    return AliasChoices(name)


class EnvironmentSettings(BaseSettings):
    """Base of all settings: frozen values from variables that begin with SAMSERVE_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

"""The settings of the authoriser, and of the commands that change its keys."""

from __future__ import annotations

from pydantic import Field, SecretStr

from samserve.infra.addresses import IDENTITY_PORT
from samserve.infra.settings.common import ProcessSettings
from samserve.infra.settings.values import EnvironmentSettings, Port, Secret


class KeySettings(EnvironmentSettings):
    """Where keys are kept."""

    keys_file: str = Field(
        default="", description="File that keeps API keys and tenants; only hashes of keys."
    )
    keys_url: SecretStr = Field(
        default=SecretStr(""),
        description=(
            "URL of a Redis that keeps them instead. It must not evict, so it is not the cache's."
        ),
    )
    key_pepper: Secret = Field(
        default=SecretStr(""),
        description=(
            "Secret of at least 16 characters that keys are hashed with. Keep it apart from the "
            "keys; changing it makes every key invalid."
        ),
    )


class IdentitySettings(ProcessSettings, KeySettings):
    """The settings of the authoriser."""

    identity_port: Port = Field(
        default=IDENTITY_PORT, description="Port of the authoriser, which the edge asks over gRPC."
    )
    keys_grace_s: float = Field(
        default=30,
        ge=1,
        description=(
            "Time for which known keys are accepted while their store does not answer, in seconds; "
            "then all calls are refused."
        ),
    )
    jwt_tenant_claim: str = Field(default="tenant", description="Claim of a token with the tenant.")
    jwt_scope_claim: str = Field(
        default="scope",
        description="Claim with the scopes; a token without it may predict, embed and delete.",
    )
    failure_burst: int = Field(
        default=20, gt=0, description="Failed attempts of one address that are answered with 401."
    )
    failures_per_minute: float = Field(
        default=20, gt=0, description="Further ones in a minute; the others are answered with 429."
    )

"""The settings of the edge."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from samserve.infra.addresses import (
    DECODER_ADDRESS,
    EDGE_PORT,
    EMBEDDING_ADDRESS,
    GATEWAY_ADDRESS,
)
from samserve.infra.settings.common import ListenerSettings
from samserve.infra.settings.values import MIB, Names, Port, Servers, variable


class EdgeSettings(ListenerSettings):
    """The settings of the edge, from which its Envoy's configuration is made."""

    edge_port: Port = Field(default=EDGE_PORT, description="Port for all callers, HTTP and gRPC.")
    gateway_url: Servers = Field(
        default=(GATEWAY_ADDRESS,),
        validate_default=False,
        validation_alias=variable("GATEWAY_URL"),
        description="Address of the gateway, or several, separated by commas.",
    )
    decoder_url: Servers = Field(
        default=(DECODER_ADDRESS,),
        validate_default=False,
        validation_alias=variable("DECODER_URL"),
        description="Address of the decoder, likewise; all addresses of a name are used.",
    )
    embedding_url: Servers = Field(
        default=(EMBEDDING_ADDRESS,),
        validate_default=False,
        validation_alias=variable("EMBEDDING_URL"),
        description="Address of the embedding service, likewise.",
    )
    edge_authorisation: str = Field(
        default="off",
        pattern=r"^(off|\S+:\d+)$",
        description=(
            "Address of the authoriser, which says whose each call is; `off` lets everyone in, "
            "as whichever tenant they name."
        ),
    )
    edge_jwks_file: str = Field(
        default="",
        description="File with the public keys (JWKS) that tokens (JWT) are signed with, if any.",
    )
    edge_jwt_issuer: str = Field(default="", description="Issuer that a token must name.")
    edge_jwt_audiences: Names = Field(
        default=(),
        validate_default=False,
        description="Audiences, separated by commas; a token must name one of them.",
    )

    edge_cert_file: str = Field(
        default="", description="File with the certificate (PEM) for TLS; empty: no TLS."
    )
    edge_key_file: str = Field(default="", description="File with its private key.")
    edge_client_ca_file: str = Field(
        default="", description="File with the CA of callers' own certificates; empty: none."
    )
    edge_client_certificates: Literal["optional", "required"] = Field(
        default="optional", description="Whether callers must have a certificate, with such a CA."
    )
    edge_services_ca_file: str = Field(
        default="",
        description="File with the CA of the services' certificates; empty: no TLS to services.",
    )
    edge_services_cert_file: str = Field(
        default="", description="File with the edge's own certificate for the services (mTLS)."
    )
    edge_services_key_file: str = Field(default="", description="File with its private key.")
    edge_cors_origins: Names = Field(
        default=(),
        validate_default=False,
        description=(
            "Origins, such as `https://app.example.com`, whose pages may call; `*` for all. "
            "Separated by commas."
        ),
    )

    edge_connections: int = Field(
        default=16_000,
        gt=0,
        description="Connections at once; further ones are closed. Each takes two files.",
    )
    edge_calls_per_connection: int = Field(
        default=100, gt=0, description="Calls in progress on one HTTP/2 connection."
    )
    edge_head_s: float = Field(
        default=10, gt=0, description="Time limit to receive a request's head, in seconds."
    )
    edge_idle_s: float = Field(
        default=120, gt=0, description="Time after which an idle connection ends, in seconds."
    )
    edge_call_s: float = Field(
        default=300,
        gt=0,
        description="Time limit of a call that is no stream, upload included, in seconds.",
    )
    edge_stream_idle_s: float = Field(
        default=660,
        gt=0,
        description=(
            "Time after which a stream without a message ends, in seconds; longer than a "
            "decoder's `SAMSERVE_MAX_STREAM_S`."
        ),
    )
    edge_hedge_s: float = Field(
        default=2,
        ge=0,
        description=(
            "Time after which an unanswered click is also sent to another decoder, in seconds; "
            "0: never."
        ),
    )
    edge_tenant_calls_per_s: int = Field(
        default=0, ge=0, description="Calls of one tenant in a second; 0: no limit."
    )
    edge_balance_percent: int = Field(
        default=200,
        ge=100,
        le=1000,
        description=(
            "Limit of one decoder's calls in progress, in percent of the mean of all. Beyond it, "
            "clicks go to the next decoder, which has not prepared the image."
        ),
    )
    edge_heap_bytes: int = Field(
        default=512 * MIB,
        ge=64 * MIB,
        description="Memory limit; near it, the edge shortens timeouts, then refuses calls.",
    )
    edge_trusted_hops: int = Field(
        default=0,
        ge=0,
        description="Proxies in front of the edge whose `x-forwarded-for` is believed.",
    )
    edge_threads: int = Field(default=2, gt=0, description="Worker threads.")
    edge_access_log: Literal["all", "failures", "off"] = Field(
        default="all", description="Calls that are logged, as JSON on stdout."
    )
    edge_run_folder: str = Field(
        default="", description="Folder for the admin socket; empty: a temporary one."
    )

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        for kind in ("EDGE", "EDGE_SERVICES"):
            one, other = f"{kind}_CERT_FILE", f"{kind}_KEY_FILE"
            if bool(getattr(self, one.lower())) != bool(getattr(self, other.lower())):
                raise ValueError(f"set both of SAMSERVE_{one} and SAMSERVE_{other}, or neither")
        if self.edge_client_ca_file and not self.edge_cert_file:
            raise ValueError("SAMSERVE_EDGE_CLIENT_CA_FILE needs TLS: set SAMSERVE_EDGE_CERT_FILE")
        if self.edge_services_cert_file and not self.edge_services_ca_file:
            raise ValueError(
                "SAMSERVE_EDGE_SERVICES_CERT_FILE needs SAMSERVE_EDGE_SERVICES_CA_FILE, too"
            )
        if self.edge_jwks_file and not (self.edge_jwt_issuer and self.edge_jwt_audiences):
            raise ValueError(
                "SAMSERVE_EDGE_JWKS_FILE needs SAMSERVE_EDGE_JWT_ISSUER and "
                "SAMSERVE_EDGE_JWT_AUDIENCES, too"
            )
        if self.edge_jwks_file and self.edge_authorisation == "off":
            raise ValueError("SAMSERVE_EDGE_JWKS_FILE needs SAMSERVE_EDGE_AUTHORISATION, too")
        return self

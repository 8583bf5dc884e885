"""The settings of the HTTP gateway."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from samserve.infra.addresses import DECODER_ADDRESS, EMBEDDING_ADDRESS, GATEWAY_PORT
from samserve.infra.settings.common import ProcessSettings
from samserve.infra.settings.values import (
    MIB,
    Hosts,
    ModelNames,
    Origins,
    Port,
    PrivateHosts,
    variable,
)


class GatewaySettings(ProcessSettings):
    """The settings of the HTTP gateway."""

    gateway_port: Port = Field(default=GATEWAY_PORT, description="Port of the HTTP service.")
    decoder_url: str = Field(
        default=DECODER_ADDRESS,
        validation_alias=variable("DECODER_URL"),
        description=(
            "Address of the decoder, or several, separated by commas. With `dns:///NAME:PORT` all "
            "servers of the name are used, each for its share of the images."
        ),
    )
    embedding_url: str = Field(
        default=EMBEDDING_ADDRESS,
        validation_alias=variable("EMBEDDING_URL"),
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
    sweep_timeout_s: float = Field(
        default=90,
        gt=0,
        description=(
            "Time limit to segment everything in an image, in seconds. Label Studio waits for 100."
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
    label_studio_tenant: str = Field(
        default="public",
        description=(
            "Tenant that Label Studio belongs to. The images of its tasks are fetched with its "
            "token, so that other tenants' requests for them are refused."
        ),
    )
    label_studio_prewarm: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Images of the next tasks that are embedded ahead of the annotator.",
    )
    page_embedders: Origins = Field(
        default=(),
        validate_default=False,
        description=(
            "Origins whose pages may show samserve's page in a frame, such as "
            "`https://portal.example.com`, separated by commas. Empty: none may, and the page is "
            "cross-origin isolated."
        ),
    )

"""What the routes of all surfaces share: the settings, the client, the list of models."""

from __future__ import annotations

import time

from samserve.client import AsyncClient
from samserve.client.answer import Model
from samserve.core.caller import current_caller
from samserve.gateway.bodies import Bodies, BodyLimits
from samserve.gateway.fetch import Fetcher, image_limits
from samserve.infra.settings import GatewaySettings
from samserve.wire.callers import Callers
from samserve.wire.request_id import request_id_here

MODELS_SECONDS = 5.0  # for which the list of models is kept
ANY_NAME = "*"


class Service:
    """One gateway's state. One for each process."""

    def __init__(self, settings: GatewaySettings, client: AsyncClient) -> None:
        """Create the state of a gateway.

        Args:
            settings: Read once.
            client: Of the decoder and the embedding service.
        """
        self.settings = settings
        self.bodies = Bodies(
            BodyLimits(settings.max_body_bytes, settings.max_bodies_bytes, settings.upload_s)
        )
        self.fetcher = Fetcher(
            (*settings.image_hosts, *settings.private_image_hosts), image_limits(settings)
        )
        self.callers = Callers.of(settings)
        self._client = client
        self._models: list[Model] = []
        self._models_until = 0.0

    @property
    def client(self) -> AsyncClient:
        """The client; its calls bear the id and the caller of the current request."""
        return self._client.using(
            tenant=current_caller().tenant,
            metadata=(*self.callers.metadata(), *request_id_here()),
        )

    def patient(self) -> AsyncClient:
        """Return the client for tools that cannot take a refusal: it waits for busy services."""
        return self.client.using(timeout=self.settings.patience_s)

    def sweeping(self) -> AsyncClient:
        """Return the client for calls that segment everything."""
        return self.client.using(timeout=self.settings.sweep_timeout_s)

    def model_for(self, name: str) -> str:
        """Return our name of a model that a tool names; empty for the default model."""
        names = self.settings.gateway_models
        return names.get(name, names.get(ANY_NAME, ""))

    async def models(self) -> list[Model]:
        """Return the models that the decoder serves; the first is the default.

        Raises:
            SamserveError: The decoder did not answer.
        """
        if time.monotonic() >= self._models_until:
            self._models = await self.client.models()
            self._models_until = time.monotonic() + MODELS_SECONDS
        return self._models

    async def close(self) -> None:
        """Close the connections."""
        await self.fetcher.close()
        await self._client.close()

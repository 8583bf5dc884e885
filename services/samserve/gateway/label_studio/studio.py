"""A client of Label Studio: the images of tasks, and the tasks that come next."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from samserve.core.errors import InvalidInput, shorten
from samserve.gateway.fetch import Fetcher, FetchFailed, image_limits
from samserve.gateway.label_studio.credentials import FIELD as TOKEN_FIELD
from samserve.gateway.label_studio.credentials import Credentials
from samserve.infra.hosts import check_url, host_of
from samserve.infra.settings import GatewaySettings

STORAGES = ("s3", "gs", "azure-blob", "redis")  # schemes that Label Studio itself fetches
UNAUTHORIZED = 401
BASE_FIELD = "SAMSERVE_LABEL_STUDIO_URL"  # named in errors of requests that no caller's URL caused


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where a task's image is.

    Attributes:
        url: As the task names it.
        task: The task's number, for images in a storage.
        field: Of the request that holds the URL, for errors.
    """

    url: str
    task: int
    field: str


class LabelStudio:
    """Fetches from the Label Studio of the settings, and from the listed hosts of images."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._base = settings.label_studio_url.rstrip("/")
        hosts = [host_of(self._base)] if self._base else []
        self._hosts = (*hosts, *settings.image_hosts, *settings.private_image_hosts)
        self._fetcher = Fetcher(self._hosts, image_limits(settings))
        token = settings.label_studio_token.get_secret_value()
        self.credentials = Credentials(token, self._base, self._fetcher)

    @property
    def is_configured(self) -> bool:
        """Whether there is a Label Studio to ask."""
        return bool(self._base)

    async def close(self) -> None:
        await self._fetcher.close()

    async def image(self, source: ImageSource) -> bytes:
        """Fetch a task's image.

        Raises:
            InvalidInput: The URL is not allowed, or was not answered.
        """
        return await self._get(self.resolve(source), source.field)

    async def next_images(
        self, project: int, after: int, count: int, key: str
    ) -> list[ImageSource]:
        """Return the images of the tasks that follow a task in the order of their numbers.

        Args:
            project: The project's number.
            after: The task's number.
            count: Tasks to ask for.
            key: Of the image's URL in a task's data.

        Raises:
            InvalidInput: Label Studio did not answer, or not as expected.
        """
        is_later = {
            "filter": "filter:tasks:id",
            "operator": "greater",
            "type": "Number",
            "value": after,
        }
        query = {
            "filters": {"conjunction": "and", "items": [is_later]},
            "ordering": ["tasks:id"],
        }
        options = {
            "project": project,
            "page_size": count,
            "include": "id,data",
            "resolve_uri": "false",
            "query": orjson.dumps(query).decode(),
        }
        answer = await self.api(f"/api/tasks?{urlencode(options)}")
        try:
            return [
                image_source(int(task["id"]), task["data"], key, f"data.{key}")
                for task in answer["tasks"][:count]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise FetchFailed(BASE_FIELD, "Label Studio answered no tasks") from problem

    async def api(self, path: str) -> Any:
        """Return the JSON that Label Studio's API answers. Raises InvalidInput."""
        body = await self._get(f"{self._base}{path}", BASE_FIELD)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as problem:
            raise FetchFailed(BASE_FIELD, "Label Studio answered no JSON") from problem

    def resolve(self, source: ImageSource) -> str:
        """Return the full URL of a task's image.

        Raises:
            InvalidInput: It cannot be fetched without `SAMSERVE_LABEL_STUDIO_URL`.
        """
        try:
            scheme = urlsplit(source.url).scheme
        except ValueError as problem:
            raise InvalidInput(
                source.field, f"{source.field}: invalid URL {shorten(source.url)!r}"
            ) from problem
        if scheme in ("http", "https") or (scheme and scheme not in STORAGES):
            return source.url  # an unsupported scheme is refused with the URL
        if not self._base:
            raise InvalidInput(
                source.field,
                f"{source.field}: {shorten(source.url)!r} is in Label Studio; "
                "set SAMSERVE_LABEL_STUDIO_URL",
            )

        if scheme:
            uri = base64.urlsafe_b64encode(source.url.encode()).decode()
            return f"{self._base}/tasks/{source.task}/presign/?fileuri={uri}"
        return self._join(source.url)

    def _join(self, path: str) -> str:
        """Return the URL of a path that Label Studio gives, with or without its own prefix."""
        parts = urlsplit(self._base)
        path = f"/{path.lstrip('/')}"
        has_prefix = parts.path and path.startswith(f"{parts.path}/")
        return f"{parts.scheme}://{parts.netloc}{'' if has_prefix else parts.path}{path}"

    async def _get(self, url: str, field: str) -> bytes:
        """Fetch with the token, if the URL is Label Studio's own. An old token is exchanged."""
        if not self._is_own(url, field):
            return await self._fetcher.fetch(url, field)
        for _ in range(2 if self.credentials.is_personal else 1):
            try:
                return await self._get_own(url, field)
            except FetchFailed as problem:
                if problem.status != UNAUTHORIZED:
                    raise
                self.credentials.expire()
        raise FetchFailed(
            TOKEN_FIELD,
            f"Label Studio answered HTTP 401 to the request with {self.credentials}; "
            "use a personal access token of a user who sees the project",
            UNAUTHORIZED,
        )

    async def _get_own(self, url: str, field: str) -> bytes:
        headers = await self.credentials.headers()
        return await self._fetcher.fetch(url, field, headers=headers, to_listed_hosts=True)

    def _is_own(self, url: str, field: str) -> bool:
        if not self._base:
            return False
        own = check_url(self._base, self._hosts, BASE_FIELD)
        return check_url(url, self._hosts, field).origin == own.origin


def image_source(task: int, data: dict[str, Any], key: str, field: str) -> ImageSource:
    """Return where a task's image is. Raises InvalidInput."""
    url = data.get(key)
    if not isinstance(url, str) or not url:
        raise InvalidInput(
            field, f"{field}: expected the URL of an image, found {type(url).__name__}"
        )
    return ImageSource(url, task, field)

"""Fetches what a caller's URL names: from listed hosts only, at checked addresses, within limits.

A name is resolved once, each of its addresses is checked, and the connection goes to a checked
address itself. So a name that changes its address between check and connect gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from samserve.core.errors import InvalidInput, shorten
from samserve.infra.hosts import AllowedHost, Target, check_url, is_allowed
from samserve.infra.settings import GatewaySettings

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MOST_ADDRESSES = 4  # of a name that are tried
CHUNK_BYTES = 2**16
REDIRECTS = (301, 302, 303, 307, 308)
PLAIN = ("", "identity")


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits on one fetch.

    Attributes:
        bytes: Of a body.
        seconds: From the first look-up to the last byte, with all redirects.
        connect_s: To connect to one address.
        redirects: Followed in a row.
        in_flight: Fetches at once; further ones wait within their own time.
    """

    bytes: int
    seconds: float = 20.0
    connect_s: float = 3.0
    redirects: int = 3
    in_flight: int = 8


def image_limits(settings: GatewaySettings) -> FetchLimits:
    """Return the limits on images that are fetched."""
    return FetchLimits(settings.max_image_bytes, settings.fetch_s)


class FetchFailed(InvalidInput):
    """A URL could not be fetched; `status` is the host's HTTP status, 0 without an answer."""

    def __init__(self, field: str, problem: str, status: int = 0) -> None:
        super().__init__(field, f"{field}: {problem}")
        self.status = status


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent to a target; as the arguments of `Fetcher.fetch`."""

    field: str
    headers: Mapping[str, str]
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer's body, or the place that it redirects to."""

    body: bytes = b""
    location: str | None = None


async def resolve_name(name: str, port: int) -> list[str]:
    """Return the addresses of a name, or of an address in any notation. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Fetcher:
    """Fetches from listed hosts. One for each list of hosts and process."""

    def __init__(
        self,
        hosts: Sequence[AllowedHost],
        limits: FetchLimits,
        *,
        resolve: Resolve = resolve_name,
    ) -> None:
        """Connect to nothing yet.

        Args:
            hosts: The only hosts.
            limits: Of each fetch.
            resolve: Returns the addresses of a host; called once for each connection.
        """
        self._hosts = tuple(hosts)
        self._limits = limits
        self._resolve = resolve
        self._places = asyncio.Semaphore(limits.in_flight)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def fetch(
        self,
        url: str,
        field: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        to_listed_hosts: bool = False,
    ) -> bytes:
        """Fetch a URL's body.

        Args:
            url: Of the caller.
            field: That holds it, for errors.
            headers: Credentials; sent to the URL's own scheme, host and port only.
            body: JSON to post; None gets.
            to_listed_hosts: Follow redirects to other hosts of the list, without the headers. By
                default a redirect to another host is refused.

        Raises:
            InvalidInput: The URL is not allowed.
            FetchFailed: The host did not answer, or not with a body within the limits.
        """
        target = check_url(url, self._hosts, field)
        request = _Request(field, headers or {}, body)
        try:
            async with asyncio.timeout(self._limits.seconds), self._places:
                return await self._follow(target, url, request, to_listed_hosts)
        except TimeoutError as problem:
            raise FetchFailed(
                field, f"{target.authority} took longer than {self._limits.seconds:g} s"
            ) from problem

    async def _follow(
        self, target: Target, url: str, request: _Request, to_listed_hosts: bool
    ) -> bytes:
        first = target.origin
        for _ in range(self._limits.redirects + 1):
            reply = await self._ask(target, request)
            if reply.location is None:
                return reply.body

            url = urljoin(url, reply.location)
            target = check_url(url, self._hosts, request.field)
            if target.origin != first and not to_listed_hosts:
                raise FetchFailed(
                    request.field, f"redirect to another host {target.authority!r} refused"
                )
            kept = request.headers if target.origin == first else {}
            request = _Request(request.field, kept)
        raise FetchFailed(request.field, f"more than {self._limits.redirects} redirects")

    async def _ask(self, target: Target, request: _Request) -> _Reply:
        """Make one request, at the first address that accepts a connection."""
        problem: Exception | None = None
        for address in await self._addresses(target, request.field):
            try:
                return await self._ask_at(address, target, request)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as failure:
                problem = failure
            except (aiohttp.ClientError, ValueError) as failure:
                raise FetchFailed(
                    request.field,
                    f"{target.authority} gave no valid answer: {type(failure).__name__}",
                ) from failure
        raise FetchFailed(
            request.field,
            f"{target.authority} cannot be connected to: {type(problem).__name__}",
        ) from problem

    async def _addresses(self, target: Target, field: str) -> Sequence[str]:
        """Resolve the host. One address that is not allowed refuses the name."""
        try:
            addresses = await self._resolve(target.host.name, target.port)
        except (OSError, UnicodeError) as problem:
            raise FetchFailed(field, f"unknown host {target.host.name!r}") from problem

        for address in addresses:
            if not is_allowed(address, private=target.host.private):
                raise FetchFailed(
                    field,
                    f"host {target.host.name!r} has the private or reserved address {address}",
                )
        return addresses[:MOST_ADDRESSES]

    async def _ask_at(self, address: str, target: Target, request: _Request) -> _Reply:
        field = request.field
        authority = f"[{address}]" if ":" in address else address
        url = URL(f"{target.scheme}://{authority}:{target.port}{target.path}", encoded=True)
        async with self._open_session().request(
            "GET" if request.body is None else "POST",
            url,
            data=request.body,
            headers={
                **request.headers,
                "Host": target.authority,
                "Accept-Encoding": "identity",
                **({} if request.body is None else {"Content-Type": "application/json"}),
            },
            server_hostname=target.host.name,  # whom the certificate must name
            allow_redirects=False,
        ) as answer:
            if answer.status in REDIRECTS and "Location" in answer.headers:
                return _Reply(location=answer.headers["Location"])
            if answer.status != 200:
                raise FetchFailed(
                    field, f"{target.authority} answered HTTP {answer.status}", answer.status
                )
            return _Reply(await self._read(answer, target, field))

    async def _read(self, answer: aiohttp.ClientResponse, target: Target, field: str) -> bytes:
        """Read a body; end the connection as soon as it is over the limit."""
        encoding = answer.headers.get("Content-Encoding", "")
        if encoding.lower() not in PLAIN:
            raise FetchFailed(
                field,
                f"{target.authority} sent content encoding {shorten(encoding)!r}; "
                "it was asked for none",
            )

        most = self._limits.bytes
        if (answer.content_length or 0) > most:
            raise _too_large(field, answer.content_length or 0, most)
        data = bytearray()
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            data += chunk
            if len(data) > most:
                answer.close()
                raise _too_large(field, len(data), most)
        return bytes(data)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limits.in_flight),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(sock_connect=self._limits.connect_s),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def _too_large(field: str, size: int, most: int) -> FetchFailed:
    return FetchFailed(field, f"{size:,} bytes or more; the limit is {most:,}")

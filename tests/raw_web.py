"""A web server that answers with the bytes a test gives it, and counts its requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Web:
    """Paths and what they answer.

    Attributes:
        port: On this machine.
        pages: The raw answer of each path, with or without its query.
        requests: Raw heads received, in order.
        connections: Those in progress.
    """

    port: int = 0
    pages: dict[str, bytes | Write] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def of(self, path: str) -> list[str]:
        """The heads of the requests for a path, whatever their query."""
        return [head for head in self.requests if head.split()[1].partition("?")[0] == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(task := cast("asyncio.Task[None]", asyncio.current_task()))
        task.add_done_callback(self.connections.discard)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            await self.answer(head.split()[1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        page = self.pages.get(path) or self.pages[path.partition("?")[0]]
        if isinstance(page, bytes):
            writer.write(page)
            await writer.drain()
        else:
            await page(writer)


def page(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """The raw answer with a body; a header's underscores are written as hyphens."""
    values = {"Content-Length": str(len(body)), "Connection": "close", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in values.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


@asynccontextmanager
async def running(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Web]:
    web = Web()
    server = await asyncio.start_server(web.serve, host, port)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        for connection in list(web.connections):
            connection.cancel()
        await asyncio.gather(*web.connections, return_exceptions=True)

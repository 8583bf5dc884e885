"""Which image a task's URL is, so that a click does not download it again; and prewarming."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import structlog

from samserve.client import AsyncClient
from samserve.core.caller import current_caller
from samserve.core.errors import SamserveError
from samserve.core.fair_lru import FairLru
from samserve.core.geometry import Size
from samserve.gateway.label_studio.studio import ImageSource

MOST_KNOWN = 10_000  # images whose ids are kept
KNOWN_SECONDS = 3600.0  # for which an id is used; then the URL may have another image
MOST_WAITING = 100  # images that wait to be embedded ahead; further ones are left out
AHEAD = 1  # images that are embedded ahead at once, so that clicks keep their place

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image that was embedded."""

    image_id: str
    size: Size
    until: float  # by the monotonic clock


class KnownImages:
    """Embeds images by their URLs, each once for a tenant, and remembers which they are."""

    def __init__(
        self,
        fetch: Callable[[ImageSource], Awaitable[bytes]],
        client: Callable[[], AsyncClient],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without images.

        Args:
            fetch: Returns an image's bytes.
            client: Returns the client that embeds.
            clock: Seconds.
        """
        self._fetch = fetch
        self._client = client
        self._clock = clock
        self._known: FairLru[str, KnownImage] = FairLru(MOST_KNOWN)
        self._running: dict[tuple[str, str], asyncio.Task[KnownImage]] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(AHEAD)

    async def get(self, source: ImageSource) -> KnownImage:
        """Return an image; fetch and embed it if it is not known. Callers at once share the work.

        Raises:
            SamserveError: It cannot be fetched or embedded.
        """
        place = current_caller().owner, source.url
        known = self._known.get(*place)
        if known is not None and self._clock() < known.until:
            return known

        task = self._running.get(place)
        if task is None:
            task = asyncio.create_task(self._embed(source))
            self._running[place] = task
            task.add_done_callback(partial(self._end, place))
        return await asyncio.shield(task)

    def forget(self, source: ImageSource) -> None:
        """Fetch an image again at its next use, since its embedding left the cache."""
        self._known.pop(current_caller().owner, source.url)

    def embed_ahead(self, sources: Iterable[ImageSource]) -> None:
        """Embed images in the background. Failures are logged; the click will meet them again."""
        for source in islice(sources, MOST_WAITING):
            self.run_behind(partial(self._embed_in_turn, source))

    def run_behind(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something in the background, unless too much waits there already."""
        if len(self._waiting) >= MOST_WAITING:
            return
        task = asyncio.create_task(_logged(work))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def close(self) -> None:
        """End everything in the background."""
        tasks = [*self._waiting, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, place: tuple[str, str], task: asyncio.Task[KnownImage]) -> None:
        del self._running[place]
        if not task.cancelled():
            task.exception()  # seen, even if every caller has left

    async def _embed_in_turn(self, source: ImageSource) -> None:
        async with self._places:
            await self.get(source)

    async def _embed(self, source: ImageSource) -> KnownImage:
        data = await self._fetch(source)
        answer = await self._client().embed(data)
        known = KnownImage(answer.image_id, answer.size, self._clock() + KNOWN_SECONDS)

        self._known.put(current_caller().owner, source.url, known)
        return known


async def _logged(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except SamserveError as problem:
        log.info("label_studio_prewarm_failed", problem=str(problem))

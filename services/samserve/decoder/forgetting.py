"""Forgets in this process what has been deleted: on the message, and by looking now and then."""

from __future__ import annotations

import asyncio
import time

import structlog

from samserve.decoder.image_lru import ImageLru
from samserve.decoder.open_work import OpenWork
from samserve.infra.deletions import Deletion, Deletions

LOOKS = 6  # within the time that an image is used without a confirmation

log = structlog.get_logger()


class Forgetter:
    """Keeps prepared images and streams true to the deletions."""

    def __init__(
        self, images: ImageLru, work: OpenWork, deletions: Deletions, within: float
    ) -> None:
        """Create it.

        Args:
            images: The prepared images.
            work: The streams.
            deletions: Of all services.
            within: Seconds after which no image that was deleted is used; as of `images`.
        """
        self._images = images
        self._work = work
        self._deletions = deletions
        self._pause = within / LOOKS

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._look_now_and_then())

    async def _listen(self) -> None:
        async for deletion in self._deletions.listen():
            self._images.forget(deletion)
            self._work.end(deletion)
            log.info("deletion noted", owner=deletion.owner, image_id=deletion.image_id)

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            await self.look()

    async def look(self) -> None:
        """Compare the generations of all prepared images with the current ones."""
        places, asked = list(self._images.places()), time.monotonic()
        generations = await self._deletions.generations(places)
        if generations is None:
            return
        current = dict(zip(places, generations, strict=True))
        for owner, image_id in self._images.confirm(current, asked):
            self._work.end(Deletion(owner, image_id))

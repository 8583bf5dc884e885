"""Deletions of images and tenants, as all services learn of them.

A deletion leaves a mark in Redis: a random value under a name that is made of the tenant, or of the
tenant and an image. What is kept of an image in a process is kept with the marks that were read
just before it, its generation. Once the marks have changed, it must be forgotten, whether or not
the process got the message about the deletion.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from samserve.core.errors import Unavailable
from samserve.infra.redis_link import Command, RedisLink

MARK_SECONDS = 3600  # longer than anything is under way; a mark that ends is a change, too
CHANNEL = "samserve-deletions"
PAUSE = 1.0  # seconds before a lost subscription is made again

Generation = tuple[bytes | None, ...]  # the marks of a tenant and of an image


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was deleted: an image of an owner, or without one all that it had."""

    owner: str
    image_id: str = ""


class Deletions:
    """Marks deletions, and reads the marks."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    def names(self, owner: str, image_id: str) -> tuple[str, str]:
        """Return the names of the two marks that an image of an owner depends on."""
        return _name(Deletion(owner)), _name(Deletion(owner, image_id))

    def command(self, owner: str, image_id: str) -> Command:
        """Return the command that reads a generation."""
        return ("MGET", *self.names(owner, image_id))

    async def generation(self, owner: str, image_id: str) -> Generation | None:
        """Return an image's generation now; None without an answer."""
        answers = await self._link.try_call("generation", self.command(owner, image_id))
        return None if answers is None else tuple(answers[0])

    async def generations(self, images: Iterable[tuple[str, str]]) -> list[Generation] | None:
        """Return the generations of images, given as owner and id; None without an answer."""
        commands = [self.command(*image) for image in images]
        answers = await self._link.try_call("generations", *commands) if commands else []
        return None if answers is None else [tuple(answer) for answer in answers]

    async def mark(self, deletion: Deletion) -> None:
        """Mark a deletion and tell all services.

        Raises:
            Unavailable: Redis did not answer.
        """
        told = json.dumps([deletion.owner, deletion.image_id])
        answers = await self._link.try_call(
            "mark",
            ("SET", _name(deletion), secrets.token_hex(8), "EX", MARK_SECONDS),
            ("PUBLISH", CHANNEL, told),
        )
        if answers is None:
            raise Unavailable("the cache did not answer; not everything may be deleted, try again")

    async def listen(self) -> AsyncIterator[Deletion]:
        """Yield deletions as they are told of. Some are missed while Redis is away."""
        while True:
            async for message in self._link.listen(CHANNEL):
                owner, image_id = json.loads(message)
                yield Deletion(owner, image_id)
            await asyncio.sleep(PAUSE)


def _name(deletion: Deletion) -> str:
    return f"samserve-deleted:{deletion.owner}:{deletion.image_id}"

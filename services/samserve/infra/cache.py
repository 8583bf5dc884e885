"""The cache of embeddings that both services share.

Trouble with Redis is a counted miss, never an error: without it answers are slower, not wrong.
Every operation has a time limit, and a circuit breaker bypasses Redis while it is down or slow.
Entries may have been written by anyone: one that is damaged, of another kind than expected, or not
sealed with the secret if there is one, is a miss too.

Beside the entries the cache keeps claims, so that one of several replicas encodes an image while
the others wait. A claim expires by itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import structlog

from samserve.codec.packed import DamagedEmbedding, pack, unpack, unpack_header
from samserve.core.embedding import MOST_TEXT, Contract, Embedding, EmbeddingHeader
from samserve.core.errors import Unavailable
from samserve.core.family import TRUNK
from samserve.infra.cache_options import CacheOptions
from samserve.infra.deletions import Deletion, Deletions, Generation
from samserve.infra.metrics import CACHE_BYTES, CACHE_OUTCOMES
from samserve.infra.quotas import Quotas
from samserve.infra.redis_link import Command, NoAnswer, RedisLink, memory_warnings
from samserve.infra.seal import Seal

log = structlog.get_logger()

PARTS = b":_parts:"  # in the names of sets of crops; no model's version has this form
SCANNED = 1000  # keys that Redis looks at in one step of a deletion
NO_EXPIRY = -1  # PTTL's answer for a key that has none


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Everything that an entry depends on, and its owner.

    Attributes:
        owner: Of the entry.
        model_version: Of the model, or of the part of it, that made the entry.
        image_id: Of the image; for a phrase, the word for that kind.
        part: What the entry is of the image; empty for the embedding.
    """

    owner: str
    model_version: str
    image_id: str
    part: str = ""
    whole_id: str = field(default="", compare=False)  # whose deletion is this entry's, too

    @property
    def whole(self) -> str:
        """The id of the image that this is an embedding of, or of a part, or found on."""
        return self.whole_id or self.image_id

    @property
    def is_crop(self) -> bool:
        """Whether it is of a part of an image, whose id does not tell the image's."""
        return self.whole_id not in ("", *self.image_id.split(":"))

    def __str__(self) -> str:
        name = f"samserve:{self.owner}:{self.model_version}:{self.image_id}"
        return f"{name}:{self.part}" if self.part else name


def trunk_key(key: CacheKey) -> CacheKey:
    """Return the key of an image's trunk, from that of its embedding."""
    return replace(key, part=TRUNK)


def phrase_key(owner: str, head: str, digest: str) -> CacheKey:
    """Return the key of a phrase's features, by a version of the head."""
    return CacheKey(owner, head, "phrase", digest)


def concept_key(key: CacheKey, head: str, digest: str) -> CacheKey:
    """Return the key of what a version of the head found of a concept on an image.

    Args:
        key: Of the image's embedding.
        head: Version of the head.
        digest: Of the concept.
    """
    place = f"{key.model_version}:{key.image_id}"
    return CacheKey(key.owner, head, place, f"concept:{digest}", whole_id=key.whole)


class Claim(Enum):
    """The answer to a replica that asks to encode an image."""

    GRANTED = "granted"  # encode it; other replicas wait
    HELD = "held"  # another replica encodes it, or Redis was too slow: ask again soon
    STORED = "stored"  # the embedding is in the cache by now
    ALONE = "alone"  # Redis is down or refuses, so replicas cannot coordinate


class EmbeddingCache:
    """Embeddings by key in Redis; each use prolongs an entry's lifetime."""

    def __init__(self, options: CacheOptions) -> None:
        self._link = RedisLink(options.url, options.timeout)
        self.deletions = Deletions(self._link)
        self.quotas = Quotas(self._link, options.quotas)
        self._seal = Seal(options.secret)
        self._name = options.name
        self._ttl = options.ttl

    async def head(self, key: CacheKey, contract: Contract | None = None) -> EmbeddingHeader | None:
        """Return the embedding's header without fetching its tensors. See `get`."""
        entry = await self._fetch(key, self._get_header(key))
        return None if entry is None else await self._read_header(key, entry, contract)

    async def get(self, key: CacheKey, contract: Contract | None = None) -> Embedding | None:
        """Return the embedding, or None if it is missing, damaged, or Redis is down.

        Args:
            key: Of the entry.
            contract: What the embedding must be like; an entry that breaks it counts as damaged.
        """
        entry = await self._fetch(key, ("GET", self._name(key)))
        return await self._unpack(key, entry, contract)

    async def _unpack(
        self, key: CacheKey, entry: bytes | None, contract: Contract | None
    ) -> Embedding | None:
        if not entry:
            return None

        # In a thread, since the checksum and the decoding take milliseconds.
        try:
            return await asyncio.to_thread(self._open, key, entry, contract)
        except DamagedEmbedding as problem:
            await self._delete_damaged(key, problem)
            return None

    async def read(
        self, key: CacheKey, contract: Contract | None = None
    ) -> tuple[Embedding | None, Generation | None]:
        """Return the embedding as `get` does, with the generation from just before.

        The generation is None if Redis did not answer.
        """
        commands = (self.deletions.command(key.owner, key.whole), ("GET", self._name(key)))
        answers = await self._fetch_all(key, *commands)
        if answers is None:
            return None, None
        marks, entry = answers
        return await self._unpack(key, entry, contract), tuple(marks)

    async def generation(self, key: CacheKey) -> Generation | None:
        """Return the key's generation, to store an embedding with; None without an answer."""
        return await self.deletions.generation(key.owner, key.whole)

    async def put(
        self, key: CacheKey, embedding: Embedding, generation: Generation | None = None
    ) -> None:
        """Store the embedding, with one retry, since the encode was expensive.

        It is not stored if the image or its tenant was deleted since the generation was read. A
        failure is counted; the caller goes on.
        """
        entry = await asyncio.to_thread(
            lambda: self._seal.close(self._name(key), embedding.packed or pack(embedding))
        )
        try:
            stored = await self._put(key, entry, generation)
        except NoAnswer as problem:
            if not problem.passing:
                return
            try:
                stored = await self._put(key, entry, generation)
            except NoAnswer:
                return

        if not stored:
            CACHE_OUTCOMES.labels("deleted").inc()
            return

        CACHE_OUTCOMES.labels("stored").inc()
        CACHE_BYTES.labels("written").inc(len(entry))

    async def _put(self, key: CacheKey, entry: bytes, generation: Generation | None) -> bool:
        commands: list[Command] = [("SET", self._name(key), entry, "EX", self._ttl)]
        if key.is_crop:
            parts = _parts_name(key.owner, key.whole_id)
            commands += [("SADD", parts, key.image_id), ("EXPIRE", parts, self._ttl)]
        if generation is None:
            await self._link.call("put", *commands)
            return True
        names = self.deletions.names(key.owner, key.whole)
        return await self._link.call_if("put", names, generation, *commands)

    async def delete_image(self, owner: str, image_id: str) -> int:
        """Delete every trace of an image: all models, crops, claims. Return the entries' number.

        Raises:
            Unavailable: Redis did not answer, so that something may still be there.
        """
        parts_name = _parts_name(owner, image_id)
        answers = await self._link.try_call("parts", ("SMEMBERS", parts_name))
        crops = {crop.decode() for crop in answers[0]} if answers else set()
        return await self._delete_all(Deletion(owner, image_id), {image_id, *crops})

    async def delete_owner(self, owner: str) -> int:
        """Delete every trace of a tenant. Returns and raises as `delete_image`."""
        return await self._delete_all(Deletion(owner), None)

    async def _delete_all(self, deletion: Deletion, ids: set[str] | None) -> int:
        """Delete the entries of an owner, or those of some images.

        The mark is made twice. After the first one nothing is stored that was under way. What
        others read before the entries were gone is of a generation before the second one.
        """
        await self.deletions.mark(deletion)
        prefix = f"samserve:{deletion.owner}:"
        cursor, deleted = b"0", 0
        while True:
            scan = ("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", SCANNED)
            answers = await self._link.try_call("scan", scan)
            if answers is None:
                raise Unavailable("the cache did not answer; not everything is deleted, try again")
            cursor, names = answers[0]
            found = [
                name
                for name in names
                if ids is None or not ids.isdisjoint(name.decode().split(":"))
            ]
            if found and await self._link.try_call("delete", ("UNLINK", *found)) is None:
                raise Unavailable("the cache did not answer; not everything is deleted, try again")
            deleted += sum(not name.endswith(b":claim") and PARTS not in name for name in found)
            if int(cursor) == 0:
                break

        await self.deletions.mark(deletion)
        return deleted

    async def delete(self, key: CacheKey) -> bool:
        """Delete the entry. Returns whether there was one.

        Raises:
            Unavailable: Redis did not answer, so that the entry may still be there.
        """
        deleted = await self._link.try_call("delete", ("DEL", self._name(key)))
        if deleted is None:
            raise Unavailable("the cache did not answer; the embedding may not be deleted")
        return bool(deleted[0])

    async def claim(self, key: CacheKey, token: str, seconds: float) -> Claim:
        """Ask to be the only replica that encodes the image. Takes one round trip.

        The claim is set before the entry is read: its last holder stored the entry before it
        released the claim. The holder is read back, since an earlier claim of this replica may have
        been set although its answer came too late.

        Args:
            key: The entry to make.
            token: Identifies this replica and attempt.
            seconds: Lifetime of the claim.
        """
        name, milliseconds = self._claim_name(key), int(1000 * seconds)
        take = ("SET", name, token, "NX", "PX", milliseconds)
        try:
            _, holder, left, entry = await self._link.call(
                "claim", take, ("GET", name), ("PTTL", name), self._get_header(key)
            )
        except NoAnswer as problem:
            return Claim.HELD if problem.passing else Claim.ALONE

        granted = holder == token.encode()
        if entry and await self._read_header(key, entry) is not None:
            if granted:
                await self.release(key, token)
            return Claim.STORED

        # No replica made such a claim, and it would block the image for good.
        if left == NO_EXPIRY or left > milliseconds:
            log.warning("claim without a proper expiry gets one", key=name)
            await self._link.try_call("claim", ("PEXPIRE", name, milliseconds))

        return Claim.GRANTED if granted else Claim.HELD

    async def renew(self, key: CacheKey, token: str, seconds: float) -> None:
        """Set a claim's lifetime to `seconds` from now, if it is still held."""
        if await self._holds(key, token):
            expiry = ("PEXPIRE", self._claim_name(key), int(1000 * seconds))
            await self._link.try_call("renew", expiry)

    async def release(self, key: CacheKey, token: str) -> None:
        """Release a claim, if it is still held."""
        if await self._holds(key, token):
            await self._link.try_call("release", ("DEL", self._claim_name(key)))

    async def _holds(self, key: CacheKey, token: str) -> bool:
        """Return whether the claim is still held; it may have expired and gone to another replica.

        It may also expire before the caller's next command. The claim that is then ended or
        prolonged is another replica's, which costs one more encode or a few seconds. A script would
        prevent that, but many managed Redis users may run none.
        """
        answers = await self._link.try_call("holder", ("GET", self._claim_name(key)))
        return answers is not None and answers[0] == token.encode()

    async def check(self) -> None:
        """Warn if Redis is down or refuses, or if its settings do not suit a cache."""
        try:
            await self._link.call("check", ("PING",))
        except NoAnswer as problem:
            reason = f"refuses: {problem.refusal}" if problem.refusal else "does not answer"
            log.warning(f"Redis {reason}: every image is a cache miss")
            return

        try:
            (memory,) = await self._link.call("check", ("INFO", "memory"))
        except NoAnswer as problem:
            log.warning(
                "Redis did not tell its memory settings: set maxmemory and the policy allkeys-lru",
                problem=problem.refusal or "no answer",
            )
            return

        for warning in memory_warnings(memory):
            log.warning(warning)

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    def _claim_name(self, key: CacheKey) -> str:
        return f"{self._name(key)}:claim"

    async def _fetch(self, key: CacheKey, command: Command) -> bytes | None:
        """Return what the command reads, and prolong the entry's lifetime."""
        answers = await self._fetch_all(key, command)
        return None if answers is None else answers[0] or None

    async def _fetch_all(self, key: CacheKey, *commands: Command) -> list[Any] | None:
        """Return the answers, of which the last is the entry, and prolong the entry's lifetime."""
        prolong = [("EXPIRE", self._name(key), self._ttl)]
        if key.is_crop:
            prolong.append(("EXPIRE", _parts_name(key.owner, key.whole_id), self._ttl))
        answers = await self._link.try_call("get", *commands, *prolong)
        if answers is None:
            return None

        answers = answers[: len(commands)]
        packed = answers[-1] or b""
        CACHE_OUTCOMES.labels("hit" if packed else "miss").inc()
        CACHE_BYTES.labels("read").inc(len(packed))
        return answers

    def _get_header(self, key: CacheKey) -> Command:
        return ("GETRANGE", self._name(key), 0, self._seal.header_bytes - 1)

    async def _read_header(
        self, key: CacheKey, entry: bytes, contract: Contract | None = None
    ) -> EmbeddingHeader | None:
        try:
            header = unpack_header(self._seal.open_header(self._name(key), entry), contract)
            _check_version(key, header.model_version)
        except DamagedEmbedding as problem:
            await self._delete_damaged(key, problem)
            return None
        return header

    def _open(self, key: CacheKey, entry: bytes, contract: Contract | None) -> Embedding:
        """Unpack an entry. Raises DamagedEmbedding."""
        embedding = unpack(self._seal.open(self._name(key), entry), contract)
        _check_version(key, embedding.model_version)
        return embedding

    async def _delete_damaged(self, key: CacheKey, problem: DamagedEmbedding) -> None:
        """Delete a damaged entry, so that it is a miss only once."""
        CACHE_OUTCOMES.labels("damaged").inc()
        log.warning("damaged cache entry deleted", key=self._name(key), problem=str(problem))
        await self._link.try_call("delete", ("DEL", self._name(key)))


def _parts_name(owner: str, image_id: str) -> str:
    """Return the name of the set of an image's crops."""
    return f"samserve:{owner}{PARTS.decode()}{image_id}"


def _check_version(key: CacheKey, model_version: str) -> None:
    if model_version != key.model_version:
        raise DamagedEmbedding(f"the entry is of model version {model_version[:MOST_TEXT]!r}")

"""The seal of a cached entry: proof that it was written by someone who knows the secret.

A checksum finds damage; a seal also finds entries that anyone else wrote to Redis. A sealed entry
begins with two codes, HMAC-SHA256 cut to 16 bytes:

    code of the key, the next code, and the first HEADER_BYTES of the packed embedding
    code of the packed embedding after them

So the header can be checked without the payload, and an entry is valid under its own key only.
docs/decisions/0027 has the measurements.
"""

from __future__ import annotations

import hashlib
import hmac

from samserve.codec.packed import HEADER_BYTES, DamagedEmbedding

CODE_BYTES = 16
SEAL_BYTES = 2 * CODE_BYTES


class Seal:
    """Seals entries with a secret and opens them. Without a secret entries are left as they are."""

    def __init__(self, secret: str = "") -> None:
        # Two keys, so that a code of one kind is never valid as the other.
        self._keys = [hmac.digest(secret.encode(), use, "sha256") for use in (b"head", b"body")]
        self._sealed = bool(secret)

    @property
    def header_bytes(self) -> int:
        """Bytes of an entry that `open_header` needs."""
        return HEADER_BYTES + (SEAL_BYTES if self._sealed else 0)

    def close(self, key: str, packed: bytes) -> bytes:
        """Return the entry to store under `key`."""
        if not self._sealed:
            return packed

        body = self._body_code(memoryview(packed)[HEADER_BYTES:])
        return b"".join([self._head_code(key, body, packed[:HEADER_BYTES]), body, packed])

    def open_header(self, key: str, entry: bytes) -> bytes:
        """Return the first HEADER_BYTES of the packed embedding. Raises DamagedEmbedding."""
        if not self._sealed:
            return entry

        body, header = entry[CODE_BYTES:SEAL_BYTES], entry[SEAL_BYTES : self.header_bytes]
        if not hmac.compare_digest(entry[:CODE_BYTES], self._head_code(key, body, header)):
            raise DamagedEmbedding("the entry is not sealed with this service's secret")
        return header

    def open(self, key: str, entry: bytes) -> bytes:
        """Return the packed embedding of an entry. Raises DamagedEmbedding."""
        if not self._sealed:
            return entry

        self.open_header(key, entry)
        code = self._body_code(memoryview(entry)[self.header_bytes :])
        if not hmac.compare_digest(entry[CODE_BYTES:SEAL_BYTES], code):
            raise DamagedEmbedding("the entry's payload is not the one that was sealed")
        return entry[SEAL_BYTES:]

    def _head_code(self, key: str, body_code: bytes, header: bytes) -> bytes:
        # The key is hashed, so that no other division of the text gives the same code.
        text = hashlib.sha256(key.encode()).digest() + body_code + header
        return hmac.digest(self._keys[0], text, "sha256")[:CODE_BYTES]

    def _body_code(self, payload: memoryview) -> bytes:
        return hmac.digest(self._keys[1], payload, "sha256")[:CODE_BYTES]

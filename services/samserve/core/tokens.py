"""CLIP's byte-pair encoding of a phrase. Pure.

Source: CLIP, simple_tokenizer.py. Ids are those of its vocabulary: the bytes in a fixed order, the
same at a word's end, the merges in theirs, then begin and end.
"""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

END_OF_WORD = "</w>"
BYTES = 256
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
HEADER = "#version"  # begins the first line of a file of merges

Merge = tuple[str, str]


class BadVocabulary(ValueError):
    """The bytes are no vocabulary."""


class Vocabulary:
    """Turns phrases into ids."""

    def __init__(self, merges: Sequence[Merge]) -> None:
        """Take the merges, the most important first."""
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        symbols = list(byte_symbols().values())
        symbols += [symbol + END_OF_WORD for symbol in symbols]
        symbols += ["".join(merge) for merge in merges]
        self.ids = {symbol: number for number, symbol in enumerate(symbols)}
        self.begin = len(symbols)
        self.end = self.begin + 1
        self.encode_word = lru_cache(maxsize=4096)(self._encode_word)

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.end + 1

    def encode(self, text: str) -> tuple[int, ...]:
        """Return a phrase's ids, with begin and end; case and spacing do not matter."""
        words = split_words(unicodedata.normalize("NFC", text).lower())
        ids = (number for word in words for number in self.encode_word(word))
        return (self.begin, *ids, self.end)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        symbols = byte_symbols()
        parts = [symbols[byte] for byte in word.encode()]
        parts[-1] += END_OF_WORD
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            parts = list(_merged(parts, best))
        return tuple(self.ids[part] for part in parts)


def _merged(parts: Sequence[str], merge: Merge) -> Iterator[str]:
    """Yield the parts with each occurrence of the pair joined, from the left."""
    index = 0
    while index < len(parts):
        if tuple(parts[index : index + 2]) == merge:
            yield "".join(merge)
            index += 2
        else:
            yield parts[index]
            index += 1


@lru_cache(maxsize=1)
def byte_symbols() -> dict[int, str]:
    """Return a printable character for each byte, in the order of CLIP's ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(BYTES) if byte not in printable]
    characters = [*map(chr, printable), *(chr(BYTES + index) for index in range(len(others)))]
    return dict(zip([*printable, *others], characters, strict=True))


def split_words(text: str) -> Iterator[str]:
    """Yield contractions, runs of letters, single digits, and runs of other characters."""
    start = 0
    while start < len(text):
        contraction = next((each for each in CONTRACTIONS if text.startswith(each, start)), "")
        kind = _kind(text[start])
        end = start + 1
        if contraction:
            end = start + len(contraction)
        elif kind in "LO":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if contraction or kind != " ":
            yield text[start:end]
        start = end


def _kind(character: str) -> str:
    """Return L for a letter, N for a number, a space for a space, else O."""
    if character.isspace():
        return " "
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


def pack_vocabulary(merges: Sequence[Merge]) -> bytes:
    """Return merges as a compressed file, the same bytes each time."""
    return gzip.compress("\n".join(map(" ".join, merges)).encode(), mtime=0)


def unpack_vocabulary(packed: bytes) -> Vocabulary:
    """Read a file of merges, compressed or not. Raises BadVocabulary."""
    try:
        text = (gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed).decode()
    except (OSError, EOFError, ValueError) as problem:
        raise BadVocabulary("not a file of merges") from problem
    return Vocabulary(read_merges(text))


def read_merges(text: str) -> list[Merge]:
    """Read one merge from each line. Raises BadVocabulary."""
    lines = [line for line in text.splitlines() if line and not line.startswith(HEADER)]
    merges = [tuple(line.split(" ")) for line in lines]
    if any(len(merge) != 2 for merge in merges):
        raise BadVocabulary("not a file of merges: a line has not two parts")
    return [(first, second) for first, second in merges]

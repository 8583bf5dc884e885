"""Reads the vocabulary of a checkpoint's text encoder from the files beside it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from samserve.core.tokens import BadVocabulary, Merge, Vocabulary, pack_vocabulary, read_merges
from samserve.export.weights import BadCheckpoint

ORIGINAL = "bpe_simple_vocab_16e6.txt.gz"  # as Meta and OpenAI publish it
ORIGINAL_MERGES = 48_894  # of its lines; the others are never used
TOKENIZER = "tokenizer.json"  # as transformers writes it
MERGES, IDS = "merges.txt", "vocab.json"  # as it used to


def read_vocabulary(folder: Path) -> bytes:
    """Return the vocabulary as a bundle holds it.

    Raises:
        BadCheckpoint: There is none, or it is not one of CLIP's.
    """
    try:
        if (folder / TOKENIZER).is_file():
            return _read_tokenizer(folder / TOKENIZER)
        if (folder / MERGES).is_file() and (folder / IDS).is_file():
            merges = read_merges((folder / MERGES).read_text())
            return _checked(merges, json.loads((folder / IDS).read_text()), folder / IDS)
        if (folder / ORIGINAL).is_file():
            lines = gzip.decompress((folder / ORIGINAL).read_bytes()).decode().split("\n")
            return pack_vocabulary(read_merges("\n".join(lines[1 : 1 + ORIGINAL_MERGES])))
    except (BadVocabulary, ValueError, KeyError, TypeError, OSError) as problem:
        raise BadCheckpoint(f"unreadable vocabulary in {folder}: {problem}") from problem

    raise BadCheckpoint(
        f"no vocabulary in {folder}; put one of these beside the weights: "
        f"{TOKENIZER}, {MERGES} and {IDS}, or {ORIGINAL}"
    )


def _read_tokenizer(file: Path) -> bytes:
    model = json.loads(file.read_text())["model"]
    merges = [_pair(merge) for merge in model["merges"]]
    return _checked(merges, model["vocab"], file)


def _pair(merge: Any) -> Merge:
    """Return a merge; older files have both parts in one string."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _checked(merges: list[Merge], ids: dict[str, int], file: Path) -> bytes:
    """Return the merges if they give these ids."""
    own = Vocabulary(merges)
    theirs = {symbol: number for symbol, number in ids.items() if number < own.begin}
    if own.ids != theirs:
        raise BadCheckpoint(f"the vocabulary in {file} is not one of CLIP's")
    return pack_vocabulary(merges)

"""Files of bundles and variants: their facts, sizes and digests, and the checks against them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

DIGEST_LIMIT = 64 * 2**20  # bytes; larger files are checked by size only, to keep starts fast

FileFacts = dict[str, dict[str, Any]]  # name -> {"sha256": hexadecimal digest, "bytes": size}


class BrokenBundle(ValueError):
    """Incomplete or damaged bundle or variant; the message names the file and the problem."""


def read_facts(file: Path) -> dict[str, Any]:
    """Read model.json or variant.json.

    Raises:
        BrokenBundle: The file is missing or not JSON.
    """
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        raise BrokenBundle(f"{file.parent} is not a model bundle: {file.name} is missing") from None
    except ValueError as error:
        raise BrokenBundle(f"invalid JSON in {file}: {error}") from error
    return facts


def describe_files(path: Path, exclude: set[str]) -> FileFacts:
    """Return the digest and size of each file in a folder, without subfolders and `exclude`."""
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name not in exclude)
    return {file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size} for file in files}


def check_files(path: Path, files: FileFacts) -> None:
    """Check the size of each file, and the digest of files up to DIGEST_LIMIT.

    Raises:
        BrokenBundle: A file is missing or differs.
    """
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise BrokenBundle(f"{name} is missing from {path}")

        size = file.stat().st_size
        if size != expected["bytes"]:
            raise BrokenBundle(
                f"damaged file {file}: {size:,} bytes, expected {expected['bytes']:,}"
            )

        if size <= DIGEST_LIMIT and (digest := sha256_of(file)) != expected["sha256"]:
            raise BrokenBundle(
                f"damaged file {file}: SHA-256 {digest}, expected {expected['sha256']}"
            )


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

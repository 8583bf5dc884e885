"""Downloads one file: resumes after an interruption, and keeps it only if its digest matches."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import requests

from samserve.bundles.files import sha256_of

CHUNK = 2**16  # bytes; a broken connection loses at most one chunk
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two chunks
ATTEMPTS = 5  # consecutive failures without a new byte
PAUSE = 1.0  # seconds before the second attempt, doubled for each later one
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

Progress = Callable[[int, int], None]  # (bytes present, bytes in total or 0 if unknown)


class DownloadFailed(Exception):
    """Failed download; the message names the address and the cause."""


def download(
    url: str,
    file: Path,
    sha256: str,
    *,
    on_progress: Progress = lambda *_: None,
    pause: float = PAUSE,
) -> None:
    """Download `url` to `file`, unless the file exists.

    An interrupted download is kept in `file`.part, and a later call resumes it.

    Args:
        url: Address of the file.
        file: Where it is written.
        sha256: Expected digest in hexadecimal; empty to skip the check.
        on_progress: Called after each chunk.
        pause: Seconds before the second attempt.

    Raises:
        DownloadFailed: The server refuses or cannot be reached, or the digest differs.
    """
    if not file.is_file():
        part = file.with_name(f"{file.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        _fetch_with_retry(url, part, on_progress, pause)
        _check(part, url, sha256)
        part.rename(file)
    _check(file, url, sha256)


def _fetch_with_retry(url: str, part: Path, on_progress: Progress, pause: float) -> None:
    """Resume after interruptions, up to ATTEMPTS of them without progress."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _fetch(url, part, on_progress)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise DownloadFailed(
                    f"download of {url} failed ({error}); {_size(part):,} bytes are kept in "
                    f"{part}, run the same command again to resume"
                ) from error

        time.sleep(pause * 2 ** (failures - 1))


def _fetch(url: str, part: Path, on_progress: Progress) -> None:
    present = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if present:
        headers["Range"] = f"bytes={present}-"

    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # the part is complete, or its digest will differ
        if not response.ok:
            raise DownloadFailed(f"{url} returned {response.status_code} {response.reason}")

        present, total = _position(response, present)
        with part.open("r+b" if present else "wb") as out:
            out.seek(present)
            for chunk in response.iter_content(CHUNK):
                out.write(chunk)
                present += len(chunk)
                on_progress(present, total)

    if total and present < total:
        raise requests.ConnectionError(f"connection closed after {present:,} of {total:,} bytes")


def _position(response: requests.Response, present: int) -> tuple[int, int]:
    """Return the offset of the response's first byte in the file, and the file's size.

    A server without range support sends the whole file.
    """
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    is_partial = response.status_code == requests.codes.partial_content
    if is_partial and match and int(match[1]) == present:
        return present, int(match[2])
    return 0, int(response.headers.get("Content-Length", 0))


def _check(file: Path, url: str, sha256: str) -> None:
    """Delete a file with another digest, which resuming could not repair."""
    if sha256 and (digest := sha256_of(file)) != sha256.lower():
        file.unlink()
        raise DownloadFailed(
            f"{url} has the SHA-256 {digest}, expected {sha256.lower()}; the file was deleted"
        )


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0

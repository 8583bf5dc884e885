"""One file from elsewhere: resumed where it was cut off, and kept only if it is the one that was meant."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import requests

from samserve.bundles.variant import digest

CHUNK = 2**16  # bytes; the piece in which a connection breaks is lost
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces
ATTEMPTS = 5  # in a row without a byte
PAUSE = 1.0  # seconds before the second attempt; twice as long before each one after
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

Progress = Callable[[int, int], None]  # bytes that are there, bytes in all (0: not known)


class DownloadFailed(Exception):
    """The message says what was asked for and what came."""


def download(
    url: str, file: Path, sha256: str, progress: Progress = lambda *_: None, pause: float = PAUSE
) -> None:
    """Fetch `url` to `file`, unless it is there, through `file`.part, which a later call goes on with.

    sha256: in hexadecimal; empty: not checked. Raises NotDownloaded.
    """
    if not file.is_file():
        part = file.with_name(f"{file.name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        _fetch_patiently(url, part, progress, pause)
        _check(part, url, sha256)
        part.rename(file)
    _check(file, url, sha256)


def _fetch_patiently(url: str, part: Path, progress: Progress, pause: float) -> None:
    """Try again where it broke off, as long as more comes."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _fetch(url, part, progress)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as problem:
            failures = 1 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                kept = (
                    f"{_size(part):,} bytes are kept in {part}: the same command goes on from there"
                )
                raise DownloadFailed(f"{url} cannot be reached ({problem}); {kept}") from problem
        time.sleep(pause * 2 ** (failures - 1))


def _fetch(url: str, part: Path, progress: Progress) -> None:
    there = _size(part)
    asked = {"Range": f"bytes={there}-"} if there else {}
    with requests.get(
        url, headers={"Accept-Encoding": "identity", **asked}, stream=True, timeout=TIMEOUT
    ) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there already, or the sum will tell
        if not answer.ok:
            raise DownloadFailed(f"{url} answers {answer.status_code} {answer.reason}")
        there, total = _place(answer, there)
        with part.open("r+b" if there else "wb") as out:
            out.seek(there)
            for piece in answer.iter_content(CHUNK):
                out.write(piece)
                there += len(piece)
                progress(there, total)
    if total and there < total:
        raise requests.ConnectionError(f"it ended after {there:,} of {total:,} bytes")


def _place(answer: requests.Response, there: int) -> tuple[int, int]:
    """Where the answer's bytes go, and how many the file has; a server that knows no ranges sends it from its start."""
    known = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code == requests.codes.partial_content and known and int(known[1]) == there:
        return there, int(known[2])
    return 0, int(answer.headers.get("Content-Length", 0))


def _check(file: Path, url: str, sha256: str) -> None:
    """A file that is another one is not kept: going on with it would never end well."""
    if sha256 and (found := digest(file)) != sha256.lower():
        file.unlink()
        raise DownloadFailed(
            f"what {url} sent has the SHA-256 {found}, not {sha256.lower()}: it was not kept"
        )


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0

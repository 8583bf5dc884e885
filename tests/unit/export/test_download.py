"""Downloads from a local HTTP server that can close connections, ignore ranges, and refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from samserve.export.catalog import PUBLISHED
from samserve.export.download import ATTEMPTS, CHUNK, DownloadFailed, download

DATA = np.random.default_rng(0).bytes(3_000_000)
SUM = hashlib.sha256(DATA).hexdigest()


class FileServer(ThreadingHTTPServer):
    """Serves DATA at /file.

    Attributes:
        cuts: bytes after which each of the first responses breaks off.
        asked: the Range header of each request.
        supports_ranges: whether it answers to that header.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        self.supports_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        if self.path != "/file":
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        begin = (
            int(wanted.removeprefix("bytes=").rstrip("-"))
            if wanted and self.server.supports_ranges
            else 0
        )
        if begin >= len(DATA):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(DATA) - begin))
        self.end_headers()
        end = begin + self.server.cuts.pop(0) if self.server.cuts else len(DATA)
        self.wfile.write(DATA[begin:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


def test_a_file_arrives_complete_and_reports_its_progress(
    server: FileServer, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    download(
        server.url,
        tmp_path / "new" / "file",
        SUM,
        on_progress=lambda present, total: seen.append((present, total)),
    )
    assert (tmp_path / "new" / "file").read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert sorted(seen) == seen
    download(server.url, tmp_path / "new" / "file", SUM)
    assert len(server.asked) == 1


def test_an_interrupted_download_resumes_where_it_stopped(
    server: FileServer, tmp_path: Path
) -> None:
    server.cuts = [20 * CHUNK, 10 * CHUNK]
    download(server.url, tmp_path / "file", SUM, pause=0)
    assert (tmp_path / "file").read_bytes() == DATA
    first, *later = server.asked
    assert first is None
    assert later == [f"bytes={20 * CHUNK}-", f"bytes={30 * CHUNK}-"]


def test_a_later_run_resumes_the_part(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:2_000_000])
    download(server.url, tmp_path / "file", SUM)
    assert server.asked == ["bytes=2000000-"]
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_complete_part_is_only_checked(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA)
    download(server.url, tmp_path / "file", SUM)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_server_without_ranges_is_read_from_the_start_again(
    server: FileServer, tmp_path: Path
) -> None:
    server.supports_ranges = False
    server.cuts = [1_000_000]
    download(server.url, tmp_path / "file", SUM, pause=0)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_file_with_another_digest_is_deleted(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=f"has the SHA-256 {SUM}, expected {'0' * 64}"):
        download(server.url, tmp_path / "file", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_fails_at_once(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="returned 404"):
        download(f"{server.url}-not", tmp_path / "file", "")


def test_a_server_that_sends_no_more_is_given_up_and_the_part_kept(
    server: FileServer, tmp_path: Path
) -> None:
    server.cuts = [8 * CHUNK] + [0] * ATTEMPTS
    with pytest.raises(DownloadFailed, match="524,288 bytes are kept"):
        download(server.url, tmp_path / "file", SUM, pause=0)
    assert (tmp_path / "file.part").read_bytes() == DATA[: 8 * CHUNK]


def test_every_published_checkpoint_has_its_address_and_digest() -> None:
    assert {"sam-vit-b", "sam-vit-l", "sam-vit-h", "sam2.1-tiny", "sam2.1-large"} <= set(PUBLISHED)
    assert len({checkpoint.sha256 for checkpoint in PUBLISHED.values()}) == len(PUBLISHED)
    assert len({checkpoint.url for checkpoint in PUBLISHED.values()}) == len(PUBLISHED)
    for checkpoint in PUBLISHED.values():
        assert len(bytes.fromhex(checkpoint.sha256)) == 32
        assert checkpoint.file.endswith((".pth", ".pt"))

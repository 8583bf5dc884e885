"""Downloads, from a real HTTP server on this machine that can cut off, forget ranges, and refuse."""

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
    """Serves DATA at /file. cuts: after how many bytes to break off each of the first answers; asked: the ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        self.knows_ranges = True

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
            if wanted and self.server.knows_ranges
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


def test_a_file_arrives_whole_and_says_how_far_it_is(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    download(
        server.url, tmp_path / "new" / "file", SUM, lambda there, total: seen.append((there, total))
    )
    assert (tmp_path / "new" / "file").read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert sorted(seen) == seen
    download(server.url, tmp_path / "new" / "file", SUM)
    assert len(server.asked) == 1


def test_a_download_that_breaks_off_goes_on_where_it_was(
    server: FileServer, tmp_path: Path
) -> None:
    server.cuts = [20 * CHUNK, 10 * CHUNK]
    download(server.url, tmp_path / "file", SUM, pause=0)
    assert (tmp_path / "file").read_bytes() == DATA
    first, *later = server.asked
    assert first is None
    assert later == [f"bytes={20 * CHUNK}-", f"bytes={30 * CHUNK}-"]


def test_a_later_run_goes_on_with_what_is_there(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:2_000_000])
    download(server.url, tmp_path / "file", SUM)
    assert server.asked == ["bytes=2000000-"]
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_part_that_is_whole_already_is_only_checked(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA)
    download(server.url, tmp_path / "file", SUM)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_server_without_ranges_is_read_from_the_start_again(
    server: FileServer, tmp_path: Path
) -> None:
    server.knows_ranges = False
    server.cuts = [1_000_000]
    download(server.url, tmp_path / "file", SUM, pause=0)
    assert (tmp_path / "file").read_bytes() == DATA


def test_another_file_than_the_one_meant_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=f"has the SHA-256 {SUM}, not {'0' * 64}"):
        download(server.url, tmp_path / "file", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_said_at_once(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="answers 404"):
        download(f"{server.url}-not", tmp_path / "file", "")


def test_a_server_that_never_sends_more_is_given_up_and_the_part_kept(
    server: FileServer, tmp_path: Path
) -> None:
    server.cuts = [8 * CHUNK] + [0] * ATTEMPTS
    with pytest.raises(DownloadFailed, match="524,288 bytes are kept"):
        download(server.url, tmp_path / "file", SUM, pause=0)
    assert (tmp_path / "file.part").read_bytes() == DATA[: 8 * CHUNK]


def test_every_published_checkpoint_has_its_address_and_sum() -> None:
    assert {"sam-vit-b", "sam-vit-l", "sam-vit-h", "sam2.1-tiny", "sam2.1-large"} <= set(PUBLISHED)
    assert len({one.sha256 for one in PUBLISHED.values()}) == len(PUBLISHED)
    assert len({one.url for one in PUBLISHED.values()}) == len(PUBLISHED)
    for one in PUBLISHED.values():
        assert len(bytes.fromhex(one.sha256)) == 32
        assert one.file.endswith((".pth", ".pt"))

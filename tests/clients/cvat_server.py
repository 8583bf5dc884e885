"""As much of a CVAT server as cvat-cli needs: one function, one task of one frame, its requests."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FUNCTION, TASK, LABEL = 5, 7, 3
LONG_AGO = "2026-01-01T00:00:00Z"

Json = dict[str, Any]


class CvatServer(ThreadingHTTPServer):
    """Hands out annotation requests one after the other, and keeps their results."""

    def __init__(self, photo: bytes, size: tuple[int, int], requests: list[Json]) -> None:
        """Listen on a free port.

        Args:
            photo: The frame's file.
            size: Its width and height.
            requests: Parameters of the annotation requests.
        """
        super().__init__(("127.0.0.1", 0), _Handler)
        self.photo = photo
        self.size = size
        self.waiting = [
            {"ar_id": f"request-{index}", "ar_params": {"task": TASK, "frame": 0, **request}}
            for index, request in enumerate(requests)
        ]
        self.results: dict[str, Json] = {}
        self.annotations: list[Json] = []
        self.frames_fetched = 0
        self.failures: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def get(self, path: str, query: str) -> Json | bytes:
        """Answer a GET."""
        if path == "/api/server/about":
            names = ("name", "description", "logo_url", "subtitle")
            return {**dict.fromkeys(names, "CVAT"), "version": "2.80.0"}
        if path == f"/api/functions/{FUNCTION}":
            return {
                "id": FUNCTION,
                "provider": "native",
                "kind": "interactor",
                "min_pos_points": 0,
                "min_neg_points": 0,
                "startswith_box": False,
                "startswith_box_optional": True,
            }
        if path == f"/api/tasks/{TASK}":
            return self._task()
        if path == "/api/labels":
            label = {
                "id": LABEL,
                "name": "object",
                "type": "any",
                "attributes": [],
                "sublabels": [],
            }
            return {"count": 1, "next": None, "previous": None, "results": [label]}
        if path == f"/api/tasks/{TASK}/data/meta":
            return self._data_meta()
        if path == f"/api/tasks/{TASK}/data/":
            self.frames_fetched += 1
            return self._chunk() if "type=chunk" in query else self.photo
        raise LookupError(path)

    def patch(self, path: str, body: Json) -> Json:
        """Answer a PATCH: annotations are added to the task."""
        if path != f"/api/tasks/{TASK}/annotations/":
            raise LookupError(path)
        self.annotations += body["shapes"]
        return {"version": 0, "tags": [], "shapes": [], "tracks": []}

    def post(self, path: str, body: Json) -> Json:
        """Answer a POST."""
        if path.endswith("/requests/acquire"):
            waiting = self.waiting if body["request_category"] == "interactive" else []
            return {"ar_assignment": waiting.pop(0) if waiting else None}
        done = re.search(r"/requests/([\w-]+)/(complete|update|fail)$", path)
        if done is None:
            raise LookupError(path)
        name, action = done.groups()
        if action == "complete":
            self.results[name] = body
        if action == "fail":
            self.failures.append(json.dumps(body))
        return {}

    def _chunk(self) -> bytes:
        """Return all frames, which is one."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("000000.png", self.photo)
        return file.getvalue()

    def _task(self) -> Json:
        return {
            "id": TASK,
            "name": "coins",
            "jobs": {"count": 1, "completed": 0, "validation": 0, "url": ""},
            "labels": {"url": f"http://127.0.0.1:{self.port}/api/labels?task_id={TASK}"},
            "size": 1,
            "dimension": "2d",
            "mode": "annotation",
            "media_type": "image",
            "organization": None,
            "data_chunk_size": 1,
            "data_original_chunk_type": "imageset",
            "created_date": LONG_AGO,
            "updated_date": LONG_AGO,
        }

    def _data_meta(self) -> Json:
        width, height = self.size
        return {
            "chunks_updated_date": LONG_AGO,
            "frames": [{"name": "coins.png", "related_files": 0, "width": width, "height": height}],
            "deleted_frames": [],
            "chunk_size": 1,
            "size": 1,
            "image_quality": 70,
            "start_frame": 0,
            "stop_frame": 0,
            "frame_filter": "",
        }


class _Handler(BaseHTTPRequestHandler):
    """Answers with JSON, or with the frame."""

    server: CvatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        query = self.path.partition("?")[2]
        self._answer(lambda path: self.server.get(path, query))

    def do_POST(self) -> None:
        body = self._body()
        self._answer(lambda path: self.server.post(path, body))

    def do_PATCH(self) -> None:
        body = self._body()
        self._answer(lambda path: self.server.patch(path, body))

    def _body(self) -> Json:
        body: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        return body

    def _answer(self, find: Any) -> None:
        path = self.path.partition("?")[0].replace("%3A", ":")
        try:
            status, found = 200, find(path)
        except LookupError:
            self.server.failures.append(f"{self.command} {self.path}")
            status, found = 404, {"detail": "Not found."}

        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        kind = "image/png" if isinstance(found, bytes) else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(server: CvatServer) -> Iterator[CvatServer]:
    """Serve in a thread."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

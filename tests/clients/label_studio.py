"""A real Label Studio on this machine, with its data in a folder of the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from clients.venvs import client_venv, clients_folder
from samserve.local.process import free_port

VERSION = "1.23.2"
TOKEN = "0123456789abcdef0123456789abcdef01234567"  # noqa: S105  # of this machine only
START_SECONDS = 1200.0  # the first start makes the database: minutes on a busy machine
SECONDS = 300.0  # for one call

ENVIRONMENT = {
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    # a busy machine may take any time
    "ML_TIMEOUT_HEALTH": "60",
    "ML_TIMEOUT_SETUP": "60",
    "ML_TIMEOUT_PREDICT": "200",
    "WEBHOOK_TIMEOUT": "60",
}


@dataclass
class LabelStudio:
    """A running Label Studio, and its API as far as the tests call it."""

    url: str
    session: requests.Session

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        answer = self.session.request(method, self.url + path, timeout=SECONDS, **options)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer

    def create_project(self, label_config: str) -> int:
        body = {"title": "coins", "label_config": label_config}
        return int(self.call("POST", "/api/projects", json=body).json()["id"])

    def configure(self, project: int, label_config: str) -> None:
        self.call("PATCH", f"/api/projects/{project}", json={"label_config": label_config})

    def add_image(self, project: int, data: bytes) -> int:
        """Import an image; returns its task."""
        path = f"/api/projects/{project}/import"
        self.call("POST", path, files={"file": ("coins.png", data)})
        return max(task["id"] for task in self.tasks(project))

    def tasks(self, project: int) -> list[dict[str, Any]]:
        found = self.call("GET", "/api/tasks", params={"project": project, "fields": "all"}).json()
        tasks: list[dict[str, Any]] = found["tasks"]
        return tasks

    def connect(self, project: int, backend: str) -> dict[str, Any]:
        body = {"url": backend, "project": project, "is_interactive": True, "title": "samserve"}
        connected: dict[str, Any] = self.call("POST", "/api/ml", json=body).json()
        return connected

    def interact(self, backend: int, task: int, *regions: dict[str, Any]) -> dict[str, Any]:
        """Do what the editor does after a smart click."""
        path = f"/api/ml/{backend}/interactive-annotating"
        body = {"task": task, "context": {"result": regions}}
        answer: dict[str, Any] = self.call("POST", path, json=body).json()
        assert "data" in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def annotate(self, task: int, regions: list[dict[str, Any]]) -> int:
        path = f"/api/tasks/{task}/annotations"
        return int(self.call("POST", path, json={"result": regions}).json()["id"])

    def delete_annotation(self, annotation: int) -> None:
        self.call("DELETE", f"/api/annotations/{annotation}")

    def create_personal_token(self) -> str:
        return str(self.call("POST", "/api/token/", json={}).json()["token"])

    def export(self, project: int, kind: str) -> bytes:
        path = f"/api/projects/{project}/export"
        return self.call("GET", path, params={"exportType": kind}).content

    def predict_all(self, project: int) -> None:
        self.call(
            "POST",
            "/api/dm/actions",
            params={"id": "retrieve_tasks_predictions", "project": project},
            json={"selectedItems": {"all": True, "excluded": []}},
        )


@contextmanager
def running(port: int, folder: Path) -> Iterator[LabelStudio]:
    """Run Label Studio on a copy of a database that is made once."""
    python = client_venv("label-studio", [f"label-studio=={VERSION}"])
    data = folder / "data"
    shutil.copytree(_database(python), data)
    with _program(python, port, data, folder / "label-studio.log") as url:
        session = requests.Session()
        session.trust_env = False
        session.headers["Authorization"] = f"Token {TOKEN}"
        with session:
            yield LabelStudio(url, session)


def _database(python: Path) -> Path:
    """Return a data folder with a migrated database and one user."""
    place = clients_folder() / f"label-studio-data-{VERSION}"
    if not place.is_dir():
        making = place.with_suffix(f".{os.getpid()}")
        making.mkdir(parents=True)
        with _program(python, free_port(), making, making / "first-start.log"):
            pass
        making.rename(place)
    return place


@contextmanager
def _program(python: Path, port: int, data: Path, log: Path) -> Iterator[str]:
    command = [python.with_name("label-studio"), "start", "--no-browser"]
    options = {
        "--internal-host": "127.0.0.1",
        "--port": str(port),
        "--username": "t@example.com",
        "--password": "pw-12345678",
        "--user-token": TOKEN,
    }
    environment = {**os.environ, **ENVIRONMENT, "LABEL_STUDIO_BASE_DATA_DIR": str(data)}
    with log.open("w") as output:
        program = subprocess.Popen(
            [
                *command,
                *(part for option in options.items() for part in option),
                "--enable-legacy-api-token",
            ],
            env=environment,
            cwd=data,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, program, log)
            yield url
        finally:
            program.send_signal(signal.SIGTERM)
            program.wait(60)


def _wait(url: str, program: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        assert program.poll() is None, f"Label Studio ended: {log.read_text()[-2000:]}"
        try:
            if requests.get(f"{url}/health", timeout=5, proxies={"http": ""}).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(f"Label Studio did not start: {log.read_text()[-2000:]}")

"""Runs deploy/compose.yaml with podman-compose, on free ports."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bases import ROOT
from engine import CannotRun, Engine
from samserve.local.process import free_port

DEPLOY = ROOT / "deploy"
PORTS = {"edge": 8504, "gateway": 8503, "decoder": 8501, "embedding": 8500}


@contextmanager
def running(engine: Engine) -> Iterator[dict[str, str]]:
    """Start the services; yield the addresses of those in PORTS; stop them.

    Raises:
        CannotRun: podman-compose is not installed, or fails.
    """
    program = Path(sys.executable).with_name("podman-compose")
    if not program.exists():
        raise CannotRun("not installed: podman-compose")

    text = (DEPLOY / "compose.yaml").read_text()
    addresses = {}
    for name, port in PORTS.items():
        addresses[name] = f"127.0.0.1:{free_port()}"
        text = text.replace(f"127.0.0.1:{port}:", f"{addresses[name]}:")

    folder = engine.folder / "samserve-compose"
    folder.mkdir(exist_ok=True)
    (folder / "compose.yaml").write_text(text)
    (folder / ".env").write_text((DEPLOY / ".env").read_text())
    variables = {"CACHE_PASSWORD": secrets.token_hex(24)}
    command = [program, "--file", folder / "compose.yaml", "--profile", "cpu"]
    try:
        engine.run(*command, "up", "--detach", "--no-build", more=variables)
        yield addresses
    finally:
        engine.ask("env", "CACHE_PASSWORD=-", *command, "down", "--volumes", "--timeout", "40")

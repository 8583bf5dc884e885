"""Which Triton is started."""

from pathlib import Path

import pytest
from samserve.local import triton


def test_a_server_that_the_machine_brings_is_used_with_all_its_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "tritonserver"
    own.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$@" > {tmp_path}/said.part\n'
        f"mv {tmp_path}/said.part {tmp_path}/said\n"
    )
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = triton.start(tmp_path / "models", 2, 3, tmp_path / "log")
    program.wait_ready((tmp_path / "said").is_file, 10)
    program.stop()
    said = (tmp_path / "said").read_text().splitlines()
    assert f"--model-repository={tmp_path / 'models'}" in said
    assert "--grpc-port=2" in said
    assert not [word for word in said if word.startswith("--backend-directory")]
    assert not [word for word in said if word.startswith("--model-control-mode")]
    assert "--allow-http=false" in said
    (closed,) = [word for word in said if word.startswith("--grpc-restricted-protocol=")]
    assert closed.partition("=")[2].startswith("shared-memory,trace,logging:")


def test_the_servers_own_files_are_reached_through_plain_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "Köln (2)"
    (odd / "server").mkdir(parents=True)
    monkeypatch.setattr(triton, "install", lambda: odd / "server")
    monkeypatch.setattr("sys.prefix", str(odd))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    command, environment = triton.server(tmp_path)
    assert [word for word in command if odd.name in word] == []
    assert environment["PATH"].startswith(f"{tmp_path}/python/bin:")
    assert (tmp_path / "triton").resolve() == odd / "server"
    assert environment["PYTHONUTF8"] == "1"

"""A stack on this machine can be reached from this machine only, and by its own user."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import grpc
import pytest
import triton_api
from samserve.local.process import session_members
from samserve.local.stack import Stack
from tritonclient.utils import InferenceServerException

LISTENING = "0A"
LOOPBACK = {
    "0100007F",
    "0000000000000000FFFF00000100007F",  # 127.0.0.1 on an IPv6 socket
    "00000000000000000000000001000000",
}


def processes(stack: Stack) -> list[int]:
    return [pid for program in stack.programs.values() for pid in session_members(program.pid)]


def listening(pid: int) -> list[tuple[str, str]]:
    """Addresses and ports, in hexadecimal, that a process listens on."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(file.readlink())))
        except OSError:  # closed by now
            continue

    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [
        (row[1].split(":")[0], row[1].split(":")[1])
        for row in rows
        if row[3] == LISTENING and row[9] in inodes
    ]


def test_every_socket_listens_on_loopback(stack: Stack) -> None:
    sockets = {
        (Path(f"/proc/{pid}/comm").read_text().strip(), *each)
        for pid in processes(stack)
        for each in listening(pid)
    }
    assert len(sockets) > 20
    assert [each for each in sockets if each[1] not in LOOPBACK] == []


def test_nobody_loads_code_into_triton(stack: Stack) -> None:
    with triton_api.connected(stack) as triton:
        for change in (triton.load_model, triton.unload_model):
            with pytest.raises(InferenceServerException, match="explicit model load / unload"):
                change("nano")
        with pytest.raises(InferenceServerException, match="restricted"):
            triton.register_system_shared_memory("mine", "/mine", 1)
        assert triton.is_model_ready("nano")


def test_sockets_and_secrets_are_the_users_own(stack: Stack) -> None:
    folder = stack._run_folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    (socket,) = folder.glob("h/*/admin.sock")
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


def test_ray_refuses_a_caller_without_the_token(stack: Stack) -> None:
    (session,) = (stack._run_folder / "ray").glob("session_2*")
    (file,) = session.glob("gcs_server_port_*")
    with grpc.insecure_channel(f"127.0.0.1:{file.read_text().strip()}") as channel:
        ask = channel.unary_unary("/ray.rpc.JobInfoGcsService/GetAllJobInfo")
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"", timeout=30)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_replicas_log_is_in_the_folder_of_logs(stack: Stack) -> None:
    names = {file.name.split("_")[0] for file in Path(stack.addresses.logs).iterdir()}
    assert {"replica", "controller", "proxy"} <= names

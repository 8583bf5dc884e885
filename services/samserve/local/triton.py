"""The real Triton server without a container: taken from the wheel that NVIDIA publishes for PyTriton.

    python -m samserve.local.triton      install it beside this environment, as `samserve up` does when it is missing

The wheel cannot live in our environment, as it asks for an older numpy; only its server is used, not its Python code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

from samserve.local.process import Program, StartFailed

WHEEL = "nvidia-pytriton==0.7.0"
HOME = Path(sys.prefix) / "share" / "samserve" / "triton-2.51.0"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def install(home: Path = HOME) -> Path:
    """Install the server under `home` unless it is there; written aside and renamed, so half of one never counts."""
    if home.is_dir():
        return home
    part = home.with_name(f"{home.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    try:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(part / "wheel"),
            WHEEL,
        ]
        if subprocess.run(command, check=False).returncode != 0:
            raise StartFailed(
                f"Triton could not be installed: `pip install {WHEEL}` failed, see its message above"
            )
        _lay_out_backend(part)
        part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return home


def _lay_out_backend(home: Path) -> None:
    """Gather in one folder what the Python backend must find beside itself, the stub for this Python among it."""
    server = home / "wheel" / "pytriton" / "tritonserver"
    backend = home / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise StartFailed(
            f"Triton's Python backend has no stub for Python {_PYTHON}: use Python 3.10 to 3.13"
        )
    shutil.copy2(stub, backend)
    for program in (backend / stub.name, server / "bin" / "tritonserver"):
        program.chmod(0o755)


def environment(home: Path) -> dict[str, str]:
    """The server's environment: its libraries, this Python's library, and this environment for the stub."""
    library = f"libpython{_PYTHON}.so.1.0"
    folders = [str(home / "wheel" / "nvidia_pytriton.libs")]
    own = sysconfig.get_config_var("LIBDIR") or ""
    if (Path(own) / library).is_file():
        folders.append(own)
    elif not any(
        (Path(f) / library).is_file()
        for f in ("/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/local/lib", "/lib64")
    ):
        raise StartFailed(
            f"Triton needs {library}, which this Python does not bring: apt install libpython{_PYTHON}"
        )
    # The stub's interpreter ignores PYTHONPATH; it takes the packages of the first python3 on the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(folders), "PATH": path}


def start(
    repository: Path, http_port: int, grpc_port: int, metrics_port: int, log: Path
) -> Program:
    """Start a server on 127.0.0.1; it is ready when `ready` says so."""
    binary, environment = server()
    command = [
        *binary,
        f"--model-repository={repository}",
        "--model-control-mode=explicit",  # a model may be unloaded and loaded again by name
        "--load-model=*",
        f"--backend-config=python,shm-region-prefix-name=samserve-{grpc_port}",
        "--http-address=127.0.0.1",
        f"--http-port={http_port}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
    ]
    return Program("Triton", command, environment, log)


def server() -> tuple[list[str], dict[str, str]]:
    """The command and environment of NVIDIA's own server, which its image brings with all backends, or the wheel's."""
    if (own := shutil.which("tritonserver")) is not None:
        return [own], dict(os.environ)
    home = install()
    binary = home / "wheel" / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    return [str(binary), f"--backend-directory={home / 'backends'}"], environment(home)


def ready(http_port: int) -> bool:
    """Whether the server and all its models answer: only after their warm-up."""
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{http_port}/v2/health/ready", timeout=2
        ) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    try:
        print(install())
    except StartFailed as problem:
        sys.exit(str(problem))

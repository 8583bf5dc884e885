"""The real Triton server without a container, from the wheel that NVIDIA publishes for PyTriton.

    python -m samserve.local.triton      install the server; `samserve up` does so if it is missing

The wheel requires an older numpy, so it is installed outside the environment. Only its server is
used, not its Python code.
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
    """Install the server in `home` unless it is there.

    The files go to a temporary folder, which is renamed: an interrupted install leaves nothing.
    """
    if home.is_dir():
        return home

    part = home.with_name(f"{home.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    target = str(part / "wheel")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", target, WHEEL]

    try:
        if subprocess.run([sys.executable, *command], check=False).returncode != 0:
            raise StartFailed(f"`pip install {WHEEL}` failed; see its message above")

        _lay_out_backend(part)
        part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)

    return home


def _lay_out_backend(home: Path) -> None:
    """Copy the Python backend and the stub for this Python into one folder."""
    server = home / "wheel" / "pytriton" / "tritonserver"
    backend = home / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)

    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise StartFailed(
            f"Triton's Python backend does not support Python {_PYTHON}; use Python 3.11 to 3.13"
        )

    shutil.copy2(stub, backend)
    for program in (backend / stub.name, server / "bin" / "tritonserver"):
        program.chmod(0o755)


def environment(home: Path) -> dict[str, str]:
    """The server's environment: paths of its libraries, libpython and this environment."""
    library = f"libpython{_PYTHON}.so.1.0"
    folders = [str(home / "wheel" / "nvidia_pytriton.libs")]
    own = sysconfig.get_config_var("LIBDIR") or ""

    if (Path(own) / library).is_file():
        folders.append(own)
    elif not any(
        (Path(f) / library).is_file()
        for f in ("/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/local/lib", "/lib64")
    ):
        raise StartFailed(f"Triton requires {library}; install it: apt install libpython{_PYTHON}")

    # The stub ignores PYTHONPATH and uses the packages of the first python3 on the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(folders), "PATH": path}


def start(
    repository: Path, http_port: int, grpc_port: int, metrics_port: int, log: Path
) -> Program:
    """Start a server on 127.0.0.1. Poll `ready` before use."""
    binary, environment = server()

    command = [
        *binary,
        f"--model-repository={repository}",
        "--model-control-mode=explicit",  # lets tests unload a model and load it again
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
    """Command and environment of the server on the PATH (NVIDIA's image) or of the wheel's."""
    if (own := shutil.which("tritonserver")) is not None:
        return [own], dict(os.environ)

    home = install()
    binary = home / "wheel" / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    return [str(binary), f"--backend-directory={home / 'backends'}"], environment(home)


def ready(http_port: int) -> bool:
    """Whether the server and all its models are ready, warm-up included."""
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

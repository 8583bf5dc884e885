"""The real Triton server without a container, from the wheel that NVIDIA publishes for PyTriton.

    python -m samserve.local.triton      install the server; `samserve up` does so if it is missing

The wheel requires an older numpy, so it is installed outside the environment. Only its server is
used, not its Python code.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import grpc

from samserve.local.process import Program, StartFailed
from samserve.wire.channel import proxy_options

WHEEL = "nvidia-pytriton==0.7.0"
HASHES = (  # of its files for this platform and for others
    "sha256:21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df",
    "sha256:f99e07ee56fe065337453956afba17d2673e02ec6a632c3de26ce6e7b32a0898",
)
HOME = Path(sys.prefix) / "share" / "samserve" / "triton-2.51.0"
CLOSED = "shared-memory,trace,logging"  # protocols that nobody needs
TIMEOUT = 2.0  # seconds for one answer
READY = b"\x08\x01"  # a ServerReadyResponse with `ready: true`

# Models' names and paths may have any letters; the stub's Python would take them for ASCII.
QUIET = {"PYTHONUTF8": "1", "ORT_DISABLE_TELEMETRY": "1"}

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
    wanted = part / "requirements.txt"  # pip takes hashes from files only
    wanted.write_text(" ".join([WHEEL, *(f"--hash={each}" for each in HASHES)]))
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--target", target, "--requirement", str(wanted)]

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


def environment(home: Path, prefix: Path) -> dict[str, str]:
    """The server's environment: paths of its libraries, libpython and this environment (prefix)."""
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
    path = os.pathsep.join([str(prefix / "bin"), os.environ.get("PATH", os.defpath)])

    return {**os.environ, **QUIET, "LD_LIBRARY_PATH": os.pathsep.join(folders), "PATH": path}


def start(
    repository: Path, grpc_port: int, metrics_port: int, log: Path, *, control: bool = False
) -> Program:
    """Start a server on 127.0.0.1. Poll `ready` before use.

    Callers can only run models, ask for them and read statistics. Loading a model runs the code in
    it, so the server refuses to; shared memory, traces and log settings need a key that nobody has.

    Args:
        repository: A folder with a name that `folders.is_plain` accepts.
        control: Let callers load and unload models, as tests do.
    """
    binary, environment = server(repository.parent)

    command = [
        *binary,
        f"--model-repository={repository}",
        *(["--model-control-mode=explicit", "--load-model=*"] if control else []),
        f"--backend-config=python,shm-region-prefix-name=samserve-{grpc_port}",
        "--allow-http=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        f"--grpc-restricted-protocol={CLOSED}:unused={secrets.token_hex(16)}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
    ]

    return Program("Triton", command, environment, log)


def server(links: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the server on the PATH (NVIDIA's image) or of the wheel's.

    Args:
        links: A folder of plain name. Links in it stand for the wheel's server and this
            environment, whose own names may have any letters.
    """
    if (own := shutil.which("tritonserver")) is not None:
        return [own], {**os.environ, **QUIET}

    home, prefix = install(), Path(sys.prefix)
    if links is not None:
        home = _link(links / "triton", home)
        prefix = _plain_environment(links / "python")

    binary = home / "wheel" / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    return [str(binary), f"--backend-directory={home / 'backends'}"], environment(home, prefix)


def _plain_environment(folder: Path) -> Path:
    """Lay out links to this environment's packages, without its .pth files.

    The stub's Python reads .pth files as ASCII, and that of an editable install names the checkout.
    """
    if folder.is_dir():
        return folder
    packages = folder / "lib" / f"python{_PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)

    python = Path(sys.executable).resolve()
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(python)
    (folder / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
    return folder


def _link(link: Path, target: Path) -> Path:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return link


def ready(address: str) -> bool:
    """Whether the server at host:port and all its models are ready, warm-up included."""
    with grpc.insecure_channel(address, proxy_options(address)) as channel:
        try:
            ask: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            answer: bytes = ask(b"", timeout=TIMEOUT)
        except grpc.RpcError:
            return False

    return answer == READY


if __name__ == "__main__":
    try:
        print(install())
    except StartFailed as problem:
        sys.exit(str(problem))

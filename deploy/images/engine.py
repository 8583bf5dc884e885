"""podman and buildah with a storage of their own, on a machine without Docker or systemd."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("buildah", "podman", "runc", "debootstrap")

STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/store"
runroot = "{folder}/run"
"""

# runc and cgroupfs, because crun and systemd's manager need a machine that systemd booted. Limits
# of processes are set at or below this machine's, which a container's root may not raise.
CONTAINERS = """\
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{folder}/tmp/libpod"
static_dir = "{folder}/store/libpod"
volume_path = "{folder}/store/volumes"
image_copy_tmp_dir = "{folder}/tmp"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc=16384:16384"]
"""


class CannotRun(Exception):
    """This machine cannot build or run images; the message names the reason."""


def missing() -> str | None:
    """Return why this machine cannot build and run images, or None."""
    if os.geteuid() != 0:
        return "building images without Docker requires root"

    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@dataclass(frozen=True)
class Engine:
    """podman and buildah.

    Attributes:
        folder: Where images, containers and temporary files are kept.
    """

    folder: Path

    def set_up(self) -> None:
        """Write the configuration.

        Raises:
            CannotRun: A tool is missing.
        """
        reason = missing()
        if reason:
            raise CannotRun(reason)

        for name in ("store", "run", "tmp", "networks"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

        files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536)
        (self.folder / "storage.conf").write_text(STORAGE.format(folder=self.folder))
        (self.folder / "containers.conf").write_text(
            CONTAINERS.format(folder=self.folder, files=files)
        )

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    def run(
        self, *command: str | Path, cwd: Path | None = None, more: Mapping[str, str] | None = None
    ) -> None:
        """Run a command; its output is this program's.

        Raises:
            CannotRun: It failed.
        """
        words = [str(word) for word in command]
        environment = {**self.environment, **(more or {})}
        process = subprocess.run(words, env=environment, cwd=cwd, check=False)
        if process.returncode:
            raise CannotRun(f"failed with code {process.returncode}: {' '.join(words)}")

    def ask(self, *command: str | Path) -> str:
        """Return a command's output, or an empty string if it failed."""
        process = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return process.stdout.strip() if process.returncode == 0 else ""

    def has(self, image: str) -> bool:
        return bool(self.ask("podman", "image", "ls", "--quiet", image))


def pip_volumes(folder: Path) -> list[str]:
    """Return options that give a build this machine's pip configuration, certificates and wheels.

    They are mounted, not copied: neither a Dockerfile nor an image names them.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    options: dict[str, list[str]] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        values = options.setdefault(key.rpartition(".")[2], [])
        words = value.strip("'").replace("\\n", " ").split()
        values += [word for word in words if word not in values]

    config = folder / "pip.conf"
    lines = [f"{name} = {' '.join(values)}" for name, values in options.items()]
    config.write_text("\n".join(["[global]", *lines, ""]))

    # The files and folders that it names.
    words = [word.removeprefix("file://") for values in options.values() for word in values]
    paths = {Path(word) for word in words if word.startswith("/")}
    paths = {path.parent if path.name == "simple" else path for path in paths if path.exists()}
    mounts = [f"--volume={path}:{path}:ro" for path in sorted(paths)]
    return [f"--volume={config}:/etc/pip.conf:ro", *mounts]

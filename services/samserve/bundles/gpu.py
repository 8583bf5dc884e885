"""Kinds of GPU that engines are compiled for."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

HERE = "here"
GPUS = {  # compute capability without its point -> GPUs that have it
    75: ("T4",),
    80: ("A100", "A30"),
    86: ("A10", "A40", "RTX 3090"),
    89: ("L4", "L40S", "RTX 4090"),
    90: ("H100", "H200"),
    100: ("B200",),
    103: ("B300",),
    120: ("RTX 5090", "RTX PRO 6000"),
    121: ("GB10",),
}
CAPABILITY = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)")


class UnknownGpu(ValueError):
    """Not a supported GPU; the message lists the supported ones."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        capability: Compute capability without its point, 89 for 8.9.
        gpu: Product name; empty for any GPU of that capability.
    """

    capability: int
    gpu: str = ""

    @property
    def name(self) -> str:
        return f"sm{self.capability}"

    @property
    def slug(self) -> str:
        """The name as part of a file name, such as `l4-sm89`."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        return f"{gpu}-{self.name}" if gpu else self.name

    def __str__(self) -> str:
        return f"{self.name} ({self.gpu or ', '.join(GPUS[self.capability])})"


def parse_gpu(text: str) -> Gpu:
    """Parse the name of a GPU.

    Args:
        text: `sm89`, `89`, `8.9`, a product such as `L4`, or `here` for this machine's first GPU.

    Raises:
        UnknownGpu: The text names no supported GPU, or `here` is used on a machine without one.
    """
    if text == HERE:
        gpu = gpu_here()
        if gpu is None:
            raise UnknownGpu(f"no NVIDIA GPU found on this machine; name one of {known_gpus()}")
        return gpu

    if (match := CAPABILITY.fullmatch(text.lower())) and int("".join(match.groups())) in GPUS:
        return Gpu(int("".join(match.groups())))

    for capability, products in GPUS.items():
        if text.lower() in map(str.lower, products):
            return Gpu(capability)

    raise UnknownGpu(f"unknown GPU {text!r}; supported: {known_gpus()}, or {HERE!r}")


def known_gpus() -> str:
    """List all supported GPUs, for messages."""
    return ", ".join(str(Gpu(capability)) for capability in GPUS)


def gpu_here() -> Gpu | None:
    """Return this machine's first GPU as nvidia-smi reports it, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.match(r"(?:NVIDIA )?(.+), (\d+)\.(\d)", result.stdout)
    if result.returncode != 0 or match is None:
        return None
    return Gpu(int(match[2] + match[3]), match[1])

"""Which GPU an engine is for."""

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
    """What names no GPU that engines are made for; the message lists those there are."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """capability: compute capability without its point, 89 for 8.9; gpu: its name, empty for any of that capability."""

    capability: int
    gpu: str = ""

    @property
    def name(self) -> str:
        return f"sm{self.capability}"

    @property
    def slug(self) -> str:
        """For a file's name."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        return f"{gpu}-{self.name}" if gpu else self.name

    def __str__(self) -> str:
        return f"{self.name} ({self.gpu or ', '.join(GPUS[self.capability])})"


def parse_gpu(text: str) -> Gpu:
    """`sm89`, `89`, `8.9`, a GPU's name such as `L4`, or `here`: this machine's first GPU. Raises UnknownTarget."""
    if text == HERE:
        if (gpu := gpu_here()) is None:
            raise UnknownGpu(f"there is no NVIDIA GPU on this machine: name one of {known_gpus()}")
        return gpu
    if (match := CAPABILITY.fullmatch(text.lower())) and int("".join(match.groups())) in GPUS:
        return Gpu(int("".join(match.groups())))
    for capability, names in GPUS.items():
        if text.lower() in map(str.lower, names):
            return Gpu(capability)
    raise UnknownGpu(
        f"{text!r} is no GPU that engines are made for: name one of {known_gpus()}, or {HERE!r}"
    )


def known_gpus() -> str:
    """All targets, for people."""
    return ", ".join(str(Gpu(capability)) for capability in GPUS)


def gpu_here() -> Gpu | None:
    """The first GPU of this machine, as its driver's nvidia-smi tells."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    match = re.match(r"(?:NVIDIA )?(.+), (\d+)\.(\d)", answer.stdout)
    return Gpu(int(match[2] + match[3]), match[1]) if answer.returncode == 0 and match else None

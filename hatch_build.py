"""What a package build does before it gathers files: code from the protos, the kernels from C."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
PROTOS = runpy.run_path(str(ROOT / "protos/build.py"))
KERNEL = runpy.run_path(str(ROOT / "services/samserve/native/build.py"))


class BuildHook(BuildHookInterface):
    """Hatchling's hook: called before a wheel, a plain or an editable one, is put together."""

    def dependencies(self) -> list[str]:
        """A C compiler, on a machine without one."""
        return [] if KERNEL["local_compiler"]() else ["ziglang==0.17.1"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        PROTOS["generate"]()
        KERNEL["build"]()
        build_data.update(pure_python=False, tag="py3-none-linux_x86_64")

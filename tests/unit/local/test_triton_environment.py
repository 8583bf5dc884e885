"""What Triton's Python sees of this environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from samserve.local import triton


def test_packages_are_linked_and_pth_files_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "Köln (2)"
    (packages / "numbers_of_ours").mkdir(parents=True)
    (packages / "numbers_of_ours" / "__init__.py").write_text("seven = 7\n")
    (packages / "_samserve.pth").write_text(str(packages))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(packages))

    folder = triton._plain_environment(tmp_path / "python")
    names = {path.name for path in folder.rglob("site-packages/*")}
    assert names == {"numbers_of_ours"}
    asked = "import numbers_of_ours, sys; print(numbers_of_ours.seven, sys.prefix)"
    done = subprocess.run(
        [str(folder / "bin" / "python3"), "-c", asked], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["7", str(folder)]
    assert triton._plain_environment(folder) == folder  # a restart keeps it
    assert sys.prefix != str(folder)

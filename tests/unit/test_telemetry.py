"""No dependency reports its use: nothing is written for it, as ONNX Runtime would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from samserve.bundles.names import SHIPPED
from samserve.local import triton

SESSION = (
    f"import onnxruntime; onnxruntime.InferenceSession({str(SHIPPED / 'nano/decoder.onnx')!r})"
)
FOLDERS = ("HOME", "TMPDIR", "XDG_CACHE_HOME")


@pytest.mark.parametrize(
    "first", ["samserve.decoder.server", "samserve.export", "samserve.training"]
)
def test_onnx_runtime_leaves_nothing_in_home_and_temporary_folder(
    first: str, tmp_path: Path
) -> None:
    environment = {**os.environ, **dict.fromkeys(FOLDERS, str(tmp_path))}
    del environment["ORT_DISABLE_TELEMETRY"]  # set by samserve in this process
    subprocess.run(
        [sys.executable, "-c", f"import {first}; {SESSION}"], env=environment, check=True
    )
    assert list(tmp_path.rglob("*")) == []


def test_tritons_stubs_report_nothing() -> None:
    _, environment = triton.server()
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"

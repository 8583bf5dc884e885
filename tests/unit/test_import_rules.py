"""Each external library has one owner file, and services load only what they install.

`make check` enforces the import rules between packages.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "services" / "samserve"
BUILDERS = (  # not part of any service but Triton
    "export/",
    "training/",
    "variants/",
    "bundles/triton_model.py",
)


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        (
            "redis",
            ["identity/redis_store.py", "infra/redis_link.py", "local/probes.py"],
        ),  # the probe pings any URL
        ("tritonclient", ["embedding/encoder.py"]),
        ("onnxruntime", ["decoder/sam/onnx_decoder.py"]),
        ("opentelemetry", ["infra/otel.py"]),
    ],
)
def test_only_its_owners_import_a_library(library: str, owners: list[str]) -> None:
    users = [
        str(file.relative_to(ROOT))
        for file in ROOT.rglob("*.py")
        if f"import {library}" in file.read_text() or f"from {library}" in file.read_text()
    ]
    assert sorted(user for user in users if not user.startswith(BUILDERS)) == owners


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "samserve.decoder.server",
            "ray torch transformers tritonclient typer samserve.infra.otel",
        ),
        ("samserve.embedding.app", "torch transformers onnxruntime typer samserve.infra.otel"),
        (
            "samserve.client",
            "ray torch transformers tritonclient redis onnxruntime cv2 PIL typer "
            "opentelemetry prometheus_client",
        ),
        ("samserve.edge.__main__", "ray torch redis onnxruntime grpc typer prometheus_client"),
    ],
)
def test_a_pod_loads_only_what_it_installs(module: str, absent: str) -> None:
    code = (
        f"import sys, {module}; print(*[name for name in {absent.split()} if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == []

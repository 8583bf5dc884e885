"""Who may import whom, and what a pod need not install."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "services" / "samserve"
SERVICES = {"embedding", "decoder", "gateway", "client", "gate", "local", "models", "cli"}


def imported(file: Path) -> set[str]:
    """The parts of samserve that a file imports: `core`, `decoder`..."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("samserve.")}


@pytest.mark.parametrize(
    ("folder", "never"),
    [
        ("core", SERVICES),
        ("embedding", SERVICES - {"embedding"}),
        ("decoder", SERVICES - {"decoder", "models"}),
        ("client", SERVICES - {"client"}),
        ("gate", {"gateway", "client", "cli"}),
    ],
)
def test_imports_go_one_way(folder: str, never: set[str]) -> None:
    files = list((ROOT / folder).glob("*.py"))
    assert files
    for file in files:
        assert not imported(file) & never, file.name


@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("redis", "core/cache.py"),
        ("tritonclient", "embedding/encoder.py"),
        ("onnxruntime", "decoder/written.py"),
        ("opentelemetry", "core/spans.py"),
    ],
)
def test_one_file_owns_each_neighbour(library: str, only: str) -> None:
    users = [
        str(file.relative_to(ROOT))
        for file in ROOT.rglob("*.py")
        if f"import {library}" in file.read_text() or f"from {library}" in file.read_text()
    ]
    assert [user for user in users if not user.startswith("models/")] == [only]  # those run in no service but Triton


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "samserve.decoder.server",
            "ray torch transformers tritonclient typer samserve.core.spans",
        ),
        ("samserve.embedding.app", "torch transformers onnxruntime typer samserve.core.spans"),
        (
            "samserve.client",
            "ray torch transformers tritonclient redis onnxruntime cv2 PIL typer opentelemetry prometheus_client",
        ),
    ],
)
def test_a_pod_loads_only_what_it_installs(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {absent.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

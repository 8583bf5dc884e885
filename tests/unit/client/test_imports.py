"""A program that imports the client or the SDK loads what the client needs, and no more."""

import subprocess
import sys

import pytest

HEAVY = ("PIL", "cv2", "onnxruntime", "pydantic", "ray", "redis", "rich", "structlog", "torch")
# What grpc imports by itself if it is installed.
PROGRAM = f"""
import sys, grpc
before = set(sys.modules)
import samserve.client, samserve.sdk
loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(*loaded & set({HEAVY!r}))
"""


@pytest.mark.parametrize("module", HEAVY)
def test_the_client_is_light(module: str, loaded: list[str]) -> None:
    assert module not in loaded


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    return result.stdout.split()

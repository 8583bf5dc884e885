"""The programs in Triton's pods accept their arguments."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from manifests import VALUE_FILES, part, rendered
from samserve.cli.models import app
from samserve.local import triton
from samserve.variants.quantise import RECIPES, variant_name
from typer.main import get_command

pytestmark = pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)


PROTOCOLS = {
    *("health", "metadata", "inference", "shared-memory", "model-config"),
    *("model-repository", "statistics", "trace", "logging"),
}


@cache
def known_flags() -> set[str]:
    """Return the flags of the local Triton server."""
    command, environment = triton.server()
    process = subprocess.run(
        [*command, "--help"], env=environment, capture_output=True, text=True, check=False
    )
    return set(re.findall(r"--[a-z0-9-]+", process.stdout + process.stderr))


def test_the_server_accepts_its_arguments(values: Path) -> None:
    (pod,) = part(rendered(values), "triton")
    flags = {argument.partition("=")[0] for argument in pod.containers[0]["args"]}
    assert len(flags) > 5
    assert flags <= known_flags()


def test_administration_needs_a_header_that_nobody_knows(values: Path) -> None:
    """Open are HTTP's health, and the gRPC calls of the embedding service."""
    (pod,) = part(rendered(values), "triton")
    options = dict(argument.partition("=")[::2] for argument in pod.containers[0]["args"])
    variables = {each["name"]: each for each in pod.containers[0]["env"]}

    assert options["--model-control-mode"] == "none"
    assert variables["POD_UID"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
    for flag, still_open in (
        ("--http-restricted-api", {"health"}),
        ("--grpc-restricted-protocol", {"health", "inference", "model-config", "model-repository"}),
    ):
        closed, _, header = options[flag].partition(":")
        assert set(closed.split(",")) == PROTOCOLS - still_open
        assert header == "samserve-admin=$(POD_UID)"


def test_the_command_line_accepts_the_init_containers_arguments(values: Path) -> None:
    (pod,) = part(rendered(values), "triton")
    commands = get_command(app)
    for container in pod.spec["initContainers"]:
        program, group, name, *words = [*container["command"], *container.get("args", [])]
        assert (program, group) == ("samserve", "models")
        parsed = commands.commands[name].make_context(name, words)  # type: ignore[attr-defined]
        assert parsed.params, name


def test_a_cpu_variant_is_built_before_it_is_served(values: Path) -> None:
    (pod,) = part(rendered(values), "triton")
    steps = [each["name"] for each in pod.spec["initContainers"]]
    models = (yaml.safe_load(values.read_text()) or {}).get("models", [])
    for model in models:
        if model["variant"].startswith("cpu-"):
            step = f"quantise-{model['name']}"
            assert steps.index(step) < steps.index("repository")
            _, precision = pod.spec["initContainers"][steps.index(step)]["args"]
            assert precision in RECIPES
            assert variant_name(precision) == model["variant"]

    assert any(step.startswith("quantise-") for step in steps) == (
        values.stem in ("cpu-only", "everything")
    )

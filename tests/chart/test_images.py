"""The Dockerfiles and the compose file: users, pinned bases, packages and ports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import CHART, METRICS, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from samserve.infra.settings import (
    DecoderSettings,
    EdgeSettings,
    EmbeddingSettings,
    GatewaySettings,
)

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
every_image = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)


@dataclass(frozen=True, slots=True)
class Stage:
    """A build stage of a Dockerfile.

    Attributes:
        base: The image that FROM names.
        name: The name after AS, or empty.
        steps: The instructions after it, each a keyword and its arguments.
    """

    base: str
    name: str
    steps: list[tuple[str, str]]

    def all(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.steps if instruction == word]


def stages(file: Path) -> list[Stage]:
    parsed: list[Stage] = []
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            parsed.append(Stage(base, name, []))
        elif parsed:
            parsed[-1].steps.append((word, rest))

    return parsed


def extras(*names: str) -> set[str]:
    """Return the packages of samserve's extras, including those of nested extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    packages: set[str] = set()
    for requirement in (each for name in names for each in project[name]):
        inner = re.fullmatch(r"samserve\[(.*)\]", requirement)
        packages |= (
            extras(*inner[1].split(",")) if inner else {re.split(r"[\[<>=]", requirement)[0]}
        )

    return packages


def named_extras(file: Path) -> list[str]:
    """Return the extras of samserve that an image installs."""
    (install,) = [step for step in stages(file)[1].all("RUN") if "/wheels/" in step]
    named = re.search(r"whl\)\[([\w,]+)\]", install)
    assert named
    return named[1].split(",")


def installed_with(names: list[str]) -> set[str]:
    """Return all packages that these extras of samserve install, with their dependencies."""
    visited: set[tuple[str, str]] = set()
    waiting = [("samserve", extra) for extra in ["", *names]]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) not in visited:
            visited.add((name, extra))
            for each in map(Requirement, distribution(name).requires or []):
                if each.marker is None or each.marker.evaluate({"extra": extra}):
                    waiting += [
                        (canonicalize_name(each.name), inner) for inner in ["", *each.extras]
                    ]

    return {name for name, _ in visited}


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def test_there_is_an_image_for_each_part() -> None:
    digests = yaml.safe_load((CHART / "values.yaml").read_text())["images"]["digests"]
    assert {file.stem for file in DOCKERFILES} == digests.keys()


@every_image
def test_bases_are_pinned_by_version_and_accept_a_digest(file: Path) -> None:
    before = {stage.name for stage in stages(file)}
    for stage in stages(file):
        if stage.base not in before:
            assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*\$\{[A-Z]+_DIGEST\}", stage.base)

    assert re.findall(r"^ARG \w+_DIGEST=(.*)$", file.read_text(), re.MULTILINE) in ([""], ["", ""])


def test_images_share_the_wheel_and_the_python() -> None:
    first = [stages(file)[0] for file in DOCKERFILES]
    assert first.count(first[0]) == len(DOCKERFILES)
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    assert first[0].base.startswith(f"python:{python}.")


@every_image
def test_images_run_as_a_numeric_user_other_than_root(file: Path) -> None:
    last = stages(file)[-1]
    user, group = last.all("USER")[-1].split(":")

    assert int(user) > 0
    assert int(group) > 0

    words = [word for word, _ in last.steps]

    assert "RUN" not in words[words.index("USER") :]
    assert f"--uid {user} " in " ".join(last.all("RUN"))
    assert "HOME=/tmp" in " ".join(last.all("ENV"))


@every_image
def test_final_stages_have_no_build_tools(file: Path) -> None:
    for step in stages(file)[-1].all("RUN"):
        assert not re.search(r"\b(pip|apt|apt-get|gcc|g\+\+|curl|wget)\b", step)
    for stage in stages(file):
        for step in stage.all("RUN"):
            assert "apt-get" not in step or "rm -rf /var/lib/apt/lists" in step
            assert "pip install" not in step or "--no-cache-dir" in step


@every_image
def test_packages_are_installed_with_constraints(file: Path) -> None:
    (install,) = [step for step in stages(file)[1].all("RUN") if "/wheels/" in step]
    installs = re.findall(r"pip (?:--python \S+ )?install[^&]*", install)

    assert all(
        "--constraint constraints.txt" in each or "--require-hashes" in each
        for each in [*re.findall(r"pip [^&]*install[^&]*", install)]
    )
    assert installs
    assert ("--require-hashes" in install) == (file.stem != "triton")  # torch is in that one

    packages = extras(*named_extras(file))

    assert ("torch" in packages) == (file.stem == "triton")
    assert ("ray" in packages) == (file.stem == "embedding")
    assert ("onnxruntime" in packages) == (file.stem in ("decoder", "triton"))


# The modules that an image's programs import, at start or later.
PROGRAMS = {
    "decoder": ["samserve.decoder.server", "samserve.infra.otel"],
    "embedding": ["samserve.embedding.main", "samserve.embedding.app", "samserve.infra.otel"],
    "edge": ["samserve.edge.__main__", "samserve.edge.drain", "samserve.identity.server", "envoy"],
    "gateway": ["samserve.gateway.main", "samserve.infra.otel"],
    "triton": [
        "samserve.cli.main",
        "samserve.cli.variants",
        "samserve.export.download",
        "samserve.variants.engine",
        "samserve.export.onnx_files",
        "samserve.export.reference",
        "samserve.bundles.triton_repository",
        "onnxruntime.quantization",
        "openvino",
    ],
}
IMPORT = """
import importlib, json, sys, sysconfig
from importlib.machinery import PathFinder
absent, modules = map(json.loads, sys.argv[1:])
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        # Another package may bundle a copy, as ray does of psutil.
        if path is None and name in absent:
            path = [each for each in sys.path if each != sysconfig.get_path("purelib")]
        return PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
for module in modules:
    importlib.import_module(module)
"""


@every_image
def test_an_image_has_what_its_programs_import(file: Path) -> None:
    """All other packages of this environment are hidden from the import."""
    installed = installed_with(named_extras(file))
    absent = [
        module
        for module, packages in packages_distributions().items()
        if not installed & {canonicalize_name(package) for package in packages}
    ]

    assert "pytest" in absent

    command = [sys.executable, "-c", IMPORT, json.dumps(absent), json.dumps(PROGRAMS[file.stem])]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert process.returncode == 0, process.stderr[-2000:]


@every_image
def test_copied_files_exist_and_are_sent_to_docker(file: Path) -> None:
    sent = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for stage in stages(file):
        for step in stage.all("COPY"):
            if not step.startswith("--from="):
                for source in step.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert any(fnmatch(source, pattern) for pattern in sent), source


def test_images_expose_the_ports_of_the_settings() -> None:
    decoder, embedding = DecoderSettings.model_fields, EmbeddingSettings.model_fields
    gateway = GatewaySettings.model_fields
    expected = {
        "decoder": {decoder["decoder_port"].default, METRICS},
        "embedding": {embedding["embedding_port"].default, embedding["http_port"].default, METRICS},
        "gateway": {gateway["gateway_port"].default, METRICS},
        "edge": {EdgeSettings.model_fields["edge_port"].default, METRICS},
        "triton": {8000, 8001, 8002},
    }
    exposed = {
        file.stem: {int(port) for port in stages(file)[-1].all("EXPOSE")[0].split()}
        for file in DOCKERFILES
    }

    assert exposed == expected


def test_a_login_shell_finds_ray() -> None:
    """KubeRay starts Ray with `bash -lc`, whose /etc/profile resets the image's PATH."""
    steps = " ".join(stages(DEPLOY / "docker" / "embedding.Dockerfile")[-1].all("RUN"))
    assert "PATH=/opt/samserve/bin:$PATH' > /etc/profile.d/" in steps


def test_compose_builds_samserves_images_and_pins_the_others() -> None:
    for name, service in compose()["services"].items():
        if "build" in service:
            assert (
                DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]
            ).is_file(), name
            assert service["image"].endswith(":${VERSION}"), name
        else:
            assert (
                service["image"]
                == yaml.safe_load((CHART / "values.yaml").read_text())["redis"]["image"]
            )


def test_compose_defaults_to_the_projects_version_on_cpus() -> None:
    defaults = dict(
        line.split("=")
        for line in (DEPLOY / ".env").read_text().splitlines()
        if not line.startswith("#")
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert defaults == {"COMPOSE_PROFILES": "cpu", "MODEL": "nano", "VERSION": version}


def test_compose_gives_no_privileges() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_compose_limits_memory_cores_and_processes() -> None:
    for name, service in compose()["services"].items():
        assert service.keys() >= {"mem_limit", "cpus", "pids_limit"}, name
        assert all("size=" in folder for folder in service["tmpfs"]), name


def test_compose_connects_only_what_calls_each_other() -> None:
    content = compose()
    members: dict[str, set[str]] = {}
    for name, service in content["services"].items():
        for network in service.get("networks", []):
            members.setdefault(network, set()).add(name)

    assert members == {
        "cache": {"redis", "decoder", "embedding"},
        "encoder": {"triton", "triton-gpu", "embedding"},
        "services": {"decoder", "edge", "embedding", "gateway"},
        "downloads": {"models-gpu"},
    }
    assert content["services"]["models"]["network_mode"] == "none"
    for network in ("cache", "encoder"):
        assert content["networks"][network] == {"internal": True}


def test_compose_requires_a_password_for_redis() -> None:
    services = compose()["services"]
    assert services["redis"]["environment"]["CACHE_PASSWORD"].startswith("${CACHE_PASSWORD:?")
    for name in ("decoder", "embedding"):
        assert (
            services[name]["environment"]["REDIS_URL"] == "redis://:${CACHE_PASSWORD}@redis:6379/0"
        )


@every_image
def test_onnxruntimes_telemetry_is_off(file: Path) -> None:
    if "onnxruntime" in extras(*named_extras(file)):
        assert "ORT_DISABLE_TELEMETRY=1" in " ".join(stages(file)[-1].all("ENV"))


def test_the_decoder_needs_no_opencv() -> None:
    """Its libraries were a quarter of the image; of them it used two functions."""
    assert "opencv-python-headless" not in extras("decoder", "tracing")


def test_either_profile_of_compose_has_one_triton() -> None:
    services = compose()["services"]
    for profile in ("cpu", "gpu"):
        started = {
            name: each
            for name, each in services.items()
            if profile in each.get("profiles", [profile])
        }
        tritons = [
            each
            for each in started.values()
            if each.get("networks") == {"encoder": {"aliases": ["triton"]}}
        ]
        assert len(tritons) == 1
        assert ("gpus" in tritons[0]) == (profile == "gpu")
        for name, service in started.items():
            for needed, how in service.get("depends_on", {}).items():
                assert needed in started, name
                assert how.keys() == {"condition"}, name  # podman-compose knows no other


def test_compose_publishes_and_calls_the_ports_of_the_settings() -> None:
    services = compose()["services"]
    decoder, embedding = DecoderSettings.model_fields, EmbeddingSettings.model_fields
    gateway = GatewaySettings.model_fields
    ports = {
        "gateway": gateway["gateway_port"].default,
        "decoder": decoder["decoder_port"].default,
        "embedding": embedding["embedding_port"].default,
        "edge": EdgeSettings.model_fields["edge_port"].default,
    }
    for name, port in ports.items():
        assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert services[name]["environment"]["SAMSERVE_METRICS_PORT"] == str(METRICS)

    assert services["decoder"]["environment"]["EMBEDDING_URL"] == f"embedding:{ports['embedding']}"
    calls = services["gateway"]["environment"]
    assert calls["DECODER_URL"] == f"decoder:{ports['decoder']}"
    assert calls["EMBEDDING_URL"] == f"embedding:{ports['embedding']}"
    assert services["embedding"]["environment"]["TRITON_URL"] == "triton:8001"


def test_a_container_of_the_gateway_has_room_for_uploaded_files() -> None:
    """Files of forms are written to /tmp; all bodies together have a limit."""
    (folder,) = compose()["services"]["gateway"]["tmpfs"]
    megabytes = int(folder.partition("size=")[2].removesuffix("m"))
    assert megabytes * 2**20 > GatewaySettings.model_fields["max_bodies_bytes"].default

"""The chart, rendered by Helm's own engine, and what the tests ask of the manifests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "samserve"
VALUE_FILES = sorted((CHART / "ci").glob("*.yaml"))
RELEASE, NAMESPACE = "demo", "vision"
METRICS = 9464  # the port of our services' metrics, in images and chart

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodOf:
    """Pods that a manifest has made; owner: its kind and name."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.spec["containers"]
        return found

    @property
    def all_containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.containers]

    def port(self, named: str | int) -> int | None:
        """The number of a port, by its name or number, if a container has it."""
        for container in self.containers:
            for port in container.get("ports", []):
                if named in (port["name"], port["containerPort"]):
                    return int(port["containerPort"])
        return None


def render(values: dict[str, Any], chart: Path = CHART, release: str = RELEASE) -> list[Manifest]:
    """Render a release with these values.

    Raises:
        helm.HelmValuesError, helm.HelmRenderError: The chart refuses the values.
    """
    with helm.Chart.load(chart) as loaded:
        files = loaded.render(values, name=release, namespace=NAMESPACE)
    texts = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


@cache
def rendered(values: Path) -> list[Manifest]:
    """The manifests of one of the chart's own value files."""
    return render(yaml.safe_load(values.read_text()))


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template, with its owner's name."""
    for manifest in of_kind(manifests, "Deployment", "StatefulSet"):
        yield name_of(manifest), manifest["spec"]["template"]
    for manifest in of_kind(manifests, "RayService"):
        cluster = manifest["spec"]["rayClusterConfig"]
        yield f"{name_of(manifest)} head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{name_of(manifest)} {group['groupName']}", group["template"]


def pods(manifests: list[Manifest]) -> list[PodOf]:
    return [
        PodOf(owner, each["metadata"]["labels"], each["spec"])
        for owner, each in templates(manifests)
    ]


def part(manifests: list[Manifest], component: str) -> list[PodOf]:
    """The pods of triton, embedding, decoder or redis."""
    return [
        pod for pod in pods(manifests) if pod.labels["app.kubernetes.io/component"] == component
    ]


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def containers(values: Path) -> Iterator[tuple[str, PodOf, dict[str, Any]]]:
    """Every container, the init containers among them, with its name for people and its pod."""
    for pod in pods(rendered(values)):
        for container in pod.all_containers:
            yield f"{pod.owner} {container['name']}", pod, container


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container.get("env", [])}


def found(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from found(value, key)

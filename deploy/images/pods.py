"""Runs the chart's own pod templates with `podman kube play`.

podman is no kubelet. What it lacks is filled in here: Services (pods get their names), Secrets and
fields in variables, emptyDir as the kubelet makes it, subPath. Left out are ports, which podman
would publish on the host, and probes, which it runs inside the image. The embedding service's pod
is KubeRay's worker, with the image's own command in place of KubeRay's.
"""

from __future__ import annotations

import base64
import copy
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml
from engine import CannotRun, Engine

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "samserve"
VALUES = CHART / "ci" / "smallest.yaml"
RELEASE = "samserve-images"
NETWORK = "samserve-images"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """Render the chart as for one small node."""
    values = yaml.safe_load(VALUES.read_text())
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name=RELEASE, namespace="default")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def redis_image() -> str:
    """Return the image of the bundled Redis."""
    image = yaml.safe_load((CHART / "values.yaml").read_text())["redis"]["image"]
    return f"docker.io/{image}"


class Pods:
    """The pods of one release; use as a context manager, which removes them at the end."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.folder = engine.folder / "pods"
        self.memory = SHARED_MEMORY / f"{RELEASE}-{engine.folder.name}"
        self.rendered = manifests()
        self.secrets = {
            (each["metadata"]["name"], key): base64.b64decode(value).decode()
            for each in self.rendered
            if each["kind"] == "Secret"
            for key, value in each["data"].items()
        }

    def __enter__(self) -> Pods:
        self.remove()
        self.engine.run("podman", "network", "create", NETWORK)
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        for name in self.names():
            self.engine.ask("podman", "pod", "rm", "--force", "--time", "5", name)
        self.engine.ask("podman", "network", "rm", "--force", NETWORK)
        for folder in (self.folder, self.memory):
            shutil.rmtree(folder, ignore_errors=True)

    def templates(self) -> Iterator[tuple[str, Manifest]]:
        """The pod templates in the order of their start, by the names that others call."""
        by_component = {
            each["metadata"]["labels"]["app.kubernetes.io/component"]: each
            for each in self.rendered
            if each["kind"] in ("Deployment", "StatefulSet", "RayService")
        }
        for component in ("redis", "triton", "embedding", "decoder", "gateway", "edge"):
            workload = by_component[component]
            name = workload["metadata"]["name"]
            if component != "embedding":
                yield name, workload["spec"]["template"]
                continue

            group = workload["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
            yield f"{name}-serve-svc", group["template"]

    def names(self) -> list[str]:
        return [name for name, _ in self.templates()]

    def play(self) -> None:
        """Start all pods. Init containers have ended when podman returns."""
        for name, template in self.templates():
            file = self.folder / f"{name}.yaml"
            pod = self.adapted(name, template)
            file.write_text(yaml.safe_dump(pod, sort_keys=False))
            self.engine.run("podman", "kube", "play", "--quiet", "--network", NETWORK, file)

    def adapted(self, name: str, template: Manifest) -> Manifest:
        """Return a template as a pod for podman."""
        spec = copy.deepcopy(template["spec"])
        spec["restartPolicy"] = "OnFailure"  # with Always, podman restarts init containers too
        for field in ("affinity", "topologySpreadConstraints", "serviceAccountName"):
            spec.pop(field, None)

        if name.endswith("-serve-svc"):  # KubeRay adds this to Ray's pods
            spec["volumes"].append({"name": "shared-mem", "emptyDir": {"medium": "Memory"}})
            mounts = spec["containers"][0]["volumeMounts"]
            mounts.append({"name": "shared-mem", "mountPath": str(SHARED_MEMORY)})

        # Ordinary folders of mode 777, as the kubelet makes emptyDirs; one for each subPath.
        folders: dict[str, Path] = {}
        for volume in spec["volumes"]:
            in_memory = volume.pop("emptyDir").get("medium") == "Memory"
            folder = (self.memory if in_memory else self.folder) / name / volume["name"]
            folders[volume["name"]] = folder
            _make(folder)
            volume["hostPath"] = {"path": str(folder), "type": "Directory"}

        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            for field in ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle"):
                container.pop(field, None)
            for mount in container["volumeMounts"]:
                if sub_path := mount.pop("subPath", None):
                    own = f"{mount['name']}-{sub_path}"
                    folder = folders[mount["name"]].with_name(own)
                    if own not in folders:
                        folders[own] = _make(folder)
                        host = {"path": str(folder), "type": "Directory"}
                        spec["volumes"].append({"name": own, "hostPath": host})
                    mount["name"] = own
            self._resolve(container)

        metadata = {"name": name, "labels": template["metadata"]["labels"]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def _resolve(self, container: Manifest) -> None:
        """Replace Secrets, fields and $(VARIABLES), as the kubelet does."""
        variables: dict[str, str] = {}
        for each in container.get("env", []):
            source = each.pop("valueFrom", {})
            if secret := source.get("secretKeyRef"):
                each["value"] = self.secrets[secret["name"], secret["key"]]
            elif "fieldRef" in source:
                each["value"] = str(uuid.uuid4())
            each["value"] = _expanded(each["value"], variables)
            variables[each["name"]] = each["value"]

        for field in ("command", "args"):
            if field in container:
                container[field] = [_expanded(word, variables) for word in container[field]]

    def address(self, component: str) -> str:
        """Return the IP address of a pod."""
        name = next(name for name in self.names() if f"-{component}" in name)
        infra = self.engine.ask(
            "podman", "pod", "inspect", "--format", "{{.InfraContainerID}}", name
        )
        query = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        found = self.engine.ask("podman", "inspect", "--format", query, infra)
        if not found:
            raise CannotRun(f"the pod {name} has no address")
        return found

    def confinement(self) -> dict[str, str]:
        """Return for each pod how its first process is confined, from /proc."""
        report = {}
        for name, template in self.templates():
            container = f"{name}-{template['spec']['containers'][0]['name']}"
            pid = self.engine.ask("podman", "inspect", "--format", "{{.State.Pid}}", container)
            status = Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            report[name] = (
                f"uid {fields['Uid'].split()[0]}, "
                f"capabilities {fields['CapBnd'].lstrip('0') or 'none'}, "
                f"no new privileges {fields['NoNewPrivs']}, seccomp {fields['Seccomp']}"
            )
        return report


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    return folder


def _expanded(text: str, variables: dict[str, str]) -> str:
    def value(name: re.Match[str]) -> str:
        return variables.get(name[1], name[0])

    return re.sub(r"\$\(([A-Z_]+)\)", value, text)

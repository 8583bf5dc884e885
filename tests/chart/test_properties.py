"""Properties that hold for every release, with any values."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import (
    VALUE_FILES,
    containers,
    environment,
    found,
    name_of,
    of_kind,
    part,
    pods,
    rendered,
    selects,
    templates,
)

pytestmark = pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)

EXTERNAL = {  # objects that the value files expect to exist
    "Secret": {"cache", "edge-tls", "keys", "label-studio", "ray-state", "registry"},
    "PersistentVolumeClaim": {"models"},
    "ConfigMap": {"kube-root-ca.crt", "own-ca"},
    "ServiceAccount": {"gpu-jobs"},
}


def seconds_before_the_end(container: dict[str, Any]) -> int:
    hook: dict[str, Any] = container.get("lifecycle", {}).get("preStop", {})
    return int(hook.get("sleep", {}).get("seconds", 0))


# Privileges


def test_no_container_can_gain_privileges(values: Path) -> None:
    autoscaler = of_kind(rendered(values), "RayService")[0]["spec"]["rayClusterConfig"][
        "autoscalerOptions"
    ]
    checked = [*containers(values), ("autoscaler", pods(rendered(values))[0], autoscaler)]

    assert len(checked) > 5

    for name, _, container in checked:
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert "privileged" not in security, name


def test_no_pod_runs_as_root_or_has_a_token(values: Path) -> None:
    for pod in pods(rendered(values)):
        assert pod.spec["securityContext"]["runAsNonRoot"] is True, pod.owner
        assert pod.spec["securityContext"].get("runAsUser", 10001) > 0, pod.owner
        assert pod.spec["automountServiceAccountToken"] is False, pod.owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.owner
    for account in of_kind(rendered(values), "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_volumes_are_allowed_for_restricted_pods(values: Path) -> None:
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    for pod in pods(rendered(values)):
        for volume in pod.spec.get("volumes", []):
            assert volume.keys() - {"name"} <= allowed, pod.owner


def test_only_rays_autoscaler_gets_a_token(values: Path) -> None:
    mounts = [
        mount["name"]
        for _, _, container in containers(values)
        for mount in container.get("volumeMounts", [])
    ]
    cluster = of_kind(rendered(values), "RayService")[0]["spec"]["rayClusterConfig"]

    assert "token" not in mounts
    assert "token" in [mount["name"] for mount in cluster["autoscalerOptions"]["volumeMounts"]]
    assert "token" in [
        volume["name"] for volume in cluster["headGroupSpec"]["template"]["spec"]["volumes"]
    ]


def test_secrets_are_only_in_the_generated_secret(values: Path) -> None:
    manifests = rendered(values)
    secrets = of_kind(manifests, "Secret")
    generated = {
        b64decode(value).decode() for secret in secrets for value in secret["data"].values()
    }
    text = json.dumps([each for each in manifests if each["kind"] != "Secret"])

    assert all(len(value) >= 40 and value.isalnum() for value in generated)
    assert not [value for value in generated if value in text]

    for name, _, container in containers(values):
        for variable, value in environment(container).items():
            assert value is None or not re.search("PASSWORD|SECRET", variable), name
        words = [*container.get("command", []), *container.get("args", [])]
        assert not [word for word in words if "$(CACHE_PASSWORD)" in word], name


def test_redis_has_a_password_and_entries_a_key(values: Path) -> None:
    manifests = rendered(values)
    for pod in (*part(manifests, "decoder"), *part(manifests, "embedding")):
        variables = {each["name"]: each for each in pod.containers[0]["env"]}
        assert "secretKeyRef" in variables["SAMSERVE_CACHE_SECRET"]["valueFrom"], pod.owner
        url = variables["REDIS_URL"]
        assert "valueFrom" in url or ":$(CACHE_PASSWORD)@" in url["value"], pod.owner

    for pod in part(manifests, "redis"):
        (password,) = pod.containers[0]["env"]
        assert password["name"] == "CACHE_PASSWORD"
        assert "secretKeyRef" in password["valueFrom"]
        assert "--protected-mode" not in pod.containers[0]["args"]


# Resources and probes


def test_every_container_has_requests_and_limits(values: Path) -> None:
    for name, _, container in containers(values):
        for amounts in ("requests", "limits"):
            expected = {"cpu", "memory", "ephemeral-storage"}
            assert container["resources"][amounts].keys() >= expected, f"{name}: {amounts}"


def mebibytes(quantity: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * {"Mi": 1, "Gi": 1024}[unit]


def test_a_container_may_fill_its_volumes_before_it_is_evicted(values: Path) -> None:
    for pod in pods(rendered(values)):
        volumes = [volume.get("emptyDir", {"medium": "other"}) for volume in pod.spec["volumes"]]
        on_disk = [volume for volume in volumes if volume.get("medium") is None]
        assert all("sizeLimit" in volume for volume in on_disk), pod.owner
        needed = sum(mebibytes(volume["sizeLimit"]) for volume in on_disk)
        limit = pod.containers[0]["resources"]["limits"]["ephemeral-storage"]
        assert mebibytes(limit) > needed, pod.owner


def test_every_container_is_probed_on_its_own_port(values: Path) -> None:
    for pod in pods(rendered(values)):
        for container in pod.containers:
            for kind in ("readinessProbe", "livenessProbe"):
                probe = container[kind]
                how = next(iter(probe.keys() & {"grpc", "httpGet", "tcpSocket"}))
                port = probe[how]["port"]
                is_ray_agent = port == 52365
                assert pod.port(port) is not None or is_ray_agent, f"{pod.owner}: {kind}"


def test_only_triton_and_its_init_containers_get_the_gpu(values: Path) -> None:
    gpu = yaml.safe_load(values.read_text()).get("triton", {}).get("gpu", {})
    named = gpu.get("resource", "nvidia.com/gpu")
    with_gpu = {
        container["name"].split("-")[0]
        for _, _, container in containers(values)
        if named in container["resources"]["limits"]
    }
    engines = any(
        name.startswith("Deployment/") and " engine-" in name for name, _, _ in containers(values)
    )
    expected = {"triton", "repository", *(["engine"] if engines else [])}

    assert with_gpu == (expected if gpu.get("enabled", True) else set())


def test_ray_pods_have_room_for_all_replicas(values: Path) -> None:
    ray = of_kind(rendered(values), "RayService")[0]["spec"]
    deployment = yaml.safe_load(ray["serveConfigV2"])["applications"][0]["deployments"][0]
    (group,) = ray["rayClusterConfig"]["workerGroupSpecs"]
    cpus = float(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    room = cpus // deployment["ray_actor_options"]["num_cpus"]

    assert room * group["minReplicas"] >= deployment["autoscaling_config"]["min_replicas"]
    assert room * group["maxReplicas"] >= deployment["autoscaling_config"]["max_replicas"]


# Termination


def test_the_grace_period_is_longer_than_hook_and_drain(values: Path) -> None:
    (decoder,) = part(rendered(values), "decoder")
    container = decoder.containers[0]
    variables = environment(container)
    drain = float(variables["SAMSERVE_DRAIN_S"])
    longest = float(variables["SAMSERVE_EMBED_TIMEOUT_S"])

    assert longest < drain
    assert seconds_before_the_end(container) + drain < decoder.spec["terminationGracePeriodSeconds"]

    for gateway in part(rendered(values), "gateway"):
        container = gateway.containers[0]
        variables = environment(container)
        drain = float(variables["SAMSERVE_DRAIN_S"])
        assert float(variables["SAMSERVE_CALL_TIMEOUT_S"]) < drain
        assert float(variables["SAMSERVE_SWEEP_TIMEOUT_S"]) < drain
        before = seconds_before_the_end(container)
        assert before + drain < gateway.spec["terminationGracePeriodSeconds"]

    for pod in pods(rendered(values)):
        before = max(seconds_before_the_end(container) for container in pod.containers)
        assert before < pod.spec.get("terminationGracePeriodSeconds", 30), pod.owner


@pytest.mark.parametrize("component", ["decoder", "gateway"])
def test_pods_are_removed_one_at_a_time_and_slower_than_they_drain(
    values: Path, component: str
) -> None:
    for pod in part(rendered(values), component):
        drain = float(environment(pod.containers[0])["SAMSERVE_DRAIN_S"])
        for scaler in of_kind(rendered(values), "HorizontalPodAutoscaler"):
            if scaler["spec"]["scaleTargetRef"]["name"].endswith(f"-{component}"):
                (policy,) = scaler["spec"]["behavior"]["scaleDown"]["policies"]
                assert (policy["type"], policy["value"]) == ("Pods", 1)
                assert policy["periodSeconds"] > drain


def test_a_deployment_with_an_autoscaler_sets_no_replicas(values: Path) -> None:
    manifests = rendered(values)
    scaled = {
        scaler["spec"]["scaleTargetRef"]["name"]
        for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject")
    }
    deployments = {each["metadata"]["name"]: each for each in of_kind(manifests, "Deployment")}

    assert scaled <= deployments.keys()

    for name, deployment in deployments.items():
        assert ("replicas" in deployment["spec"]) == (name not in scaled), name


# Names and selectors


def test_every_service_selects_pods_with_its_ports(values: Path) -> None:
    manifests = rendered(values)
    for service in of_kind(manifests, "Service"):
        selected = [
            pod for pod in pods(manifests) if selects(service["spec"]["selector"], pod.labels)
        ]
        assert len(selected) == 1, name_of(service)
        for port in service["spec"]["ports"]:
            assert selected[0].port(port["targetPort"]) == port["port"], name_of(service)


def test_every_other_selector_matches_pods(values: Path) -> None:
    manifests = rendered(values)
    selectors = [
        (each, each["spec"]["selector"]["matchLabels"])
        for each in of_kind(manifests, "PodDisruptionBudget", "PodMonitor")
    ]
    selectors += [
        (each, each["spec"]["podSelector"]["matchLabels"])
        for each in of_kind(manifests, "NetworkPolicy")
    ]
    for manifest, selector in selectors:
        assert any(selects(selector, pod.labels) for pod in pods(manifests)), name_of(manifest)

    for pod in pods(manifests):
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            assert selects(constraint["labelSelector"]["matchLabels"], pod.labels), pod.owner

    services = of_kind(manifests, "Service")
    for monitor in of_kind(manifests, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [each for each in services if selects(wanted, each["metadata"]["labels"])]
        named = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= named

    for monitor in of_kind(manifests, "PodMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        selected = [pod for pod in pods(manifests) if selects(wanted, pod.labels)]
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert any(pod.port(endpoint["port"]) for pod in selected), endpoint


def test_selectors_are_stable_across_upgrades(values: Path) -> None:
    changing = {"app.kubernetes.io/version", "helm.sh/chart"}
    for manifest in rendered(values):
        for key in ("matchLabels", "selector"):
            for selector in found(manifest.get("spec", {}), key):
                assert not changing & selector.keys(), name_of(manifest)

    for pod in pods(rendered(values)):
        # A new version of the chart alone must not replace pods.
        assert not changing & pod.labels.keys(), pod.owner


def test_kubernetes_labels_are_on_everything(values: Path) -> None:
    standard = {"name", "instance", "version", "component", "part-of", "managed-by"}
    for manifest in rendered(values):
        assert {f"app.kubernetes.io/{label}" for label in standard} <= manifest["metadata"][
            "labels"
        ].keys()


def test_ray_pods_do_not_override_kuberays_name_label(values: Path) -> None:
    """KubeRay's Services select app.kubernetes.io/name=kuberay; the chart must not replace it."""
    ray = part(rendered(values), "embedding")
    assert len(ray) == 2
    assert all("app.kubernetes.io/name" not in pod.labels for pod in ray)


def test_every_reference_exists(values: Path) -> None:
    manifests = rendered(values)
    existing = {
        kind: {each["metadata"]["name"] for each in of_kind(manifests, kind)}
        | EXTERNAL.get(kind, set())
        for kind in ("Secret", "ConfigMap", "PersistentVolumeClaim", "ServiceAccount")
    }
    named = {
        "Secret": [each["name"] for each in found(manifests, "secretKeyRef")]
        + [each["name"] for secrets in found(manifests, "imagePullSecrets") for each in secrets],
        "ConfigMap": [each["name"] for each in found(manifests, "configMap")],
        "PersistentVolumeClaim": [
            each["claimName"] for each in found(manifests, "persistentVolumeClaim")
        ],
        "ServiceAccount": list(found(manifests, "serviceAccountName")),
    }
    for kind, names in named.items():
        assert set(names) <= existing[kind], kind

    created = {each["metadata"]["name"] for each in of_kind(manifests, "ServiceAccount")}
    assert created <= set(named["ServiceAccount"])

    for pod in pods(manifests):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        for container in pod.all_containers:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, (
                pod.owner
            )


# Values of the parts


def test_values_of_a_part_reach_its_pods(values: Path) -> None:
    given = yaml.safe_load(values.read_text()) or {}
    for component in ("triton", "embedding", "decoder", "gateway", "edge", "redis"):
        own = given.get(component, {})
        for owner, template in templates(rendered(values)):
            labels = template["metadata"]["labels"]
            if labels["app.kubernetes.io/component"] != component:
                continue

            spec = template["spec"]
            assert labels.items() >= own.get("podLabels", {}).items(), owner
            assert template["metadata"].get("annotations", {}) == own.get("podAnnotations", {})
            assert spec.get("affinity", {}) == own.get("affinity", {}), owner
            assert spec.get("priorityClassName", "") == own.get("priorityClassName", ""), owner
            assert all(volume in spec["volumes"] for volume in own.get("extraVolumes", []))
            mounts = spec["containers"][0]["volumeMounts"]
            assert all(mount in mounts for mount in own.get("extraVolumeMounts", [])), owner
            account = own.get("serviceAccount", {}).get("name")
            assert account in (None, spec["serviceAccountName"]), owner


def test_user_ids_can_be_left_to_the_cluster(values: Path) -> None:
    ids = {"runAsUser", "runAsGroup", "fsGroup"}
    for pod in pods(rendered(values)):
        fixed = ids & pod.spec["securityContext"].keys()
        assert fixed == (set() if values.stem == "openshift" else ids), pod.owner


def test_a_download_uses_its_mirror_and_proxy(values: Path) -> None:
    (triton,) = part(rendered(values), "triton")
    pulls = [each for each in triton.all_containers if each["name"].startswith("pull-")]
    others = [each for each in triton.all_containers if not each["name"].startswith("pull-")]
    given = yaml.safe_load(values.read_text()) or {}
    proxy = given.get("triton", {}).get("pullVariables", {})
    mirrors = [model["url"] for model in given.get("models", []) if model.get("url")]

    assert [each["args"][1] for each in pulls if "args" in each] == mirrors
    assert all(environment(each).items() >= proxy.items() for each in pulls)
    assert not any(environment(each).keys() & proxy.keys() for each in others)


def test_a_service_with_one_address_has_no_metrics(values: Path) -> None:
    for service in of_kind(rendered(values), "Service"):
        if service["spec"].get("clusterIP") != "None":
            component = service["metadata"]["labels"]["app.kubernetes.io/component"]
            expected = {"decoder-public": ["grpc"], "gateway": ["http"], "edge": ["public"]}[
                component
            ]
            assert [port["name"] for port in service["spec"]["ports"]] == expected


def test_evictions_leave_all_ray_workers_but_one(values: Path) -> None:
    manifests = rendered(values)
    ray = of_kind(manifests, "RayService")[0]["spec"]["rayClusterConfig"]
    least = ray["workerGroupSpecs"][0]["minReplicas"]
    budgets = [
        each["spec"]["minAvailable"]
        for each in of_kind(manifests, "PodDisruptionBudget")
        if each["metadata"]["name"].endswith("-embedding-workers")
    ]
    assert budgets == ([least - 1] if least > 1 else [])


def test_ray_requires_its_token(values: Path) -> None:
    ray = of_kind(rendered(values), "RayService")[0]["spec"]["rayClusterConfig"]
    assert ray["authOptions"] == {"mode": "token"}

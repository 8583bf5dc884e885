"""Properties that hold for every release, with any values."""

from __future__ import annotations

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
)

pytestmark = pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)

EXTERNAL = {  # objects that the value files expect to exist
    "Secret": {"cache", "ray-state", "registry"},
    "PersistentVolumeClaim": {"models"},
    "ConfigMap": {"kube-root-ca.crt"},
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
        assert pod.spec["securityContext"]["runAsUser"] > 0, pod.owner
        assert pod.spec["automountServiceAccountToken"] is False, pod.owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.owner
    for account in of_kind(rendered(values), "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_volumes_are_allowed_for_restricted_pods(values: Path) -> None:
    allowed = {"emptyDir", "persistentVolumeClaim", "projected"}
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


def test_no_secret_is_rendered(values: Path) -> None:
    assert of_kind(rendered(values), "Secret") == []
    for name, _, container in containers(values):
        for variable, value in environment(container).items():
            assert value is None or "PASSWORD" not in variable, name


# Resources and probes


def test_every_container_has_requests_and_limits(values: Path) -> None:
    for name, _, container in containers(values):
        for amounts in ("requests", "limits"):
            assert container["resources"][amounts].keys() >= {"cpu", "memory"}, f"{name}: {amounts}"


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

    for pod in pods(rendered(values)):
        before = max(seconds_before_the_end(container) for container in pod.containers)
        assert before < pod.spec.get("terminationGracePeriodSeconds", 30), pod.owner


def test_decoders_scale_down_one_at_a_time_and_slower_than_they_drain(values: Path) -> None:
    (decoder,) = part(rendered(values), "decoder")
    drain = float(environment(decoder.containers[0])["SAMSERVE_DRAIN_S"])
    for scaler in of_kind(rendered(values), "HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"].endswith("-decoder"):
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
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert any(pod.port(endpoint["port"]) for pod in part(manifests, "embedding")), endpoint


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

    assert set(named["ServiceAccount"]) == existing["ServiceAccount"]

    for pod in pods(manifests):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        for container in pod.all_containers:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, (
                pod.owner
            )

"""The chart's environment variables are settings, and its addresses and ports match."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from manifests import METRICS, VALUE_FILES, containers, environment, found, of_kind, part, rendered
from samserve.infra.settings import (
    DecoderSettings,
    EdgeSettings,
    EmbeddingSettings,
    GatewaySettings,
    IdentitySettings,
)

pytestmark = pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)

SETTINGS = {
    str(field.validation_alias.choices[0]) if field.validation_alias else f"SAMSERVE_{name.upper()}"
    for settings in (
        DecoderSettings,
        EdgeSettings,
        EmbeddingSettings,
        GatewaySettings,
        IdentitySettings,
    )
    for name, field in settings.model_fields.items()
}
OTHERS = {  # variables of other programs
    "CACHE_PASSWORD",
    "SAMSERVE_CACHE_SECRET",
    "HOME",
    "POD_UID",
    "PROMETHEUS_MULTIPROC_DIR",
    "RAY_LOG_TO_STDERR",
    "RAY_SERVE_ENABLE_HA_PROXY",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
    "RAY_USAGE_STATS_ENABLED",
}
KUBERAY_SERVICES = {  # created by the operator
    "demo-samserve-embedding-serve-svc",
    "segment-embedding-serve-svc",
}


def test_every_variable_is_a_setting(values: Path) -> None:
    for name, _, container in containers(values):
        own = (yaml.safe_load(values.read_text()) or {}).get("triton", {}).get("pullVariables", {})
        assert environment(container).keys() <= SETTINGS | OTHERS | own.keys(), name


def test_pods_listen_on_the_ports_that_callers_use(values: Path) -> None:
    """Ports have the settings' defaults; pods listen on all interfaces, not only on loopback."""
    manifests = rendered(values)
    decoder, embedding = DecoderSettings.model_fields, EmbeddingSettings.model_fields
    (pod,) = part(manifests, "decoder")
    variables = environment(pod.containers[0])
    everywhere = "::" if values.stem == "openshift" else "0.0.0.0"  # noqa: S104

    assert variables["SAMSERVE_HOST"] == everywhere
    assert pod.port("grpc") == decoder["decoder_port"].default
    assert pod.port("metrics") == int(variables["SAMSERVE_METRICS_PORT"]) == METRICS

    for gateway in part(manifests, "gateway"):
        variables = environment(gateway.containers[0])
        assert variables["SAMSERVE_HOST"] == everywhere
        assert gateway.port("http") == GatewaySettings.model_fields["gateway_port"].default
        assert gateway.port("metrics") == int(variables["SAMSERVE_METRICS_PORT"]) == METRICS

    for edge in part(manifests, "edge"):
        assert environment(edge.containers[0])["SAMSERVE_HOST"] == everywhere
        assert edge.port("public") == EdgeSettings.model_fields["edge_port"].default
        assert edge.port("metrics") == METRICS

    for ray in part(manifests, "embedding"):
        assert ray.port("serve-grpc") == embedding["embedding_port"].default
        assert ray.port("serve") == embedding["http_port"].default
        assert environment(ray.containers[0])["SAMSERVE_HOST"] == everywhere

    worker = part(manifests, "embedding")[1]

    assert (
        worker.port("app-metrics")
        == int(environment(worker.containers[0])["SAMSERVE_METRICS_PORT"])
        == METRICS
    )

    config = yaml.safe_load(of_kind(manifests, "RayService")[0]["spec"]["serveConfigV2"])

    assert config["grpc_options"]["port"] == worker.port("serve-grpc")
    assert config["http_options"] == {"host": everywhere, "port": worker.port("serve")}

    (triton,) = part(manifests, "triton")
    for name in ("http", "grpc", "metrics"):
        assert f"--{name}-port={triton.port(name)}" in triton.containers[0]["args"]


def test_ray_does_not_get_the_caches_password(values: Path) -> None:
    """KubeRay sets REDIS_PASSWORD for Ray's own Redis and rejects a head that has it already."""
    for ray in part(rendered(values), "embedding"):
        assert not {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & environment(ray.containers[0]).keys()


def test_addresses_match_services(values: Path) -> None:
    manifests = rendered(values)
    services = {
        each["metadata"]["name"]: each["spec"]["ports"] for each in of_kind(manifests, "Service")
    }
    ray = part(manifests, "embedding")[1]
    addresses = ("REDIS_URL", "TRITON_URL", "EMBEDDING_URL", "DECODER_URL")
    for _, _, container in containers(values):
        for variable, value in environment(container).items():
            if variable in addresses and value:
                address = value.removeprefix("dns:///").split("://")[-1]
                host, port = address.split("@")[-1].split("/")[0].split(":")
                if host in KUBERAY_SERVICES:
                    assert ray.port("serve-grpc") == int(port)
                else:
                    assert int(port) in [each["port"] for each in services[host]], variable


def test_the_cache_is_bounded_and_evicts(values: Path) -> None:
    for pod in part(rendered(values), "redis"):
        arguments = pod.containers[0]["args"]
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        limit = pod.containers[0]["resources"]["limits"]["memory"]
        assert options["--maxmemory-policy"] == "allkeys-lru"
        assert int(options["--maxmemory"].removesuffix("mb")) < int(limit.removesuffix("Mi"))
        assert options["--save"] == ""
        assert options["--appendonly"] == "no"


def test_triton_serves_the_models_of_the_services(values: Path) -> None:
    manifests = rendered(values)
    (triton,), (decoder,) = part(manifests, "triton"), part(manifests, "decoder")
    repository = next(each for each in triton.all_containers if each["name"] == "repository")
    models = [model.removesuffix(":here") for model in repository["args"][1::2]]
    for pod in (decoder, *part(manifests, "embedding")):
        assert environment(pod.containers[0])["SAMSERVE_MODELS"] == ",".join(models), pod.owner


def test_the_adapter_provides_the_autoscalers_metrics(values: Path) -> None:
    manifests = rendered(values)
    wanted = {each["metric"]["name"] for each in found(manifests, "pods")}
    wanted |= {each["metric"]["name"] for each in found(manifests, "external") if "metric" in each}
    provided: set[str] = set()
    for config in of_kind(manifests, "ConfigMap"):
        if config["metadata"]["name"].endswith("-adapter-rules"):
            rules = yaml.safe_load(config["data"]["config.yaml"])
            provided |= {rule["seriesQuery"].partition("{")[0] for rule in rules["rules"]}
            provided |= {rule["name"]["as"] for rule in rules["externalRules"]}

    assert wanted <= provided


def test_open_streams_do_not_count_as_clicks(values: Path) -> None:
    """An idle stream is an RPC in progress too, but needs no decoder."""
    for config in of_kind(rendered(values), "ConfigMap"):
        if config["metadata"]["name"].endswith("-adapter-rules"):
            (rule,) = yaml.safe_load(config["data"]["config.yaml"])["rules"]
            assert 'method!="Interact"' in rule["metricsQuery"]

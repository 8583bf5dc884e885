"""What the chart tells the programs is what they understand, and where they are is where others look for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from manifests import METRICS, VALUE_FILES, containers, environment, found, of_kind, part, rendered
from samserve.infra.settings import DecoderSettings, EmbeddingSettings

pytestmark = pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)

SETTINGS = {
    str(field.validation_alias.choices[0]) if field.validation_alias else f"SAMSERVE_{name.upper()}"
    for settings in (DecoderSettings, EmbeddingSettings)
    for name, field in settings.model_fields.items()
}
OTHERS = {  # variables of programs that are not ours
    "CACHE_PASSWORD",
    "HOME",
    "PROMETHEUS_MULTIPROC_DIR",
    "RAY_LOG_TO_STDERR",
    "RAY_SERVE_ENABLE_HA_PROXY",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD",
    "RAY_USAGE_STATS_ENABLED",
}
KUBERAYS = {
    "demo-samserve-embedding-serve-svc",
    "segment-embedding-serve-svc",
}  # Services that its operator makes


def test_every_variable_is_a_setting(values: Path) -> None:
    for name, _, container in containers(values):
        assert environment(container).keys() <= SETTINGS | OTHERS, name


def test_pods_listen_where_they_are_reached(values: Path) -> None:
    """Ports are the settings' defaults; the interface is every one, not the loopback that settings begin with."""
    manifests = rendered(values)
    decoder, embedding = DecoderSettings.model_fields, EmbeddingSettings.model_fields
    (pod,) = part(manifests, "decoder")
    told = environment(pod.containers[0])
    assert told["SAMSERVE_HOST"] == "0.0.0.0"  # noqa: S104
    assert pod.port("grpc") == decoder["decoder_port"].default
    assert pod.port("metrics") == int(told["SAMSERVE_METRICS_PORT"]) == METRICS
    for ray in part(manifests, "embedding"):
        assert ray.port("serve-grpc") == embedding["embedding_port"].default
        assert ray.port("serve") == embedding["http_port"].default
        assert environment(ray.containers[0])["SAMSERVE_HOST"] == "0.0.0.0"  # noqa: S104
    worker = part(manifests, "embedding")[1]
    assert (
        worker.port("app-metrics")
        == int(environment(worker.containers[0])["SAMSERVE_METRICS_PORT"])
        == METRICS
    )
    config = yaml.safe_load(of_kind(manifests, "RayService")[0]["spec"]["serveConfigV2"])
    assert config["grpc_options"]["port"] == worker.port("serve-grpc")
    assert config["http_options"] == {"host": "0.0.0.0", "port": worker.port("serve")}  # noqa: S104
    (triton,) = part(manifests, "triton")
    for name in ("http", "grpc", "metrics"):
        assert f"--{name}-port={triton.port(name)}" in triton.containers[0]["args"]


def test_the_caches_password_is_not_taken_for_rays(values: Path) -> None:
    """KubeRay gives Ray the password of a Redis of its own in REDIS_PASSWORD, and refuses a head that has one."""
    for ray in part(rendered(values), "embedding"):
        assert not {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & environment(ray.containers[0]).keys()


def test_addresses_lead_to_services(values: Path) -> None:
    manifests = rendered(values)
    services = {
        each["metadata"]["name"]: each["spec"]["ports"] for each in of_kind(manifests, "Service")
    }
    ray = part(manifests, "embedding")[1]
    for _, _, container in containers(values):
        for variable, value in environment(container).items():
            if variable in ("REDIS_URL", "TRITON_URL", "EMBEDDING_URL") and value:
                host, port = value.split("://")[-1].split("@")[-1].split("/")[0].split(":")
                if host in KUBERAYS:
                    assert ray.port("serve-grpc") == int(port)
                else:
                    assert int(port) in [each["port"] for each in services[host]], variable


def test_the_cache_is_bounded_and_evicts(values: Path) -> None:
    for pod in part(rendered(values), "redis"):
        arguments = pod.containers[0]["args"]
        told = dict(zip(arguments[::2], arguments[1::2], strict=True))
        limit = pod.containers[0]["resources"]["limits"]["memory"]
        assert told["--maxmemory-policy"] == "allkeys-lru"
        assert int(told["--maxmemory"].removesuffix("mb")) < int(limit.removesuffix("Mi"))
        assert told["--save"] == ""
        assert told["--appendonly"] == "no"


def test_triton_serves_the_models_that_the_services_name(values: Path) -> None:
    manifests = rendered(values)
    (triton,), (decoder,) = part(manifests, "triton"), part(manifests, "decoder")
    repository = next(each for each in triton.all_containers if each["name"] == "repository")
    models = [model.removesuffix(":here") for model in repository["args"][1::2]]
    for pod in (decoder, *part(manifests, "embedding")):
        assert environment(pod.containers[0])["SAMSERVE_MODELS"] == ",".join(models), pod.owner


def test_autoscalers_ask_for_metrics_that_the_adapter_is_told_to_make(values: Path) -> None:
    manifests = rendered(values)
    wanted = {each["metric"]["name"] for each in found(manifests, "pods")}
    wanted |= {each["metric"]["name"] for each in found(manifests, "external") if "metric" in each}
    made: set[str] = set()
    for config in of_kind(manifests, "ConfigMap"):
        if config["metadata"]["name"].endswith("-adapter-rules"):
            rules = yaml.safe_load(config["data"]["config.yaml"])
            made |= {rule["seriesQuery"].partition("{")[0] for rule in rules["rules"]}
            made |= {rule["name"]["as"] for rule in rules["externalRules"]}
    assert wanted <= made


def test_open_streams_are_not_taken_for_clicks(values: Path) -> None:
    """A stream that rests is an RPC in progress too, and needs no decoder."""
    for config in of_kind(rendered(values), "ConfigMap"):
        if config["metadata"]["name"].endswith("-adapter-rules"):
            (rule,) = yaml.safe_load(config["data"]["config.yaml"])["rules"]
            assert 'method!="Interact"' in rule["metricsQuery"]

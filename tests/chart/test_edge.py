"""The edge's part of the chart and of compose: Envoy accepts what each set of values makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from envoys import complaints, edge_settings
from manifests import (
    CHART,
    ROOT,
    VALUE_FILES,
    environment,
    name_of,
    of_kind,
    part,
    render,
    rendered,
)
from samserve.infra.settings import DecoderSettings, EdgeSettings, IdentitySettings
from samserve.local.certificates import CERTIFICATE, KEY, write_certificates

EVERYTHING = CHART / "ci" / "everything.yaml"


def accepted(variables: dict[str, object], folder: Path) -> str:
    """What Envoy says against the configuration of a container; certificates are made up."""
    own = {name: value for name, value in variables.items() if value is not None}
    if "SAMSERVE_EDGE_CERT_FILE" in own:
        write_certificates(folder)
        own |= {
            "SAMSERVE_EDGE_CERT_FILE": folder / CERTIFICATE,
            "SAMSERVE_EDGE_KEY_FILE": folder / KEY,
        }
    return complaints(edge_settings(**own), folder)


@pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)
def test_envoy_accepts_the_configuration_of_every_value_set(values: Path, tmp_path: Path) -> None:
    (edge,) = part(rendered(values), "edge")
    assert accepted(environment(edge.containers[0]), tmp_path) == ""


def test_envoy_accepts_the_configuration_of_compose(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert accepted(compose["services"]["edge"]["environment"], tmp_path) == ""


@pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)
def test_the_edge_refuses_calls_before_its_memory_is_full(values: Path) -> None:
    (edge,) = part(rendered(values), "edge")
    limit = int(edge.containers[0]["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    assert int(environment(edge.containers[0])["SAMSERVE_EDGE_HEAP_BYTES"]) <= 0.75 * limit


@pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)
def test_a_pod_drains_before_it_is_killed(values: Path) -> None:
    (edge,) = part(rendered(values), "edge")
    command = edge.containers[0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:-1] == ["python", "-m", "samserve.edge.drain"]
    assert int(command[-1]) < edge.spec["terminationGracePeriodSeconds"]


def test_an_idle_stream_outlives_a_decoders() -> None:
    """The decoder ends streams with a reason; the edge could only break them off."""
    longest = DecoderSettings.model_fields["max_stream_s"].default
    assert EdgeSettings.model_fields["edge_stream_idle_s"].default > longest


def test_with_keys_every_service_knows_the_edge_by_its_secret() -> None:
    manifests = rendered(EVERYTHING)
    for component in ("decoder", "embedding", "gateway"):
        for pod in part(manifests, component):
            assert "SAMSERVE_EDGE_SECRET" in environment(pod.containers[0]), component
    (edge,) = part(manifests, "edge")
    (authoriser,) = edge.spec["initContainers"]
    assert authoriser["restartPolicy"] == "Always"
    variables = environment(authoriser)
    assert variables["SAMSERVE_HOST"] == "127.0.0.1"
    assert {"SAMSERVE_KEYS_URL", "SAMSERVE_KEY_PEPPER", "SAMSERVE_EDGE_SECRET"} <= variables.keys()
    port = IdentitySettings.model_fields["identity_port"].default
    assert environment(edge.containers[0])["SAMSERVE_EDGE_AUTHORISATION"] == f"127.0.0.1:{port}"


def test_without_keys_no_service_expects_a_secret() -> None:
    assert "SAMSERVE_EDGE_SECRET" not in json.dumps(rendered(CHART / "ci" / "default.yaml"))


def test_without_the_edge_nothing_names_it() -> None:
    values = yaml.safe_load(EVERYTHING.read_text())
    off = {"enabled": False, "gatewayApi": {"enabled": False}, "keys": {"enabled": False}}
    values["edge"] |= off
    manifests = render(values)
    assert not [name_of(each) for each in manifests if "-edge" in each["metadata"]["name"]]
    assert 'component": "edge' not in json.dumps(manifests)


def test_a_gateway_of_others_gets_routes_to_the_services() -> None:
    manifests = rendered(EVERYTHING)
    services = {
        (each["metadata"]["name"], port["port"])
        for each in of_kind(manifests, "Service")
        for port in each["spec"]["ports"]
    }
    routes = {
        each["metadata"]["name"]: (backend["name"], backend["port"])
        for each in of_kind(manifests, "GRPCRoute", "HTTPRoute")
        if "-edge" in each["metadata"]["name"]
        for backend in each["spec"]["rules"][0]["backendRefs"]
    }
    assert routes.pop("segment-edge-embedding") == ("segment-embedding-serve-svc", 8500)
    assert routes.keys() == {"segment-edge", "segment-edge-decoder"}
    assert set(routes.values()) <= services
    (policy,) = of_kind(manifests, "BackendTrafficPolicy")
    assert policy["spec"]["targetRefs"][0]["name"] == "segment-edge-decoder"

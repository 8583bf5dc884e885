"""The gateway's part of the chart: its switch, its ways in, its secrets, and where it fetches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import (
    CHART,
    VALUE_FILES,
    Manifest,
    environment,
    name_of,
    of_kind,
    part,
    render,
    rendered,
)
from samserve.infra.settings import GatewaySettings

EVERYTHING, DEFAULT = CHART / "ci" / "everything.yaml", CHART / "ci" / "default.yaml"


def egress(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Return the rules of what the gateway may call, beside name lookups."""
    (policy,) = [
        each
        for each in of_kind(manifests, "NetworkPolicy")
        if each["metadata"]["name"].endswith("-gateway")
    ]
    rules: list[dict[str, Any]] = policy["spec"]["egress"]
    return rules


def ways_in(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the gateway's own, not the edge's."""
    listed = of_kind(manifests, *(kinds or ("Ingress", "HTTPRoute")))
    return [each for each in listed if each["metadata"]["name"].endswith("-gateway")]


def test_without_the_gateway_nothing_names_it() -> None:
    values = yaml.safe_load(EVERYTHING.read_text())
    off = {"enabled": False, "ingress": {"enabled": False}, "httpRoute": {"enabled": False}}
    values["gateway"] |= off
    manifests = render(values)
    text = json.dumps(
        [each for each in manifests if not each["metadata"]["name"].endswith("boards")]
    )

    assert not [name_of(each) for each in manifests if "gateway" in each["metadata"]["name"]]
    assert 'component": "gateway' not in text


@pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)
def test_ways_in_from_outside_are_opened_by_their_switch_alone(values: Path) -> None:
    given = (yaml.safe_load(values.read_text()) or {}).get("gateway", {})
    opened = {each["kind"] for each in ways_in(rendered(values))}
    switches = {"Ingress": "ingress", "HTTPRoute": "httpRoute"}
    wanted = {kind for kind, way in switches.items() if given.get(way, {}).get("enabled")}
    assert opened == wanted


@pytest.mark.parametrize("values", [EVERYTHING, CHART / "ci" / "openshift.yaml"])
def test_ways_in_lead_to_the_port_of_the_service(values: Path) -> None:
    manifests = rendered(values)
    (service,) = [
        each
        for each in of_kind(manifests, "Service")
        if each["metadata"]["name"].endswith("-gateway")
    ]
    (port,) = service["spec"]["ports"]
    for ingress in of_kind(manifests, "Ingress"):
        (rule,) = ingress["spec"]["rules"]
        (path,) = rule["http"]["paths"]
        target = {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
        assert path["backend"] == {"service": target}
        assert [rule["host"]] == ingress["spec"]["tls"][0]["hosts"]
    for route in ways_in(manifests, "HTTPRoute"):
        (rule,) = route["spec"]["rules"]
        assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]


def test_a_route_waits_for_an_upload_and_the_answer() -> None:
    """Gateways have time limits that end a request before samserve does."""
    manifests = rendered(EVERYTHING)
    (route,) = ways_in(manifests, "HTTPRoute")
    (gateway,) = part(manifests, "gateway")
    seconds = int(route["spec"]["rules"][0]["timeouts"]["request"].removesuffix("s"))
    upload = GatewaySettings.model_fields["upload_s"].default
    variables = environment(gateway.containers[0])
    longest = max(int(variables[f"SAMSERVE_{work}_TIMEOUT_S"]) for work in ("CALL", "SWEEP"))

    assert seconds >= upload + longest
    (without,) = ways_in(rendered(CHART / "ci" / "openshift.yaml"), "HTTPRoute")
    assert "timeouts" not in without["spec"]["rules"][0]


def test_decoders_are_called_in_turn() -> None:
    """A name that a headless Service resolves to all pods, as the client expects it."""
    manifests = rendered(DEFAULT)
    (gateway,) = part(manifests, "gateway")
    name = environment(gateway.containers[0])["DECODER_URL"].removeprefix("dns:///").split(":")[0]
    (service,) = [
        each for each in of_kind(manifests, "Service") if each["metadata"]["name"] == name
    ]
    assert service["spec"]["clusterIP"] == "None"


def test_the_probes_tell_running_from_ready() -> None:
    (gateway,) = part(rendered(DEFAULT), "gateway")
    (container,) = gateway.containers
    paths = {kind: probe["httpGet"]["path"] for kind, probe in container.items() if "Probe" in kind}
    assert paths == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }


def test_the_gateway_gets_neither_redis_nor_the_store() -> None:
    (gateway,) = part(rendered(EVERYTHING), "gateway")
    (container,) = gateway.containers
    assert not {"REDIS_URL", "CACHE_PASSWORD", "SAMSERVE_CACHE_SECRET"} & set(
        environment(container)
    )
    assert not [volume for volume in gateway.spec["volumes"] if "persistentVolumeClaim" in volume]


def test_a_setting_can_come_from_a_secret() -> None:
    token = {"name": "label-studio", "key": "token"}
    values = {"gateway": {"secretSettings": {"SAMSERVE_LABEL_STUDIO_TOKEN": token}}}
    (gateway,) = part(render(values), "gateway")
    variables = {each["name"]: each for each in gateway.containers[0]["env"]}
    assert variables["SAMSERVE_LABEL_STUDIO_TOKEN"]["valueFrom"] == {"secretKeyRef": token}


def test_images_are_fetched_from_named_peers_only() -> None:
    default, opened = egress(rendered(DEFAULT)), egress(rendered(EVERYTHING))
    given = yaml.safe_load(EVERYTHING.read_text())["networkPolicy"]
    images = {
        "to": given["imageHosts"],
        "ports": [{"protocol": "TCP", "port": port} for port in given["imageHostPorts"]],
    }

    assert all("podSelector" in peer for rule in default for peer in rule["to"])
    assert len(default) == 2
    assert images in opened


def test_peers_of_http_alone_do_not_reach_the_other_parts() -> None:
    peers = yaml.safe_load(EVERYTHING.read_text())["networkPolicy"]["httpClients"]
    reached = {
        policy["metadata"]["name"]
        for policy in of_kind(rendered(EVERYTHING), "NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        if any(peer in rule["from"] for peer in peers)
    }
    assert reached == {"segment-gateway"}

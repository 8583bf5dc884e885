"""The chart renders manifests that Kubernetes and the operators accept."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate import utils as kubernetes
from manifests import (
    CHART,
    NAMESPACE,
    ROOT,
    VALUE_FILES,
    Manifest,
    name_of,
    of_kind,
    part,
    render,
    rendered,
    templates,
)
from referencing import Registry, Resource

OLDEST, NEWEST = "1.30", kubernetes.latest_version()
SCHEMAS = {
    file.stem: json.loads(file.read_text()) for file in (ROOT / "helm" / "schemas").glob("*.json")
}
WRONG = sorted((CHART / "ci" / "wrong").glob("*.yaml"))
every_value_file = pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)
schema_contents = cache(kubernetes.schema_contents)


def schema_errors(manifest: Manifest, version: str) -> list[str]:
    """Return the schema errors of a manifest, by Kubernetes of that version or by the operator."""
    own = SCHEMAS.get(manifest["kind"])
    validator = Draft202012Validator(own) if own else kubernetes_validator(manifest, version)
    return [
        f"{name_of(manifest)} {error.json_path}: {error.message}"
        for error in validator.iter_errors(manifest)
    ]


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    release = next(
        known for known in kubernetes.all_versions() if kubernetes.major_minor(known) == version[:4]
    )
    folder = f"kubernetes-json-schema/v{release}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = schema_contents(f"{folder}/{kind.lower()}-{group}.json", version)
    definitions = schema_contents(f"{folder}/_definitions.json", version)

    return Draft202012Validator(schema, registry=Resource.from_contents(definitions) @ Registry())


def kubernetes_validator(manifest: Manifest, version: str) -> Draft202012Validator:
    return _validator(manifest["kind"], manifest["apiVersion"], version)


def pod_templates(manifests: list[Manifest]) -> list[Manifest]:
    """Return the pod templates inside custom resources as Kubernetes manifests."""
    metadata = {"metadata": {"name": "of-ray"}}
    return [
        {"apiVersion": "v1", "kind": "PodTemplate", **metadata, "template": template}
        for _, template in templates(of_kind(manifests, "RayService"))
    ]


@every_value_file
def test_the_chart_passes_helms_lint(values: Path) -> None:
    report = helm.lint(
        CHART, yaml.safe_load(values.read_text()), strict=True, kube_version=f"v{OLDEST}.0"
    )

    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@every_value_file
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_and_the_operators_accept_the_manifests(values: Path, version: str) -> None:
    manifests = rendered(values)
    assert len(of_kind(manifests, "RayService")) == 1

    errors = [
        each
        for manifest in [*manifests, *pod_templates(manifests)]
        for each in schema_errors(manifest, version)
    ]

    assert errors == []


def test_a_misspelt_field_is_rejected() -> None:
    deployment, ray = (
        of_kind(rendered(VALUE_FILES[0]), kind)[0] for kind in ("Deployment", "RayService")
    )

    assert schema_errors({**deployment, "spec": {**deployment["spec"], "replica": 1}}, NEWEST)
    assert schema_errors({**ray, "spec": {**ray["spec"], "serveConfig": ""}}, NEWEST)


def without_generated(manifests: list[Manifest]) -> list[Manifest]:
    """Return manifests without the Secret, whose values are new in each rendering."""
    return [each for each in manifests if each["kind"] != "Secret"]


@every_value_file
def test_two_renderings_are_equal_but_for_the_secret(values: Path) -> None:
    first, second = rendered(values), render(yaml.safe_load(values.read_text()))
    assert without_generated(first) == without_generated(second)

    for one, other in zip(of_kind(first, "Secret"), of_kind(second, "Secret"), strict=True):
        assert one["data"].keys() == other["data"].keys()
        assert not set(one["data"].values()) & set(other["data"].values())


@every_value_file
def test_manifest_names_are_unique(values: Path) -> None:
    names = [name_of(manifest) for manifest in rendered(values)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("values", WRONG, ids=lambda file: file.stem)
def test_invalid_values_are_rejected_with_their_name(values: Path) -> None:
    first_line, text = values.read_text().split("\n", 1)
    named = first_line.removeprefix("# refused for ")
    with pytest.raises((helm.HelmValuesError, helm.HelmRenderError), match=re.escape(named)):
        render(yaml.safe_load(text))


def test_the_schema_has_exactly_the_fields_of_the_values() -> None:
    def fields(value: Any, path: str = "") -> set[str]:
        if not isinstance(value, dict) or not value:
            return {path}
        return {
            path,
            *(field for key, inner in value.items() for field in fields(inner, f"{path}.{key}")),
        }

    def known(schema: dict[str, Any], path: str = "") -> set[str]:
        properties = schema.get("properties", {})
        return {
            path,
            *(
                field
                for key, inner in properties.items()
                for field in known(inner, f"{path}.{key}")
            ),
        }

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    open_ended = re.compile(r"\.global$|[rR]esources\.|\.dashboardLabels\.")
    in_values = {field for field in fields(values) if not open_ended.search(field)}
    in_schema = {field for field in known(schema) if not open_ended.search(field)}

    assert in_values == in_schema


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    cluster = of_kind(rendered(VALUE_FILES[0]), "RayService")[0]["spec"]["rayClusterConfig"]

    assert chart["appVersion"] == project["version"]
    assert f"ray[serve]=={cluster['rayVersion']}" in project["optional-dependencies"]["embedding"]


@every_value_file
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from Ray's schema
def test_ray_accepts_the_serve_config(values: Path) -> None:
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import DeploymentSchema, ServeDeploySchema
    from samserve.embedding.app import GRPC_SERVICERS, app

    config = yaml.safe_load(of_kind(rendered(values), "RayService")[0]["spec"]["serveConfigV2"])
    application = ServeDeploySchema.model_validate(config).applications[0]
    (deployment,) = config["applications"][0]["deployments"]
    (parsed,) = application.deployments

    assert deployment.keys() <= DeploymentSchema.model_fields.keys()
    assert deployment["autoscaling_config"].keys() <= AutoscalingConfig.model_fields.keys()
    assert (
        parsed.autoscaling_config["max_replicas"]
        == deployment["autoscaling_config"]["max_replicas"]
    )
    assert application.import_path == f"{app.__module__}:{app.__name__}"
    assert config["grpc_options"]["grpc_servicer_functions"] == GRPC_SERVICERS


def test_alerts_and_dashboards_equal_their_files() -> None:
    manifests = rendered(CHART / "ci" / "everything.yaml")
    (rules,) = of_kind(manifests, "PrometheusRule")
    boards = next(
        each
        for each in of_kind(manifests, "ConfigMap")
        if each["metadata"]["name"].endswith("-dashboards")
    )
    files = sorted((CHART / "alerts").glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]

    assert rules["spec"]["groups"] == groups
    assert boards["data"] == {
        file.name: file.read_text() for file in (CHART / "dashboards").iterdir()
    }
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_notes_say_where_to_call() -> None:
    with helm.Chart.load(CHART) as chart:
        notes = chart.render({}, name="demo", namespace=NAMESPACE)["samserve/templates/NOTES.txt"]
    assert "dns:///demo-samserve-decoder.vision:8501" in notes
    assert "demo-samserve-embedding-serve-svc.vision:8500" in notes
    assert "http://demo-samserve-gateway.vision:8503" in notes


def test_the_longest_release_name_stays_within_kuberays_limits() -> None:
    ray = of_kind(render({}, release="r" * 53), "RayService")[0]["metadata"]["name"]
    assert len(ray) <= 41
    assert len(f"{ray}-serve-svc") <= 50


def test_decoders_wait_until_their_models_are_in_the_store(tmp_path: Path) -> None:
    (decoder,) = part(
        render({"models": [{"name": "sam-vit-b", "pull": True, "variant": ""}]}), "decoder"
    )
    wait = decoder.spec["initContainers"][0]
    command = [*wait["command"], wait["args"][0].replace("/store", str(tmp_path))]

    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, timeout=0.5, check=True)

    engine = tmp_path / "bundles" / "sam-vit-b" / "variants" / "fp16-sm89"
    engine.mkdir(parents=True)
    (engine / "variant.json").touch()
    subprocess.run(command, timeout=20, check=True)

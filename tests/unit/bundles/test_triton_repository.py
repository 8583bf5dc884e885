"""Triton's configuration files, parsed as Triton parses them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.bundles.triton_repository import TritonOptions, UnprovenVariant, write_repository
from samserve.bundles.variant import TENSORRT, Variant
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

OPTIONS = TritonOptions(threads=2)
PASSED = {"passed": True, "reasons": []}


@pytest.fixture(scope="module")
def nano() -> Bundle:
    return load_bundle(SHIPPED / "nano")


def compiled(nano: Bundle, folder: Path, **facts: object) -> Bundle:
    """An invented model: SAM 2's tensors, run by an engine."""
    plan = folder / "sm89.plan"
    plan.write_bytes(b"plan")
    engine = Variant("sm89", "huge-sm89", TENSORRT, plan, "fp16", {"profile": [1, 4, 16], **facts})
    shapes = {"embedding": (256, 64, 64), "fine_1": (64, 128, 128), "fine_0": (32, 256, 256)}
    return replace(nano, name="huge", variant=engine, embedding=shapes)


def read(folder: Path, name: str) -> ModelConfig:
    return text_format.Parse((folder / name / "config.pbtxt").read_text(), ModelConfig())


def parameters(config: ModelConfig) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def test_a_cpu_encoder_runs_in_the_python_backend_and_is_read_in_place(
    nano: Bundle, tmp_path: Path
) -> None:
    config = read(write_repository([nano], tmp_path, OPTIONS), "nano")
    assert (config.name, config.backend, config.platform, config.max_batch_size) == (
        "nano",
        "python",
        "",
        8,
    )
    assert [(each.name, list(each.dims)) for each in config.input] == [
        ("image", [1024, 1024, 3]),
        ("valid", [2]),
    ]
    assert [(each.name, list(each.dims)) for each in config.output] == [
        ("embedding", [256, 64, 64])
    ]
    assert [(each.kind, each.count) for each in config.instance_group] == [
        (ModelInstanceGroup.KIND_CPU, 1)
    ]
    assert [each.batch_size for each in config.model_warmup] == [1]
    assert parameters(config) == {
        "bundle": "nano",
        "model_version": nano.model_version,
        "frame": "1024",
        "resize": "longest",
        "outputs": json.dumps(["embedding"]),
        "variant": "fp32",
        "backend": "onnxruntime",
        "precision": "fp32",
        "encoder": str(nano.encoder),
        "threads": "2",
    }
    assert [file.name for file in (tmp_path / "nano" / "1").iterdir()] == ["model.py"]


def test_an_engine_runs_on_every_gpu_and_warms_up_one_image_and_its_optimum_batch(
    nano: Bundle, tmp_path: Path
) -> None:
    huge = compiled(nano, tmp_path, gate=PASSED)
    config = read(write_repository([huge], tmp_path, replace(OPTIONS, instances=2)), "huge")
    assert (config.name, config.backend, config.platform) == ("huge", "", "tensorrt_plan")
    assert config.max_batch_size == 16
    assert [(each.kind, each.count) for each in config.instance_group] == [
        (ModelInstanceGroup.KIND_GPU, 2)
    ]
    assert [each.batch_size for each in config.model_warmup] == [1, 4]
    assert [each.name for each in config.output] == ["embedding", "fine_1", "fine_0"]
    assert parameters(config)["model_version"] == "huge-sm89"
    assert not config.HasField("optimization")
    (plan,) = (tmp_path / "huge" / "1").iterdir()
    assert (plan.name, plan.read_bytes()) == ("model.plan", b"plan")


def test_interactive_requests_go_first_and_the_queue_is_bounded(
    nano: Bundle, tmp_path: Path
) -> None:
    write_repository(
        [nano, compiled(nano, tmp_path, gate=PASSED)],
        tmp_path,
        replace(OPTIONS, queue=5, delay_us=7),
    )
    for name in ("nano", "huge"):
        batching = read(tmp_path, name).dynamic_batching
        assert (batching.priority_levels, batching.default_priority_level) == (2, 1)
        assert (
            batching.max_queue_delay_microseconds,
            batching.default_queue_policy.max_queue_size,
        ) == (7, 5)
        assert batching.default_queue_policy.allow_timeout_override


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "was never tested"),
        (
            {"gate": {"passed": False, "reasons": ["cosine .31: preprocessing differs"]}},
            "cosine .31: preprocessing",
        ),
    ],
)
def test_a_variant_that_has_not_passed_the_gate_is_not_served(
    nano: Bundle, tmp_path: Path, facts: dict[str, object], reason: str
) -> None:
    with pytest.raises(UnprovenVariant, match=reason):
        write_repository(
            [nano, compiled(nano, tmp_path, **facts)], tmp_path / "repository", OPTIONS
        )
    assert not (tmp_path / "repository").exists()


def test_a_new_plan_replaces_the_previous_one(nano: Bundle, tmp_path: Path) -> None:
    huge = compiled(nano, tmp_path, gate=PASSED)
    write_repository([huge], tmp_path, OPTIONS)
    huge.variant.model.unlink()
    huge.variant.model.write_bytes(b"another plan")
    write_repository([huge], tmp_path, OPTIONS)
    assert (tmp_path / "huge" / "1" / "model.plan").read_bytes() == b"another plan"

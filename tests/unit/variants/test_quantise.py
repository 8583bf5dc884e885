from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from samserve.bundles.bundle import ENCODER, load_bundle, write_facts
from samserve.bundles.names import SHIPPED
from samserve.bundles.variant import load_variant
from samserve.variants.quantise import NothingToQuantise, write_cpu_variant

NANO = load_bundle(SHIPPED / "nano")


def test_int8_weights_are_a_quarter_and_products_nearly_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.05, (256, 256)).astype(np.float16)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["w.half"], ["w"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 256])],
        [numpy_helper.from_array(weight, "w.half")],
    )
    folder = tmp_path / "product"
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(folder / ENCODER))
    write_facts(folder, {**NANO.facts, "name": "product"})
    write_cpu_variant(load_bundle(folder), "int8", tmp_path / "int8")
    written = load_variant(tmp_path / "int8")
    x = rng.normal(0, 1, (4, 256)).astype(np.float32)
    (y,) = ReferenceEvaluator(onnx.load(str(written.model))).run(None, {"x": x})
    assert np.abs(y - x @ weight.astype(np.float32)).max() < 0.05
    assert written.model.stat().st_size < 1.2 * weight.size
    assert written.backend == "onnxruntime"


def test_an_encoder_without_matrix_products_has_no_int8(tmp_path: Path) -> None:
    with pytest.raises(NothingToQuantise, match="try bf16"):
        write_cpu_variant(NANO, "int8", tmp_path / "int8")


def test_bf16_changes_the_model_version_and_another_runtime_does_not(tmp_path: Path) -> None:
    for precision in ("bf16", "fp32"):
        write_cpu_variant(NANO, precision, tmp_path / precision)
    bf16, fp32 = (load_variant(tmp_path / precision) for precision in ("bf16", "fp32"))
    assert fp32.backend == bf16.backend == "openvino"
    assert fp32.model_version == NANO.model_version != bf16.model_version

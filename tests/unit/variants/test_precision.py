from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from samserve.bundles.names import SHIPPED
from samserve.variants.precision import Half, to_mixed_precision

FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
WIDTH = 32


def model(
    nodes: list[onnx.NodeProto], weights: dict[str, NDArray], inputs: dict[str, int]
) -> onnx.ModelProto:
    """A graph from [B, 4, WIDTH] inputs of the given types to the fp16 tensor `out`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(name, kind, ["B", 4, WIDTH])
            for name, kind in inputs.items()
        ],
        [helper.make_tensor_value_info("out", FLOAT16, ["B", None, None])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(0, 0.2, shape).astype(np.float32)


def block() -> onnx.ModelProto:
    """A transformer's block: pixels, embedding and position, a kind of attention, residuals.

    It is scaled as exporters do.
    """
    node = helper.make_node
    nodes = [
        node("Transpose", ["pixels"], ["moved"], perm=[0, 1, 2]),
        node("Cast", ["moved"], ["floats"], to=FLOAT),
        node("MatMul", ["floats", "embed"], ["patches"]),
        node("Add", ["patches", "position"], ["stream"]),
        node("LayerNormalization", ["stream", "gain", "shift"], ["normal"]),
        node("Transpose", ["weight.stored"], ["weight"], perm=[1, 0]),
        node("MatMul", ["normal", "weight"], ["product"]),
        node("Add", ["product", "bias"], ["query"]),
        node("Mul", ["query", "scale"], ["scaled"]),
        node("Transpose", ["query"], ["key"], perm=[0, 2, 1]),
        node("MatMul", ["scaled", "key"], ["scores"]),
        node("Softmax", ["scores"], ["shares"]),
        node("MatMul", ["shares", "normal"], ["attended"]),
        node("Add", ["stream", "attended"], ["residual"]),
        node("Cast", ["residual"], ["out"], to=FLOAT16),
    ]
    weights = {
        "embed": random(WIDTH, WIDTH) / 255,
        "position": random(1, 4, WIDTH),
        "gain": random(WIDTH) + 1,
        "shift": random(WIDTH),
        "weight.stored": random(WIDTH, WIDTH),
        "bias": random(WIDTH),
        "scale": np.array(0.25, np.float32),
    }
    return model(nodes, weights, {"pixels": TensorProto.UINT8})


def types(graph: onnx.ModelProto) -> dict[str, int]:
    """Element types by ONNX's own strict inference, of a graph that its checker accepts."""
    onnx.checker.check_model(graph)
    inferred = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True).graph
    known = {
        value.name: value.type.tensor_type.elem_type
        for value in [*inferred.input, *inferred.value_info, *inferred.output]
    }
    return known | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def input_types(graph: onnx.ModelProto, kind: str) -> set[int]:
    """The types that the nodes of a kind read."""
    known = types(graph)
    return {known[name] for node in graph.graph.node if node.op_type == kind for name in node.input}


def output_types(graph: onnx.ModelProto, kind: str) -> set[int]:
    known = types(graph)
    return {known[node.output[0]] for node in graph.graph.node if node.op_type == kind}


@pytest.mark.parametrize(("half", "kind"), [("fp16", FLOAT16), ("bf16", BFLOAT16)])
def test_products_take_halves_and_sums_of_many_numbers_take_fp32(half: Half, kind: int) -> None:
    graph = to_mixed_precision(block(), half)
    assert input_types(graph, "MatMul") == output_types(graph, "MatMul") == {kind}
    assert input_types(graph, "LayerNormalization") == input_types(graph, "Softmax") == {FLOAT}


def test_the_residual_stream_stays_in_fp32_and_a_products_bias_and_scale_do_not_widen_it() -> None:
    known = types(to_mixed_precision(block(), "fp16"))
    assert known["stream"] == known["residual"] == FLOAT
    assert known["query.fp16"] == known["scaled.fp16"] == known["bias.fp16"] == FLOAT16


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_it_computes_what_the_fp32_graph_computes(half: Half) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, WIDTH), np.uint8)
    whole, low = (
        ReferenceEvaluator(graph).run(None, {"pixels": pixels})[0]
        for graph in (block(), to_mixed_precision(block(), half))
    )
    assert low.dtype == whole.dtype == np.float16
    # the rounding unit of a half, for the few products on the way, of the largest number
    unit = {"fp16": 2**-11, "bf16": 2**-8}[half]
    assert 0 < np.abs(low - whole).max() <= 4 * unit * np.abs(whole).max()


def test_a_tensor_is_cast_once_however_many_read_it() -> None:
    casts = [
        node for node in to_mixed_precision(block(), "fp16").graph.node if node.op_type == "Cast"
    ]
    assert len({(cast.input[0], cast.attribute[0].i) for cast in casts}) == len(casts)


def test_weights_that_only_products_read_are_kept_as_halves() -> None:
    kept = {
        tensor.name: tensor.data_type
        for tensor in to_mixed_precision(block(), "fp16").graph.initializer
    }
    assert kept == {
        "embed.fp16": FLOAT16,
        "position": FLOAT,
        "gain": FLOAT,
        "shift": FLOAT,
        "weight.fp16": FLOAT16,
        "bias.fp16": FLOAT16,
        "scale.fp16": FLOAT16,
    }


def test_bytes_are_cast_before_anything_moves_them() -> None:
    first = to_mixed_precision(block(), "fp16").graph.node[0]
    assert (first.op_type, list(first.input)) == ("Cast", ["pixels"])


def test_inputs_and_outputs_stay_as_they_were() -> None:
    graph, before = to_mixed_precision(block(), "bf16").graph, block().graph
    assert list(graph.input) == list(before.input)
    assert list(graph.output) == list(before.output)


def test_an_fp32_output_of_a_product_is_still_fp32() -> None:
    product = model(
        [helper.make_node("MatMul", ["x", "weight"], ["out"])],
        {"weight": random(WIDTH, 8)},
        {"x": FLOAT},
    )
    product.graph.output[0].type.tensor_type.elem_type = FLOAT
    graph = to_mixed_precision(product, "fp16")
    assert input_types(graph, "MatMul") == {FLOAT16}
    assert types(graph)["out"] == FLOAT


@pytest.mark.parametrize(
    ("half", "within", "after"), [("fp16", FLOAT16, FLOAT16), ("bf16", FLOAT, BFLOAT16)]
)
def test_an_einsum_that_onnx_does_not_define_in_bf16_is_computed_in_fp32(
    half: Half, within: int, after: int
) -> None:
    nodes = [
        helper.make_node("Einsum", ["x", "weight"], ["product"], equation="bij,jk->bik"),
        helper.make_node("Gelu", ["product"], ["bent"]),
        helper.make_node("Cast", ["bent"], ["out"], to=FLOAT16),
    ]
    graph = to_mixed_precision(model(nodes, {"weight": random(WIDTH, 8)}, {"x": FLOAT}), half)
    assert input_types(graph, "Einsum") == {within}
    assert input_types(graph, "Gelu") == {after}


@pytest.mark.parametrize("number", [1e-8, 1e6])
def test_a_number_that_a_half_cannot_represent_keeps_its_node_in_fp32(number: float) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Mul", ["product", "number"], ["small"]),
        helper.make_node("Cast", ["small"], ["out"], to=FLOAT16),
    ]
    weights = {"weight": random(WIDTH, 8), "number": np.array(number, np.float32)}
    assert input_types(to_mixed_precision(model(nodes, weights, {"x": FLOAT}), "fp16"), "Mul") == {
        FLOAT
    }


def test_a_product_with_a_weight_beyond_fp16_stays_in_fp32() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["out"], to=FLOAT16),
    ]
    product = model(nodes, {"weight": 1e6 * random(WIDTH, 8)}, {"x": FLOAT})
    assert input_types(to_mixed_precision(product, "fp16"), "MatMul") == {FLOAT}
    assert input_types(to_mixed_precision(product, "bf16"), "MatMul") == {BFLOAT16}


def test_constants_are_computed_once() -> None:
    nodes = [
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("CastLike", ["one", "x"], ["like"]),
        helper.make_node("Add", ["like", "one"], ["two"]),
        helper.make_node("Pow", ["x", "two"], ["square"]),
        helper.make_node("Cast", ["square"], ["out"], to=FLOAT16),
    ]
    graph = to_mixed_precision(model(nodes, {}, {"x": FLOAT}), "fp16").graph
    assert [node.op_type for node in graph.node] == ["Pow", "Cast"]
    assert numpy_helper.to_array(graph.initializer[0]) == 2


def test_external_weights_are_read_from_their_file(tmp_path: Path) -> None:
    onnx.save(
        block(),
        tmp_path / "b.onnx",
        save_as_external_data=True,
        location="b.data",
        size_threshold=0,
    )
    apart = onnx.load(tmp_path / "b.onnx", load_external_data=False)
    assert to_mixed_precision(apart, "fp16", tmp_path) == to_mixed_precision(block(), "fp16")


def test_a_graph_with_branches_is_refused() -> None:
    branch = helper.make_graph([], "then", [], [helper.make_tensor_value_info("x", FLOAT, None)])
    fork = helper.make_node("If", ["x"], ["out"], then_branch=branch, else_branch=branch)
    with pytest.raises(ValueError, match="branches"):
        to_mixed_precision(model([fork], {}, {"x": FLOAT}), "fp16")


def test_nano_in_bf16_is_valid_onnx() -> None:
    low = to_mixed_precision(onnx.load(SHIPPED / "nano" / "encoder.onnx"), "bf16")
    assert input_types(low, "LayerNormalization") == {FLOAT}
    assert input_types(low, "Conv") == {BFLOAT16}


def test_nano_in_fp16_embeds_an_image_as_in_fp32() -> None:
    whole = onnx.load(SHIPPED / "nano" / "encoder.onnx")
    low = to_mixed_precision(whole, "fp16")
    assert input_types(low, "LayerNormalization") == {FLOAT}
    assert input_types(low, "Conv") == {FLOAT16}
    image = np.zeros((1, 1024, 1024, 3), np.uint8)
    image[0, :512, :512] = skimage.data.astronaut()
    feed = {"image": image, "valid": np.array([[512, 512]], np.int32)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    full, low_precision = (
        onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
        .run(None, feed)[0]
        .astype(np.float64)
        .ravel()
        for graph in (whole, low)
    )
    assert full @ low_precision / (np.linalg.norm(full) * np.linalg.norm(low_precision)) > 0.99999

"""nano's encoder with typical conversion mistakes, made by editing the real graph."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from samserve.bundles.names import SHIPPED

ENCODER = SHIPPED / "nano" / "encoder.onnx"


def whole() -> onnx.ModelProto:
    return onnx.load(str(ENCODER))


def norm_in_fp16(scale: float = 1, shift: float = 0) -> onnx.ModelProto:
    """Compute the last LayerNorm in fp16, as a careless cast does, on scaled and shifted features.

    LayerNorm undoes scale and shift, so in fp32 nothing would change.
    """
    model = whole()
    norm = next(node for node in reversed(model.graph.node) if node.op_type == "LayerNormalization")
    x, weight, bias = norm.input
    constants = {
        "scale": np.float32(scale),
        "shift": np.float32(shift),
        "epsilon": np.float32(1e-5),
        "last": np.array([-1]),
        "same": np.zeros(4, np.int64),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), f"broken.{k}") for k, v in constants.items()
    )
    nodes = [
        _node("Mul", [x, "scale"], "scaled"),
        _node("Add", ["scaled", "shift"], "shifted"),
        *_rounded("shifted", "x"),
        _node("ReduceMean", ["x", "last"], "mean32"),
        *_rounded("mean32", "mean"),
        _node("Sub", ["x", "mean"], "centred32"),
        *_rounded("centred32", "centred"),
        _node("Mul", ["centred", "centred"], "squared32"),
        *_rounded("squared32", "squared"),
        _node("ReduceMean", ["squared", "last"], "variance32"),
        *_rounded("variance32", "variance"),
        _node("Add", ["variance", "epsilon"], "safe"),
        _node("Sqrt", ["safe"], "deviation"),
        _node("Div", ["centred", "deviation"], "normal"),
        _node("Mul", ["normal", weight], "weighted"),
        _node("Add", ["weighted", bias], norm.output[0]),
    ]
    return _with(model, norm, nodes)


def other_mean(mean: tuple[float, float, float]) -> onnx.ModelProto:
    model = whole()
    _replace(model, "mean", np.array(mean, np.float32).reshape(1, 3, 1, 1))
    return model


def takes_bgr() -> onnx.ModelProto:
    model = whole()
    first = next(node for node in model.graph.node if "image" in node.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "broken.reversed"))
    swapped = _node("Gather", ["image", "reversed"], "swapped", axis=-1)
    moved = NodeProto()
    moved.CopyFrom(first)
    moved.input[0] = "broken.swapped"
    return _with(model, first, [swapped, moved])


def without(parameter: str) -> onnx.ModelProto:
    """Set a parameter to zero, as if it was lost."""
    model = whole()
    (initializer,) = (each for each in model.graph.initializer if each.name == parameter)
    _replace(model, parameter, np.zeros_like(numpy_helper.to_array(initializer)))
    return model


def _rounded(x: str, y: str) -> list[NodeProto]:
    """Round to fp16 and back.

    ONNX Runtime drops two casts in a row, so there is a reshape between them.
    """
    return [
        _node("Cast", [x], f"{x}.half", to=TensorProto.FLOAT16),
        _node("Reshape", [f"{x}.half", "same"], f"{y}.half"),
        _node("Cast", [f"{y}.half"], y, to=TensorProto.FLOAT),
    ]


def _node(kind: str, inputs: list[str], output: str, **attributes: int) -> NodeProto:
    """Make a node; names that are not in the graph get a prefix."""
    graph = ("image", "vision_encoder", "permute", "layer_norm")
    prefixed = [name if name.startswith(graph) else f"broken.{name}" for name in inputs]
    return helper.make_node(
        kind, prefixed, [output if output.startswith(graph) else f"broken.{output}"], **attributes
    )


def _with(model: onnx.ModelProto, old: NodeProto, new: list[NodeProto]) -> onnx.ModelProto:
    nodes = [
        each
        for node in model.graph.node
        for each in (new if node is old or node == old else [node])
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def _replace(model: onnx.ModelProto, name: str, values: NDArray[np.floating]) -> None:
    (initializer,) = (each for each in model.graph.initializer if each.name == name)
    initializer.CopyFrom(numpy_helper.from_array(values, name))

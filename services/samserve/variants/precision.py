"""Converts an encoder's graph to mixed precision.

Each tensor's type becomes explicit, as TensorRT requires since version 11. Types are chosen as in
PyTorch's autocast. Products, where the time goes, take and give halves (fp16 or bf16). Operators
that sum many numbers or stretch their range stay in fp32: LayerNormalization, Softmax, Pow, Exp,
Erf, the pixels' normalisation, and all that are not listed here. Operators that move or combine
elements follow their inputs, in fp32 if one of them is. So a transformer's residual stream, which
starts with the addition of an fp32 position embedding, stays in fp32. Gelu follows its input too:
its output is no larger, and it adds no more error than the rounding of the product before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from samserve.core.arrays import Array
from samserve.variants.folding import Constants, fold_constants

Half = Literal["fp16", "bf16"]

FP32 = TensorProto.FLOAT
UINT8 = TensorProto.UINT8
HALVES: dict[str, Any] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
LARGEST = {"fp16": 65504.0, "bf16": float.fromhex("0x1.fep127")}
BF16_OPSET = 22  # the first with convolutions in bf16; no other change since 20 affects encoders

PRODUCTS = {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
# Products that are computed in fp32 and give halves: ONNX does not define Einsum in bf16, and
# TensorRT does not compile ConvTranspose in it (TensorRT-RTX 1.7).
WIDE: dict[str, set[str]] = {"fp16": set(), "bf16": {"ConvTranspose", "Einsum"}}
# Operators that move elements, and those that also combine them.
MOVERS = {
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherND",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
}
FOLLOWERS = MOVERS | {
    "Abs",
    "Add",
    "Clip",
    "Div",
    "Gelu",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Relu",
    "Sub",
}
INDIFFERENT = {"Cast", "Shape"}  # accept either precision


def to_mixed_precision(
    model: onnx.ModelProto, half: Half, folder: Path = Path()
) -> onnx.ModelProto:
    """Return the same function in mixed precision, with its inputs and outputs unchanged.

    Weights that only products read are stored as halves.

    Args:
        model: The graph. If it was loaded without its external data
            (`load_external_data=False`), one weight after another is read.
        half: Type of the products.
        folder: Where the external data lies.

    Raises:
        ValueError: The graph is unsupported, see `fold_constants`.
    """
    nodes, constants = fold_constants(model, folder)

    # An empty model of the same interface, in an opset that supports the half.
    least = BF16_OPSET if half == "bf16" else 0
    opsets = [
        helper.make_opsetid(o.domain, o.version if o.domain else max(o.version, least))
        for o in model.opset_import
    ]
    body = helper.make_graph([], model.graph.name, model.graph.input, model.graph.output)
    result = helper.make_model(
        body, opset_imports=opsets, ir_version=model.ir_version, producer_name="samserve"
    )

    graph = _Graph(result.graph, half, constants, _types(model, nodes, constants))
    for node in nodes:
        graph.add(node)
    for output in model.graph.output:
        graph.take(output.name, low=False)
    return result


class _Graph:
    """The new graph while it grows.

    A tensor `x` of the original exists as `x` in its own type, as `x.fp16` or `x.bf16`, or as both.
    """

    def __init__(
        self, body: onnx.GraphProto, half: Half, constants: Constants, types: dict[str, int]
    ) -> None:
        """
        Args:
            body: The new graph.
            half: Type of the products.
            constants: Of the original graph.
            types: Element types of the original tensors by name.
        """
        self._body = body
        self._half = half
        self._constants = constants
        self._types = types
        self._present = {value.name for value in body.input}  # tensors of the new graph
        self._low: set[str] = set()  # original tensors that exist as halves
        self._products: set[str] = set()  # outputs of products

    def add(self, node: NodeProto) -> None:
        """Add an original node in the right precision. Its inputs must have been added before."""
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.op_type in MOVERS and self._types.get(node.input[0]) == UINT8:
            copy.input[0] = self._widen(node.input[0])
            self._types[node.output[0]] = FP32

        # Take the inputs in the node's precision.
        low = self._runs_low(copy)
        copy.input[:] = [
            self.take(name, name in self._low if node.op_type in INDIFFERENT else low)
            for name in copy.input
        ]

        # Name the outputs by their precision.
        del copy.output[:]
        for name in node.output:
            is_low = low and self._types.get(name) == FP32
            copy.output.append(self._low_name(name) if is_low else name)
            self._present.add(copy.output[-1])
            if is_low:
                self._low.add(name)
        self._body.node.append(copy)

        if node.op_type in PRODUCTS:
            self._products.update(node.output)
        if node.op_type in WIDE[self._half]:
            self._low.update(name for name in node.output if self.take(name, low=True) != name)

    def take(self, name: str, low: bool) -> str:
        """Return the name of an original tensor in the given precision; create it if necessary.

        Tensors that are not fp32 are returned as they are.
        """
        is_float = self._types.get(name) == FP32
        wanted = self._low_name(name) if is_float and low else name
        if wanted in self._present:
            return wanted

        if name in self._constants:
            value = self._constants[name]
            stored = value if wanted == name else value.astype(HALVES[self._half])
            self._body.initializer.append(numpy_helper.from_array(stored, wanted))
            self._present.add(wanted)
        elif is_float:
            source = name if low else self._low_name(name)
            self._cast(source, wanted, self._half_type if low else FP32)
        return wanted

    def _runs_low(self, node: NodeProto) -> bool:
        """Whether a node is computed in halves."""
        floats = [name for name in node.input if self._types.get(name) == FP32]
        if node.op_type in WIDE[self._half]:
            return False
        if node.op_type in PRODUCTS:
            return all(
                self._in_range(self._constants[name]) for name in floats if name in self._constants
            )

        deciding = [name for name in floats if not self._is_adaptable(node, name)]
        return node.op_type in FOLLOWERS and bool(deciding) and self._low.issuperset(deciding)

    def _is_adaptable(self, node: NodeProto, name: str) -> bool:
        """Whether an input does not affect the node's precision.

        That is a single number that a half can represent, or the bias of a product.
        """
        value = self._constants.get(name)
        if value is None:
            return False
        if value.size == 1:
            return self._is_representable(value)

        is_bias = (
            node.op_type == "Add" and value.ndim == 1 and not self._products.isdisjoint(node.input)
        )
        return is_bias and self._in_range(value)

    def _is_representable(self, number: Array) -> bool:
        with np.errstate(over="ignore"):
            rounded = number.astype(HALVES[self._half]).astype(np.float32)
        return bool(np.allclose(rounded, number, rtol=2**-8, atol=0))

    def _in_range(self, value: Array) -> bool:
        largest = LARGEST[self._half]
        return bool(-largest <= value.min() and value.max() <= largest)

    def _widen(self, name: str) -> str:
        """Cast bytes to floats before they are moved: TensorRT accepts bytes only in a Cast."""
        wide = f"{name}.fp32"
        if wide not in self._present:
            self._cast(name, wide, FP32)
            self._types[wide] = FP32
        return wide

    def _cast(self, source: str, target: str, to: int) -> None:
        self._body.node.append(
            helper.make_node("Cast", [source], [target], f"cast {target}", to=to)
        )
        self._present.add(target)

    def _low_name(self, name: str) -> str:
        return f"{name}.{self._half}"

    @property
    def _half_type(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(HALVES[self._half])))


def _types(
    model: onnx.ModelProto, nodes: Sequence[NodeProto], constants: Constants
) -> dict[str, int]:
    """Infer the element type of each tensor that the nodes read or write, by name."""
    weights = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in constants.items()
    ]
    skeleton = helper.make_graph(nodes, "types", [*model.graph.input, *weights], model.graph.output)
    inferred = shape_inference.infer_shapes(
        helper.make_model(skeleton, opset_imports=model.opset_import)
    ).graph

    tensors: list[ValueInfoProto] = [*inferred.input, *inferred.value_info, *inferred.output]
    return {tensor.name: tensor.type.tensor_type.elem_type for tensor in tensors}

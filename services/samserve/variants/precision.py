"""A mixed-precision copy of an encoder's graph: every tensor's type is written down, as TensorRT asks since version 11.

Types go as in PyTorch's autocast. Products, where the time goes, take and give halves; what sums many numbers or
stretches their range (LayerNormalization, Softmax, Pow, Exp, Erf, the pixels' normalisation and whatever is not named
here) stays in fp32; what moves or combines elements follows its inputs, in fp32 if one of them is. Thus the residual
stream of a transformer, begun by adding an fp32 position embedding, stays in fp32. Gelu follows too: its answer is no
larger than its input, and of that it adds no more error than the rounding that the product before it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from samserve.variants.folding import Constants, fold

Half = Literal["fp16", "bf16"]

FP32, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
HALVES: dict[str, Any] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
LARGEST = {"fp16": 65504.0, "bf16": float.fromhex("0x1.fep127")}
PRODUCTS = {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
# Products that a half is not for, taken in fp32 but given on as halves: ONNX does not define Einsum in bf16, and
# TensorRT does not compile a ConvTranspose in it (TensorRT-RTX 1.7).
WIDE: dict[str, set[str]] = {"fp16": set(), "bf16": {"ConvTranspose", "Einsum"}}
MOVERS = {
    *(
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
    ),
    *("Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
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
INDIFFERENT = {"Cast", "Shape"}  # they take a tensor in either precision
BF16_OPSET = 22  # the first whose convolutions may be in bf16; what else came since 20 is no matter of an encoder


def mixed(model: onnx.ModelProto, half: Half, folder: Path = Path()) -> onnx.ModelProto:
    """The same function in mixed precision, with its inputs and outputs as they were.

    Weights that only products read are kept as halves. folder: where the model's external data lies; loaded without
    it (`load_external_data=False`), one weight after another is read. Raises ValueError: see `fold`.
    """
    nodes, constants = fold(model, folder)
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
    """The graph as it grows. A tensor `x` of the original is there as `x`, in its own type, as `x.fp16`, or as both."""

    def __init__(
        self, body: onnx.GraphProto, half: Half, constants: Constants, types: dict[str, int]
    ) -> None:
        self._body, self._half, self._constants, self._types = body, half, constants, types
        self._made = {value.name for value in body.input}  # names of tensors that are there
        self._low: set[str] = set()  # originals that were computed as halves
        self._products: set[str] = set()

    def add(self, node: NodeProto) -> None:
        """Add a node of the original, whose inputs are added already, in the precision that is right for it."""
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.op_type in MOVERS and self._types.get(node.input[0]) == UINT8:
            copy.input[0] = self._widen(node.input[0])
            self._types[node.output[0]] = FP32
        low = self._runs_low(copy)
        copy.input[:] = [
            self.take(name, name in self._low if node.op_type in INDIFFERENT else low)
            for name in copy.input
        ]
        del copy.output[:]
        for name in node.output:
            is_low = low and self._types.get(name) == FP32
            copy.output.append(self._low_name(name) if is_low else name)
            self._made.add(copy.output[-1])
            if is_low:
                self._low.add(name)
        self._body.node.append(copy)
        if node.op_type in PRODUCTS:
            self._products.update(node.output)
        if node.op_type in WIDE[self._half]:
            self._low.update(name for name in node.output if self.take(name, low=True) != name)

    def take(self, name: str, low: bool) -> str:
        """The name of an original in the wanted precision, if it is a float; cast or written when first asked for."""
        is_float = self._types.get(name) == FP32
        wanted = self._low_name(name) if is_float and low else name
        if wanted in self._made:
            return wanted
        if name in self._constants:
            value = self._constants[name]
            stored = value if wanted == name else value.astype(HALVES[self._half])
            self._body.initializer.append(numpy_helper.from_array(stored, wanted))
            self._made.add(wanted)
        elif is_float:
            self._cast(
                name if low else self._low_name(name), wanted, self._half_type if low else FP32
            )
        return wanted

    def _runs_low(self, node: NodeProto) -> bool:
        floats = [name for name in node.input if self._types.get(name) == FP32]
        if node.op_type in WIDE[self._half]:
            return False
        if node.op_type in PRODUCTS:
            return all(
                self._fits(self._constants[name]) for name in floats if name in self._constants
            )
        voters = [name for name in floats if not self._yields(node, name)]
        return node.op_type in FOLLOWERS and bool(voters) and self._low.issuperset(voters)

    def _yields(self, node: NodeProto, name: str) -> bool:
        """Whether an input has no say in the node's precision: a lone number that a half holds, or a product's bias."""
        value = self._constants.get(name)
        if value is None:
            return False
        if value.size == 1:
            return self._holds(value)
        is_bias = (
            node.op_type == "Add" and value.ndim == 1 and not self._products.isdisjoint(node.input)
        )
        return is_bias and self._fits(value)

    def _holds(self, number: NDArray[Any]) -> bool:
        with np.errstate(over="ignore"):
            rounded = number.astype(HALVES[self._half]).astype(np.float32)
        return bool(np.allclose(rounded, number, rtol=2**-8, atol=0))

    def _fits(self, value: NDArray[Any]) -> bool:
        most = LARGEST[self._half]
        return bool(-most <= value.min() and value.max() <= most)

    def _widen(self, name: str) -> str:
        """Bytes as floats, to be moved as such: TensorRT takes bytes into a Cast and nothing else."""
        wide = f"{name}.fp32"
        if wide not in self._made:
            self._cast(name, wide, FP32)
            self._types[wide] = FP32
        return wide

    def _cast(self, source: str, target: str, to: int) -> None:
        self._body.node.append(
            helper.make_node("Cast", [source], [target], f"cast {target}", to=to)
        )
        self._made.add(target)

    def _low_name(self, name: str) -> str:
        return f"{name}.{self._half}"

    @property
    def _half_type(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(HALVES[self._half])))


def _types(
    model: onnx.ModelProto, nodes: Sequence[NodeProto], constants: Constants
) -> dict[str, int]:
    """The element type of each tensor that the nodes read or write, by ONNX's inference; weights need not be held."""
    given = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in constants.items()
    ]
    skeleton = helper.make_graph(nodes, "types", [*model.graph.input, *given], model.graph.output)
    inferred = shape_inference.infer_shapes(
        helper.make_model(skeleton, opset_imports=model.opset_import)
    ).graph
    known: list[ValueInfoProto] = [*inferred.input, *inferred.value_info, *inferred.output]
    return {info.name: info.type.tensor_type.elem_type for info in known}

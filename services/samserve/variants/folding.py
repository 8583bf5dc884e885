"""What of a graph does not depend on its inputs, computed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo
from onnx.reference import ReferenceEvaluator

Constants = dict[str, NDArray[Any]]


def fold(model: onnx.ModelProto, folder: Path) -> tuple[list[NodeProto], Constants]:
    """Split a graph into the nodes that its inputs reach, in order, and the value of everything else that these read.

    folder: where the model's external data lies. Raises ValueError for graphs with branches, loops or functions.
    """
    if model.functions or any(_has_graph(node) for node in model.graph.node):
        raise ValueError(
            f"the graph {model.graph.name!r} has branches, loops or functions, which no encoder needs"
        )
    given = {tensor.name: _value(tensor, folder) for tensor in model.graph.initializer}
    known = set(given)
    fixed, reached = [], []
    for node in _with_plain_casts(model.graph):
        if known.issuperset(filter(None, node.input)):
            fixed.append(node)
            known.update(node.output)
        else:
            reached.append(node)
    read = {name for node in reached for name in node.input if name in known}
    computed = _run(fixed, given, sorted(read - given.keys()), model)
    return reached, {name: given[name] for name in read & given.keys()} | computed


def _value(tensor: TensorProto, folder: Path) -> NDArray[Any]:
    """An initialiser's numbers; those in a file of their own are mapped, not read: they may be larger than memory."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    place = ExternalDataInfo(tensor)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(folder / place.location, kind, "r", place.offset or 0, tuple(tensor.dims))


def _with_plain_casts(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """The graph's nodes; a CastLike, which reads a tensor only for its type, as a Cast where that type is noted."""
    noted = {
        value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info]
    }
    for node in graph.node:
        if node.op_type == "CastLike" and node.input[1] in noted:
            yield helper.make_node(
                "Cast", node.input[:1], node.output, node.name, to=noted[node.input[1]]
            )
        else:
            yield node


def _run(
    nodes: list[NodeProto], given: Constants, wanted: list[str], model: onnx.ModelProto
) -> Constants:
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    graph = helper.make_graph(nodes, "constants", [], outputs)
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    values = ReferenceEvaluator(graph, opsets=opsets).run(wanted, given)
    return {name: np.asarray(value) for name, value in zip(wanted, values, strict=True)}


def _has_graph(node: NodeProto) -> bool:
    return any(
        attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        for attribute in node.attribute
    )

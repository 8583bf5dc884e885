"""Constant folding: computes once everything in a graph that does not depend on its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo
from onnx.reference import ReferenceEvaluator

from samserve.core.arrays import Array

Constants = dict[str, Array]


def fold_constants(model: onnx.ModelProto, folder: Path) -> tuple[list[NodeProto], Constants]:
    """Split a graph into nodes that depend on its inputs, and constants.

    Args:
        model: To split; it is not changed.
        folder: Where the model's external data lies.

    Returns:
        The dependent nodes in order, and the values of all constants that they read.

    Raises:
        ValueError: The graph has branches, loops or functions.
    """
    if model.functions or any(_has_subgraph(node) for node in model.graph.node):
        raise ValueError(
            f"unsupported graph {model.graph.name!r}: it has branches, loops or functions"
        )

    initializers = {tensor.name: _value(tensor, folder) for tensor in model.graph.initializer}
    known = set(initializers)
    constant_nodes, dependent_nodes = [], []
    for node in _with_plain_casts(model.graph):
        if known.issuperset(filter(None, node.input)):
            constant_nodes.append(node)
            known.update(node.output)
        else:
            dependent_nodes.append(node)

    read = {name for node in dependent_nodes for name in node.input if name in known}
    computed = _run(constant_nodes, initializers, sorted(read - initializers.keys()), model)
    stored = {name: initializers[name] for name in read & initializers.keys()}
    return dependent_nodes, stored | computed


def _value(tensor: TensorProto, folder: Path) -> Array:
    """Return an initialiser's numbers. External data is mapped, since it may exceed the memory."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    data = ExternalDataInfo(tensor)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(folder / data.location, dtype, "r", data.offset or 0, tuple(tensor.dims))


def _with_plain_casts(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes, with Cast in place of each CastLike whose type is declared.

    A CastLike reads its second input only for the type.
    """
    declared = {
        value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.value_info]
    }
    for node in graph.node:
        if node.op_type == "CastLike" and node.input[1] in declared:
            yield helper.make_node(
                "Cast", node.input[:1], node.output, node.name, to=declared[node.input[1]]
            )
        else:
            yield node


def _run(
    nodes: list[NodeProto], inputs: Constants, names: list[str], model: onnx.ModelProto
) -> Constants:
    """Compute the tensors `names`."""
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph(nodes, "constants", [], outputs)
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    values = ReferenceEvaluator(graph, opsets=opsets).run(names, inputs)
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _has_subgraph(node: NodeProto) -> bool:
    return any(
        attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        for attribute in node.attribute
    )

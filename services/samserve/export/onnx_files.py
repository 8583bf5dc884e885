"""Writes PyTorch modules as a bundle's ONNX files."""

from __future__ import annotations

import json
import logging
import struct
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from safetensors.torch import save_file
from torch import Tensor, nn

from samserve.bundles.bundle import WEIGHTS
from samserve.core.family import Shape
from samserve.export.graphs.decoder import DecoderGraph

OPSET = 20
SMALL = 1024  # elements; smaller initialisers stay in the graph as fp32 (scalars, shapes, biases)
ONE_FILE = 1.5 * 2**30  # bytes of weights that one file may hold; protobuf's limit is 2 GiB
SAFETENSORS_TYPES = {"F16": np.float16, "F32": np.float32}


class EncoderGraph(nn.Module):
    """uint8 pixels and their valid size to fp16 tensors, including normalisation and padding."""

    def __init__(
        self, vision_encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], frame: int
    ) -> None:
        """
        Args:
            vision_encoder: [B, 3, frame, frame] normalised RGB -> one tensor or a tuple.
            mean: Of RGB, 0 to 255.
            std: Of RGB, 0 to 255.
            frame: Side of the model's frame, in pixels.
        """
        super().__init__()
        self.vision_encoder = vision_encoder
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
        self.register_buffer("place", torch.arange(frame, dtype=torch.int32))

    def forward(self, image: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            image: uint8 [B, frame, frame, 3] RGB.
            valid: int32 [B, 2], height and width of the part that is not padding.

        Returns:
            The embedding's tensors, fp16 [B, ...].
        """
        normalised = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        rows = (self.place[None] < valid[:, :1])[:, None, :, None]
        columns = (self.place[None] < valid[:, 1:])[:, None, None, :]
        encoded = self.vision_encoder(normalised * rows * columns)
        tensors = encoded if isinstance(encoded, tuple) else (encoded,)
        return tuple(tensor.half() for tensor in tensors)


def export_encoder(
    graph: EncoderGraph, frame: int, path: Path, outputs: tuple[str, ...] = ("embedding",)
) -> None:
    """Write encoder.onnx with a dynamic batch.

    Args:
        graph: To export.
        frame: Side of the model's frame, in pixels.
        path: Of the file. Weights too large for it are written to `path`.data.
        outputs: Names of the embedding's tensors, in the graph's order.
    """
    image = torch.zeros(2, frame, frame, 3, dtype=torch.uint8)
    valid = torch.tensor([[frame, frame], [frame // 2, frame]], dtype=torch.int32)
    batch = torch.export.Dim("batch", min=1, max=1024)
    export_graph(
        graph,
        {"image": image, "valid": valid},
        {"image": {0: batch}, "valid": {0: batch}},
        [*outputs],
        path,
    )


def export_decoder(graph: DecoderGraph, embedding: dict[str, Shape], path: Path) -> None:
    """Write decoder.onnx and, beside it, its weights.

    The numbers of prompts and of tokens per prompt are dynamic. All prompts share one image.

    Args:
        graph: To export.
        embedding: Shapes of the embedding's tensors by name.
        path: Of the file.
    """
    # Example inputs: three prompts of four tokens.
    prompts, tokens, low_res = 3, 4, 4 * embedding["embedding"][-1]
    inputs = {name: torch.randn(1, *shape) for name, shape in embedding.items()} | {
        "points": 1000 * torch.rand(prompts, tokens, 2),
        "labels": torch.tensor([[1.0, 0.0, 2.0, 3.0]]).expand(prompts, tokens).contiguous(),
        "mask_input": torch.randn(prompts, 1, low_res, low_res),
        "has_mask": torch.tensor([0.0, 1.0, 0.0]),
    }
    n = torch.export.Dim("prompts", min=1, max=4096)
    k = torch.export.Dim("tokens", min=1, max=4096)
    axes: dict[str, dict[int, object]] = {name: {} for name in embedding}
    axes |= {
        "points": {0: n, 1: k},
        "labels": {0: n, 1: k},
        "mask_input": {0: n},
        "has_mask": {0: n},
    }
    export_graph(graph, inputs, axes, ["low_res_logits", "predicted_iou"], path)

    # The weights go to a file that the decoding server reads too.
    weights = {
        name: _to_half_if_exact(tensor.detach())
        for part in ("prompt_encoder", "mask_decoder")
        for name, tensor in getattr(graph, part).state_dict(prefix=f"{part}.").items()
    }
    file = path.with_name(WEIGHTS)
    save_file(weights, file)
    file.chmod(0o644)
    share_weights(path, file)


def share_weights(graph: Path, weights: Path) -> None:
    """Let a graph read its large initialisers from a safetensors file beside it, at their offsets.

    Initialisers are found as `NAME` in fp32, or as `NAME.half` in fp16.
    """
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))

    model = onnx.load(graph, load_external_data=False)
    for initializer in model.graph.initializer:
        entry = header.get(initializer.name.removesuffix(".half"))
        dtype = helper.tensor_dtype_to_np_dtype(initializer.data_type)
        if entry is None or SAFETENSORS_TYPES[entry["dtype"]] != dtype:
            continue
        if np.prod(initializer.dims) < SMALL:
            continue

        begin, end = entry["data_offsets"]
        location = {"location": weights.name, "offset": 8 + length + begin, "length": end - begin}
        initializer.ClearField("raw_data")
        initializer.data_location = TensorProto.EXTERNAL
        for key, value in location.items():
            initializer.external_data.add(key=key, value=str(value))
    onnx.save(model, graph)


def export_graph(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    axes: dict[str, dict[int, object]],
    outputs: list[str],
    path: Path,
) -> None:
    """Write a graph.

    Args:
        graph: To export.
        inputs: Examples by name.
        axes: The dynamic axes of each input.
        outputs: Names of the results.
        path: Of the file. Weights too large for it are written to `path`.data.
    """
    # The exporter warns that torchvision is missing, which is not needed here.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=axes,
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # folding would lose the weights' names; ONNX Runtime folds at load
            verbose=False,
        )

    model = program.model
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)  # they contain paths of the exporting machine
    halve_weights(model)

    tensors = [value.const_value for value in model.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if size > ONE_FILE else None)
    del program, model, tensors  # free memory: the check reads the file again
    onnx.checker.check_model(path, full_check=True)


def halve_weights(model: ir.Model) -> None:
    """Store large fp32 initialisers as fp16 where that is exact, and cast them back in the graph.

    The file is half as large, and the arithmetic is the same. ONNX Runtime folds the casts when it
    loads the graph.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.const_value is None:
            continue
        array = value.const_value.numpy()
        if array.dtype != np.float32 or array.size < SMALL:
            continue
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.array_equal(half, array):
            continue

        # Replace the initialiser by NAME.half and a cast that is called NAME.
        tensor = ir.tensor(half, name=f"{name}.half")
        stored = ir.Value(
            name=tensor.name,
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=tensor,
        )
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        cast.outputs[0].name = name
        graph.register_initializer(stored)
        graph.insert_before(graph[0], cast)


def _to_half_if_exact(tensor: Tensor) -> Tensor:
    half = tensor.half()
    return (half if torch.equal(half.float(), tensor) else tensor).contiguous()


def round_to_half(module: nn.Module) -> None:
    """Round every parameter to the nearest fp16 number, in place."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half().float())

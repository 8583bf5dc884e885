"""From PyTorch modules to a bundle's ONNX files."""

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
from samserve.export.graphs.decoder import DecoderGraph

OPSET = 20
SMALL = 1024  # initialisers with fewer elements stay fp32: they are scalars, shapes and biases
ONE_FILE = (
    1.5 * 2**30
)  # bytes of weights up to which a graph holds them itself; protobuf ends at 2 GiB
KINDS = {"F16": np.float16, "F32": np.float32}  # by safetensors' names

Shape = tuple[int, ...]


class EncoderGraph(nn.Module):
    """uint8 pixels and their valid size to fp16 tensors: normalisation and padding are part of the graph."""

    def __init__(
        self, vision_encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], frame: int
    ) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
        self.register_buffer("place", torch.arange(frame, dtype=torch.int32))

    def forward(self, image: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """image: uint8 [B, frame, frame, 3] RGB; valid: int32 [B, 2], height and width. Returns the embedding's tensors
        as fp16 [B, ...].
        """
        normal = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        rows = (self.place[None] < valid[:, :1])[:, None, :, None]
        columns = (self.place[None] < valid[:, 1:])[:, None, None, :]
        encoded = self.vision_encoder(normal * rows * columns)
        return tuple(
            each.half() for each in (encoded if isinstance(encoded, tuple) else (encoded,))
        )


def export_encoder(
    graph: EncoderGraph, frame: int, path: Path, outputs: tuple[str, ...] = ("embedding",)
) -> None:
    """Write encoder.onnx with a dynamic batch; weights that are too many for it go to encoder.onnx.data."""
    image = torch.zeros(2, frame, frame, 3, dtype=torch.uint8)
    valid = torch.tensor([[frame, frame], [frame // 2, frame]], dtype=torch.int32)
    batch = torch.export.Dim("batch", min=1, max=1024)
    _export(
        graph,
        {"image": image, "valid": valid},
        {"image": {0: batch}, "valid": {0: batch}},
        [*outputs],
        path,
    )


def export_decoder(graph: DecoderGraph, embedding: dict[str, Shape], path: Path) -> None:
    """Write decoder.onnx with a dynamic number of prompts and of tokens per prompt, one image for all, and beside it
    the weights it reads. embedding: shapes of the image's tensors by their names.
    """
    prompts, tokens, low_res = 3, 4, 4 * embedding["embedding"][-1]
    inputs = {name: torch.randn(1, *shape) for name, shape in embedding.items()} | {
        "points": 1000 * torch.rand(prompts, tokens, 2),
        "labels": torch.tensor([[1.0, 0.0, 2.0, 3.0]]).expand(prompts, tokens).contiguous(),
        "mask_input": torch.randn(prompts, 1, low_res, low_res),
        "has_mask": torch.tensor([0.0, 1.0, 0.0]),
    }
    n, k = torch.export.Dim("prompts", min=1, max=4096), torch.export.Dim("tokens", min=1, max=4096)
    axes: dict[str, dict[int, object]] = {name: {} for name in embedding}
    axes |= {
        "points": {0: n, 1: k},
        "labels": {0: n, 1: k},
        "mask_input": {0: n},
        "has_mask": {0: n},
    }
    _export(graph, inputs, axes, ["low_res_logits", "predicted_iou"], path)
    weights = {
        name: tensor.detach()
        for part in ("prompt_encoder", "mask_decoder")
        for name, tensor in getattr(graph, part).state_dict(prefix=f"{part}.").items()
    }
    save_file(
        {name: _shortest(tensor) for name, tensor in weights.items()}, path.with_name(WEIGHTS)
    )
    path.with_name(WEIGHTS).chmod(0o644)
    share_weights(path, path.with_name(WEIGHTS))


def share_weights(graph: Path, weights: Path) -> None:
    """Let a graph read its large initialisers from a safetensors file beside it, where they are fp16 as `NAME.half` or
    fp32 as `NAME`, instead of holding copies of them: ONNX's external data at the file's own offsets.
    """
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    model = onnx.load(graph, load_external_data=False)
    for initializer in model.graph.initializer:
        kept = header.get(initializer.name.removesuffix(".half"))
        kind = helper.tensor_dtype_to_np_dtype(initializer.data_type)
        if kept is None or KINDS[kept["dtype"]] != kind or np.prod(initializer.dims) < SMALL:
            continue
        begin, end = kept["data_offsets"]
        initializer.ClearField("raw_data")
        initializer.data_location = TensorProto.EXTERNAL
        place = {"location": weights.name, "offset": 8 + length + begin, "length": end - begin}
        for key, value in place.items():
            initializer.external_data.add(key=key, value=str(value))
    onnx.save(model, graph)


def _export(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    axes: dict[str, dict[int, object]],
    outputs: list[str],
    path: Path,
) -> None:
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(
        logging.ERROR
    )  # no torchvision: we know
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
    ClearMetadataAndDocStringPass()(model)  # which names the exporting machine's source files
    halve_weights(model)
    kept = [value.const_value for value in model.graph.initializers.values()]
    weights = sum(tensor.nbytes for tensor in kept if tensor is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if weights > ONE_FILE else None)
    del program, model, kept  # the check reads the file
    onnx.checker.check_model(path, full_check=True)


def halve_weights(model: ir.Model) -> None:
    """Keep a large fp32 initialiser as fp16, cast back in the graph, if fp16 holds its numbers exactly: half the file,
    and the same arithmetic. ONNX Runtime folds the casts when it loads the graph.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.const_value is None:
            continue
        whole = value.const_value.numpy()
        if whole.dtype != np.float32 or whole.size < SMALL:
            continue
        with np.errstate(over="ignore"):
            half = whole.astype(np.float16)
        if not np.array_equal(half, whole):
            continue
        kept = ir.tensor(half, name=f"{name}.half")
        stored = ir.Value(
            name=kept.name,
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=kept,
        )
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        cast.outputs[0].name = name
        graph.register_initializer(stored)
        graph.insert_before(graph[0], cast)


def _shortest(tensor: Tensor) -> Tensor:
    """As fp16 if that holds every number exactly, else as it is."""
    half = tensor.half()
    return (half if torch.equal(half.float(), tensor) else tensor).contiguous()


def round_to_half(module: nn.Module) -> None:
    """Round every parameter to the nearest number that fp16 holds, in place."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half().float())

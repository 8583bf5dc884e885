"""From PyTorch modules to a bundle's ONNX files."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from samserve.models.bundle import WEIGHTS
from samserve.models.graph import DecoderGraph

OPSET = 20
SMALL = 1024  # initialisers with fewer elements stay fp32: they are scalars, shapes and biases


class EncoderGraph(nn.Module):
    """uint8 pixels and their valid size to an fp16 embedding: normalisation and padding are part of the graph."""

    def __init__(self, vision_encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], frame: int) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
        self.register_buffer("place", torch.arange(frame, dtype=torch.int32))

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """image: uint8 [B, frame, frame, 3] RGB; valid: int32 [B, 2], height and width. Returns fp16 [B, 256, G, G]."""
        normal = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        rows = (self.place[None] < valid[:, :1])[:, None, :, None]
        columns = (self.place[None] < valid[:, 1:])[:, None, None, :]
        embedding: Tensor = self.vision_encoder(normal * rows * columns)
        return embedding.half()


def export_encoder(graph: EncoderGraph, frame: int, path: Path) -> None:
    """Write encoder.onnx with a dynamic batch."""
    image = torch.zeros(2, frame, frame, 3, dtype=torch.uint8)
    valid = torch.tensor([[frame, frame], [frame // 2, frame]], dtype=torch.int32)
    batch = torch.export.Dim("batch", min=1, max=1024)
    _export(graph, {"image": image, "valid": valid}, {"image": {0: batch}, "valid": {0: batch}}, ["embedding"], path)


def export_decoder(graph: DecoderGraph, cells: int, width: int, path: Path) -> None:
    """Write decoder.onnx with a dynamic number of prompts and of tokens per prompt, one image for all."""
    prompts, tokens, low_res = 3, 4, 4 * cells
    inputs = {
        "embedding": torch.randn(1, width, cells, cells),
        "points": 1000 * torch.rand(prompts, tokens, 2),
        "labels": torch.tensor([[1.0, 0.0, 2.0, 3.0]]).expand(prompts, tokens).contiguous(),
        "mask_input": torch.randn(prompts, 1, low_res, low_res),
        "has_mask": torch.tensor([0.0, 1.0, 0.0]),
    }
    n, k = torch.export.Dim("prompts", min=1, max=4096), torch.export.Dim("tokens", min=1, max=4096)
    axes = {"embedding": {}, "points": {0: n, 1: k}, "labels": {0: n, 1: k}, "mask_input": {0: n}, "has_mask": {0: n}}
    _export(graph, inputs, axes, ["low_res_logits", "predicted_iou"], path)
    weights = {
        name: tensor.detach()
        for part in ("prompt_encoder", "mask_decoder")
        for name, tensor in getattr(graph, part).state_dict(prefix=f"{part}.").items()
    }
    save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, path.with_name(WEIGHTS))
    path.with_name(WEIGHTS).chmod(0o644)
    share_weights(path, path.with_name(WEIGHTS))


def share_weights(graph: Path, weights: Path) -> None:
    """Let a graph read its fp16 initialisers `NAME.half` from a safetensors file beside it, instead of holding
    copies of them: ONNX's external data at the file's own offsets.
    """
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    model = onnx.load(graph, load_external_data=False)
    for initializer in model.graph.initializer:
        name = initializer.name.removesuffix(".half")
        if name == initializer.name:
            continue
        begin, end = header[name]["data_offsets"]
        initializer.ClearField("raw_data")
        initializer.data_location = TensorProto.EXTERNAL
        place = {"location": weights.name, "offset": 8 + length + begin, "length": end - begin}
        for key, value in place.items():
            initializer.external_data.add(key=key, value=str(value))
    onnx.save(model, graph)


def _export(
    graph: nn.Module, inputs: dict[str, Tensor], axes: dict[str, dict[int, object]], outputs: list[str], path: Path
) -> None:
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
    model = halve_weights(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep large fp32 initialisers as fp16, cast back in the graph: half the file, and the same arithmetic.

    The weights must be numbers that fp16 holds exactly (`round_to_half`), else this would change the model.
    ONNX Runtime folds the casts when it loads the graph. Raises ValueError for a weight that fp16 does not hold.
    """
    casts = []
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size < SMALL:
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue  # computed by the exporter, such as the grid's positional encoding
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def round_to_half(module: nn.Module) -> None:
    """Round every parameter to the nearest number that fp16 holds, in place."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half().float())

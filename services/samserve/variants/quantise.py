"""Encoders for CPUs: the files of a variant in another precision, or for another runtime. What they are worth, the gate
says.

bf16   the graph as exported, run by OpenVINO in bfloat16: for CPUs with AMX or AVX-512 BF16
int8   weights of the matrix products in int8, their inputs quantised as they come: for CPUs with VNNI but no AMX
fp32   the graph as exported, run by OpenVINO: for all others
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from samserve.bundles.bundle import ENCODER, Bundle
from samserve.bundles.variant import ONNXRUNTIME, OPENVINO, write_variant

AUTO = "auto"  # the fastest of all that pass
BASIC = 1  # ONNX Runtime's optimisation that folds constants and leaves the operators standard


class NothingToQuantise(ValueError):
    """A precision that would leave this encoder as it is."""


@dataclass(frozen=True, slots=True)
class CpuRecipe:
    """What runs the variant, and what writes its encoder.onnx, and the files beside it, into a folder."""

    backend: str
    write: Callable[[Bundle, Path], None]


def variant_name(precision: str) -> str:
    """What the variant of a precision is called."""
    return f"cpu-{precision}"


def write(bundle: Bundle, precision: str, folder: Path) -> None:
    """Write a CPU variant's files and facts. precision: one of RECIPES. Raises NothingToQuantise."""
    recipe = RECIPES[precision]
    folder.mkdir(parents=True)
    recipe.write(bundle, folder)
    facts = {"backend": recipe.backend, "model": ENCODER, "precision": precision}
    write_variant(folder, bundle.name, bundle.facts["preprocessing"], facts)


def _as_exported(bundle: Bundle, folder: Path) -> None:
    for file in bundle.path.glob(f"{ENCODER}*"):
        shutil.copyfile(file, folder / file.name)


def _int8(bundle: Bundle, folder: Path) -> None:
    """Weights by output channel, symmetric; inputs by tensor, as each image gives them."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=folder) as aside:
        folded = _folded(bundle.encoder, Path(aside))
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # its advice to do first what was done
        quantize_dynamic(
            folded,
            folder / ENCODER,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        root.setLevel(level)
    if not _has_integer_products(folder / ENCODER):
        raise NothingToQuantise(
            f"{bundle.name}'s encoder has no matrix products with weights for int8: try bf16"
        )


def _folded(encoder: Path, folder: Path) -> Path:
    """The graph with its constants computed, among them the fp32 weights that are kept as fp16."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(BASIC)
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / ENCODER)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", f"{ENCODER}.data"
    )
    onnxruntime.InferenceSession(encoder, options, ["CPUExecutionProvider"])
    return folder / ENCODER


def _has_integer_products(encoder: Path) -> bool:
    import onnx

    nodes = onnx.load(str(encoder), load_external_data=False).graph.node
    return any(node.op_type == "MatMulInteger" for node in nodes)


RECIPES = {
    "bf16": CpuRecipe(OPENVINO, _as_exported),
    "int8": CpuRecipe(ONNXRUNTIME, _int8),
    "fp32": CpuRecipe(OPENVINO, _as_exported),
}

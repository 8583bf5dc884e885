"""Encoders for CPUs: variants in another precision or for another runtime.

bf16   the exported graph, run by OpenVINO in bfloat16: for CPUs with AMX or AVX-512 BF16
int8   weights of the matrix products in int8, their inputs quantised at run time: for CPUs with
       VNNI but no AMX
fp32   the exported graph, run by OpenVINO: for all others

The gate decides whether a variant is good enough.
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

AUTO = "auto"  # the fastest precision that passes
BASIC = 1  # ONNX Runtime's optimisation level that folds constants and keeps standard operators


class NothingToQuantise(ValueError):
    """The precision would leave this encoder unchanged."""


@dataclass(frozen=True, slots=True)
class CpuRecipe:
    """How to make a CPU variant.

    Attributes:
        backend: That runs it.
        write: Writes encoder.onnx, and the files beside it, into a folder.
    """

    backend: str
    write: Callable[[Bundle, Path], None]


def variant_name(precision: str) -> str:
    """Return the name of the CPU variant in a precision."""
    return f"cpu-{precision}"


def write_cpu_variant(bundle: Bundle, precision: str, folder: Path) -> None:
    """Write a CPU variant's files and facts.

    Args:
        bundle: To take the encoder from.
        precision: One of RECIPES.
        folder: To write; it must not exist.

    Raises:
        NothingToQuantise: The encoder has no weights that this precision changes.
    """
    recipe = RECIPES[precision]
    folder.mkdir(parents=True)
    recipe.write(bundle, folder)
    facts = {"backend": recipe.backend, "model": ENCODER, "precision": precision}
    write_variant(folder, bundle.name, bundle.facts["preprocessing"], facts)


def _copy_exported(bundle: Bundle, folder: Path) -> None:
    for file in bundle.path.glob(f"{ENCODER}*"):
        shutil.copyfile(file, folder / file.name)


def _quantise_int8(bundle: Bundle, folder: Path) -> None:
    """Quantise weights per output channel, symmetrically, and inputs per tensor at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=folder) as work:
        folded = _fold_constants(bundle.encoder, Path(work))

        # The quantiser logs advice to optimise the graph, which was just done.
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)
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
            f"the encoder of {bundle.name} has no matrix products to quantise to int8; try bf16"
        )


def _fold_constants(encoder: Path, folder: Path) -> Path:
    """Write the graph with its constants computed, such as fp32 weights stored as fp16."""
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
    "bf16": CpuRecipe(OPENVINO, _copy_exported),
    "int8": CpuRecipe(ONNXRUNTIME, _quantise_int8),
    "fp32": CpuRecipe(OPENVINO, _copy_exported),
}

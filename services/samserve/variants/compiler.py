"""TensorRT as a function from a graph to a compiled engine.

Two products are supported. `tensorrt` compiles the plans that Triton runs, on a machine with the
GPU they are for. TensorRT-RTX needs no GPU and compiles for all that it supports, but Triton's
backend does not run its engines. It checks that TensorRT accepts a graph in the intended types.
"""

from __future__ import annotations

import importlib
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samserve.bundles.gpu import Gpu, gpu_here

STANDARD = "tensorrt"
RTX = "tensorrt-rtx"
PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "EINSUM", "MATRIX_MULTIPLY"}
SENSITIVE = {"NORMALIZATION", "SOFTMAX"}  # kinds of layers that need fp32
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

MEMORY = re.compile(r"Total Activation Memory: (\d+)")


class NoCompiler(RuntimeError):
    """No TensorRT on this machine can compile for the target; the message says what to do."""


class EngineRefused(ValueError):
    """TensorRT rejects the graph, or the engine must not be served; the message says why."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a parsed network.

    Attributes:
        name: Of the layer.
        kind: As TensorRT names it, such as SOFTMAX.
        input_types: Element types as TensorRT names them, such as FLOAT, HALF or BF16.
        output_types: likewise.
    """

    name: str
    kind: str
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled engine.

    Attributes:
        plan: The engine's bytes.
        layers: Of the network it was compiled from.
        activations: Bytes of GPU memory for one run of the largest batch.
        timing_cache: Speeds up later compilations; empty for TensorRT-RTX.
    """

    plan: Any
    layers: tuple[Layer, ...]
    activations: int
    timing_cache: bytes


@dataclass(frozen=True, slots=True)
class Compiler:
    """An installed TensorRT.

    Attributes:
        kind: STANDARD or RTX.
        trt: Its Python module.
    """

    kind: str
    trt: Any

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def serves(self) -> bool:
        """Whether Triton runs the engines."""
        return self.kind == STANDARD

    def resolve_target(self, target: Gpu) -> Gpu:
        """Return the target, with its product name if it is this machine's GPU.

        Raises:
            NoCompiler: This TensorRT cannot compile for the target.
        """
        if self.serves:
            here = gpu_here()
            if here is None or here.capability != target.capability:
                raise NoCompiler(
                    f"TensorRT compiles only for the GPU of its own machine; "
                    f"run this command on a machine with {target}"
                )
            return here

        members = self.trt.ComputeCapability.__members__
        supported = sorted(int(name[2:]) for name in members if name.startswith("SM"))
        if target.capability not in supported:
            raise NoCompiler(
                f"TensorRT-RTX does not compile for {target}; "
                f"supported: sm{', sm'.join(map(str, supported))}"
            )
        return target

    def compile(
        self,
        graph: Path,
        target: Gpu,
        *,
        batch: tuple[int, int, int],
        shapes: Mapping[str, Shapes] = {},
        timing_cache: bytes = b"",
    ) -> Compiled:
        """Compile a graph.

        Args:
            graph: File of a strongly typed ONNX graph. The first axis of its inputs is the batch.
            target: GPU to compile for.
            batch: least, optimum and most images.
            shapes: Least, optimum and most shape of inputs by name, instead of the batch.
            timing_cache: Of an earlier compilation.

        Raises:
            EngineRefused: TensorRT rejects the graph; the message names the node.
        """
        trt = self.trt
        log = _new_log(trt)
        builder = trt.Builder(log)

        # Parse. TensorRT 11 types every network strongly and ignores the flag; version 10 needs it.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            errors = (parser.get_error(i) for i in range(parser.num_errors))
            raise EngineRefused("; ".join(map(_describe_error, errors)))
        layers = layer_types(network)
        check_types(layers)

        # Configure.
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.add_optimization_profile(_profile(builder, network, batch, shapes))
        cache = None
        if self.serves:
            cache = config.create_timing_cache(timing_cache)
            config.set_timing_cache(cache, ignore_mismatch=False)
        else:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, target.name.upper()), 0)

        # Compile.
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineRefused(f"TensorRT cannot compile the graph for {target}: {log.errors()}")
        return Compiled(plan, layers, log.activations(), bytes(cache.serialize()) if cache else b"")


def find_compiler() -> Compiler:
    """Return TensorRT if it is installed and has a GPU, else TensorRT-RTX.

    Raises:
        NoCompiler: Neither is available.
    """
    if gpu_here() is not None and (trt := _import("tensorrt")):
        return Compiler(STANDARD, trt)
    if trt := _import("tensorrt_rtx_bindings"):
        return Compiler(RTX, trt)
    raise NoCompiler(
        "no TensorRT with a GPU found; run this command in an image that has both, "
        "or check that the encoder compiles without a GPU: pip install 'samserve[engine-check]'"
    )


def layer_types(network: Any) -> tuple[Layer, ...]:
    """Return the layers of a parsed network.

    A strongly typed engine computes in exactly these types. The engine's own inspector would need
    the GPU that the engine is for.
    """
    return tuple(_layer(network.get_layer(i)) for i in range(network.num_layers))


def count_types(layers: Sequence[Layer]) -> dict[str, int]:
    """Count products and sensitive layers by kind and type, such as {"NORMALIZATION FLOAT": 26}."""
    kinds = PRODUCTS | SENSITIVE
    return dict(
        Counter(f"{layer.kind} {layer.input_types[0]}" for layer in layers if layer.kind in kinds)
    )


def check_types(layers: Sequence[Layer]) -> None:
    """Check that every normalisation and softmax is computed in fp32.

    Raises:
        EngineRefused: One is not; the message names the layer.
    """
    for layer in layers:
        types = {*layer.input_types, *layer.output_types}
        if layer.kind in SENSITIVE and types != {"FLOAT"}:
            raise EngineRefused(
                f"layer {layer.name} would be computed in {layer.input_types[0]}; fp32 is required"
            )


def _layer(layer: Any) -> Layer:
    inputs = (layer.get_input(i) for i in range(layer.num_inputs))
    outputs = (layer.get_output(i) for i in range(layer.num_outputs))
    input_types, output_types = (
        tuple(tensor.dtype.name for tensor in tensors if tensor is not None)
        for tensors in (inputs, outputs)
    )
    return Layer(layer.name, layer.type.name, input_types, output_types)


def _profile(
    builder: Any, network: Any, batch: tuple[int, int, int], shapes: Mapping[str, Shapes]
) -> Any:
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        _, *rest = tensor.shape
        batches = tuple((count, *rest) for count in batch)
        profile.set_shape(tensor.name, *shapes.get(tensor.name, batches))
    return profile


def _describe_error(error: Any) -> str:
    """Return the node and the first line that says more than that it is invalid."""
    lines = [line for line in error.desc().splitlines() if not line.startswith("Invalid Node")]
    reason = lines[0] if lines else "invalid"
    return f"TensorRT rejects node {error.node_name()!r} ({error.node_operator()}): {reason}"


def _new_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((severity, message))

        def errors(self) -> str:
            serious = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            messages = [message for severity, message in self.lines if severity in serious]
            return textwrap.shorten("; ".join(messages), 400)

        def activations(self) -> int:
            sizes = (int(match[1]) for _, line in self.lines if (match := MEMORY.search(line)))
            return max(sizes, default=0)

    return Log()


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None

"""TensorRT as a function: a graph in, a compiled engine out.

Two kinds of it are known. `tensorrt` makes the plans that Triton runs, on a machine with the GPU they are for.
TensorRT-RTX compiles without a GPU, for any that it knows, but Triton's backend does not take its engines: it is a
check that TensorRT accepts a graph, in the types that were meant.
"""

from __future__ import annotations

import importlib
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samserve.bundles.gpu import Gpu, gpu_here

STANDARD, RTX = "tensorrt", "tensorrt-rtx"
PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "EINSUM", "MATRIX_MULTIPLY"}
SENSITIVE = {"NORMALIZATION", "SOFTMAX"}
MEMORY = re.compile(r"Total Activation Memory: (\d+)")


class NoCompiler(RuntimeError):
    """There is no TensorRT here that can compile for the target; the message says what to do."""


class EngineRefused(ValueError):
    """TensorRT does not take the graph, or the engine is not to be served; the message says why."""


@dataclass(frozen=True, slots=True)
class Layer:
    """takes, gives: element types of a layer's inputs and outputs, as TensorRT names them: FLOAT, HALF, BF16..."""

    name: str
    kind: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """activations: bytes of GPU memory for one run of the largest batch; timing_cache: empty where there is none."""

    plan: Any
    layers: tuple[Layer, ...]
    activations: int
    timing_cache: bytes


@dataclass(frozen=True, slots=True)
class Compiler:
    """kind: tensorrt or tensorrt-rtx; trt: its Python module."""

    kind: str
    trt: Any

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def serves(self) -> bool:
        """Whether Triton runs what it compiles."""
        return self.kind == STANDARD

    def aim(self, target: Gpu) -> Gpu:
        """The target, with its GPU's name where it is known. Raises NoCompiler if this one cannot compile for it."""
        if self.serves:
            here = gpu_here()
            if here is None or here.capability != target.capability:
                raise NoCompiler(
                    f"TensorRT compiles for the GPU that it runs on, not for {target} elsewhere: run it there"
                )
            return here
        known = sorted(
            int(name[2:])
            for name in self.trt.ComputeCapability.__members__
            if name.startswith("SM")
        )
        if target.capability not in known:
            raise NoCompiler(
                f"TensorRT-RTX does not compile for {target}, only for sm{', sm'.join(map(str, known))}"
            )
        return target

    def compile(
        self, graph: Path, target: Gpu, batch: tuple[int, int, int], timing_cache: bytes = b""
    ) -> Compiled:
        """Compile the strongly typed ONNX graph in a file, whose inputs' first axis is the batch: least, optimum, most.

        Raises EngineRefused, naming the node.
        """
        trt, log = self.trt, _log(self.trt)
        builder = trt.Builder(log)
        # TensorRT 11 types every network strongly and ignores the flag; 10 must be told.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            raise EngineRefused(
                "; ".join(_told(parser.get_error(i)) for i in range(parser.num_errors))
            )
        layers = layer_types(network)
        check_types(layers)
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.add_optimization_profile(_profile(builder, network, batch))
        cache = None
        if self.serves:
            cache = config.create_timing_cache(timing_cache)
            config.set_timing_cache(cache, ignore_mismatch=False)
        else:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, target.name.upper()), 0)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineRefused(f"TensorRT cannot compile the graph for {target}: {log.errors()}")
        return Compiled(plan, layers, log.activations(), bytes(cache.serialize()) if cache else b"")


def find_compiler() -> Compiler:
    """The TensorRT whose plans Triton runs, if it is installed and has a GPU, else TensorRT-RTX. Raises NoCompiler."""
    if gpu_here() is not None and (trt := _module("tensorrt")):
        return Compiler(STANDARD, trt)
    if trt := _module("tensorrt_rtx_bindings"):
        return Compiler(RTX, trt)
    raise NoCompiler(
        "there is no TensorRT with a GPU here: run this in an image that has both; "
        "to check without a GPU that the encoder compiles: pip install 'samserve[engine-check]'"
    )


def layer_types(network: Any) -> tuple[Layer, ...]:
    """The layers of a parsed network. A strongly typed engine computes in just these types; asking the engine itself
    (its inspector) would take the GPU that it is for.
    """
    return tuple(_layer(network.get_layer(i)) for i in range(network.num_layers))


def count_types(layers: Sequence[Layer]) -> dict[str, int]:
    """How many layers of the kinds that matter compute in which type: {"NORMALIZATION FLOAT": 26, ...}."""
    kinds = PRODUCTS | SENSITIVE
    return dict(
        Counter(f"{layer.kind} {layer.takes[0]}" for layer in layers if layer.kind in kinds)
    )


def check_types(layers: Sequence[Layer]) -> None:
    """Raises EngineRefused unless every normalisation and softmax takes and gives fp32 alone."""
    for layer in layers:
        if layer.kind in SENSITIVE and {*layer.takes, *layer.gives} != {"FLOAT"}:
            raise EngineRefused(
                f"the layer {layer.name} would be computed in {layer.takes[0]}, not in fp32"
            )


def _layer(layer: Any) -> Layer:
    inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
    outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
    takes, gives = (
        tuple(tensor.dtype.name for tensor in some if tensor is not None)
        for some in (inputs, outputs)
    )
    return Layer(layer.name, layer.type.name, takes, gives)


def _profile(builder: Any, network: Any, batch: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        _, *rest = tensor.shape
        profile.set_shape(tensor.name, *((count, *rest) for count in batch))
    return profile


def _told(error: Any) -> str:
    """A parser's error in one line: the node, and the first thing said of it that does not only say that it is bad."""
    lines = [line for line in error.desc().splitlines() if not line.startswith("Invalid Node")]
    return f"TensorRT refuses the node {error.node_name()!r} ({error.node_operator()}): {lines[0] if lines else 'bad'}"


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append((severity, message))

        def errors(self) -> str:
            serious = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            told = "; ".join(message for severity, message in self.lines if severity in serious)
            return textwrap.shorten(told, 400)

        def activations(self) -> int:
            return max(
                (int(found[1]) for _, line in self.lines if (found := MEMORY.search(line))),
                default=0,
            )

    return Log()


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None

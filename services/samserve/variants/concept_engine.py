"""Checks that TensorRT compiles a concept head and its text encoder.

Such engines are not served yet: the head runs in Triton's Python backend.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from samserve.bundles.bundle import CONCEPTS, TEXT, Bundle, ConceptFacts
from samserve.bundles.gpu import Gpu
from samserve.variants.compiler import Compiler, Shapes, count_types
from samserve.variants.engine import write_mixed
from samserve.variants.precision import Half

PHRASES = (1, 4, 8)  # least, optimum and most of one run
EXAMPLES = (1, 4, 16)  # of a phrase


@dataclass(frozen=True, slots=True)
class HeadCheck:
    """One graph that was compiled.

    Attributes:
        graph: Its file's name.
        target: The kind of GPU.
        size: Bytes of the engine.
        activations: Bytes of GPU memory for one run of the largest shapes.
        seconds: That compiling took.
        layers: Products and sensitive layers by kind and type.
    """

    graph: str
    target: str
    size: int
    activations: int
    seconds: float
    layers: dict[str, int]


def check_head(
    bundle: Bundle,
    facts: ConceptFacts,
    target: Gpu,
    precision: Half,
    compiler: Compiler,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[HeadCheck]:
    """Compile both graphs of a concept head.

    Args:
        bundle: With a concept head.
        facts: Of the head.
        target: GPU to compile for.
        precision: Of the products.
        compiler: An installed TensorRT.
        on_progress: Receives the name of each step.

    Raises:
        NoCompiler: The compiler does not support the target.
        EngineRefused: It rejects a graph, or would compute a normalisation or softmax in halves.
    """
    target = compiler.resolve_target(target)
    checks = []
    for name in (CONCEPTS, TEXT):
        on_progress(f"compiling {name} for {target}")
        started = time.monotonic()
        with TemporaryDirectory() as work:
            graph = write_mixed(bundle.path / name, precision, Path(work))
            shapes = _shapes(bundle, facts)
            compiled = compiler.compile(graph, target, batch=PHRASES, shapes=shapes)
        checks.append(
            HeadCheck(
                graph=name,
                target=target.slug,
                size=len(memoryview(compiled.plan)),
                activations=compiled.activations,
                seconds=round(time.monotonic() - started, 1),
                layers=count_types(compiled.layers),
            )
        )
    return checks


def _shapes(bundle: Bundle, facts: ConceptFacts) -> dict[str, Shapes]:
    """Shapes of the inputs whose first axis is not the number of phrases alone."""
    (trunk,) = bundle.trunk.values()
    whole = (1, *trunk)
    least, usual, most = zip(PHRASES, EXAMPLES, strict=True)
    return {
        "trunk": (whole, whole, whole),
        "examples": ((*least, 4), (*usual, 4), (*most, 4)),
        "example_labels": (least, usual, most),
    }

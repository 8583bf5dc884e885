"""Benchmark of decoding in a browser's WebAssembly: `python -m loadtest.bench.browser`.

Node runs the package @samserve/decoder, which `make web` builds, with one thread. Its peers are the
server's kernel and ONNX Runtime with the model's graph, with one thread too. Writes
build/bench/browser.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.client.decoder_files import read_description
from samserve.codec.packed import pack, unpack
from samserve.core.embedding import Embedding
from samserve.core.image import frame_image
from samserve.decoder.handout_messages import description_of
from samserve.decoder.prompt import Prompt, tokens
from samserve.decoder.registry import ServedModel
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.infra.settings import EmbeddingSettings

from loadtest.bench.report import Row, medians, report

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "services" / "web" / "decoder"
ROUNDS = 20


class InNode:
    """The package in Node."""

    def __init__(self, folder: Path) -> None:
        script = str(Path(__file__).with_suffix(".mjs"))
        self._process = subprocess.Popen(
            ["node", script, str(folder), str(PACKAGE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.level = self._read()

    def ask(self, what: str) -> None:
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        self._read()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("Node ended; run `make web` first")
        return line.strip()


def main() -> None:
    # An embedding of the sample image, as the cache has it.
    bundle = load_bundle(SHIPPED / "nano")
    photo = (ROOT / "examples" / "coins.png").read_bytes()
    image = frame_image(photo, bundle.frame, EmbeddingSettings().image_limits)
    session = onnxruntime.InferenceSession(bundle.encoder, providers=["CPUExecutionProvider"])
    valid = np.array([[image.valid.height, image.valid.width]], np.int32)
    (tensor,) = session.run(["embedding"], {"image": image.pixels[None], "valid": valid})
    fresh = Embedding(bundle.model_version, image.size, {"embedding": np.float16(tensor[0])})
    packed = pack(fresh)
    embedding = unpack(packed)

    # The server's kernel, and its graph in ONNX Runtime, with one thread each.
    decoder = MaskDecoder(bundle, Threads(1))
    ready = decoder.prepare(embedding)
    middle = np.array([[image.size.width / 2, image.size.height / 2]], np.float32)
    click = Prompt(middle, np.ones(1, np.float32), None, None, multimask=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = onnxruntime.InferenceSession(bundle.decoder, options, ["CPUExecutionProvider"])
    points, labels = tokens(click, image.size, bundle.frame)
    inputs = {
        "embedding": embedding.tensors["embedding"][None].astype(np.float32),
        "points": points[None],
        "labels": labels[None],
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask": np.zeros(1, np.float32),
    }

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = asdict(read_description(description_of(ServedModel(decoder, bundle.versions))))
        facts |= {"width": image.size.width, "height": image.size.height}
        (folder / "facts.json").write_text(json.dumps(facts))
        (folder / "embedding.bin").write_bytes(embedding.tensors["embedding"].tobytes())
        shutil.copyfile(bundle.weights, folder / "decoder.safetensors")
        node = InNode(folder)
        times = medians(
            {
                "wasm": lambda: node.ask("click"),
                "kernel": lambda: decoder.decode(ready, [click]),
                "graph": lambda: graph.run(None, inputs),
                "wasm prepare": lambda: node.ask("prepare"),
                "prepare": lambda: decoder.prepare(embedding),
            },
            ROUNDS,
        )
        node.close()

    halves = embedding.tensors["embedding"].tobytes()
    gzip = len(zlib.compress(halves, 1))
    print(f"WebAssembly: {node.level}", file=sys.stderr)
    report(
        "browser",
        [
            Row("click, WebAssembly", times["wasm"], "ms", "server's kernel", times["kernel"]),
            Row("click, WebAssembly", times["wasm"], "ms", "ONNX graph", times["graph"], "<= 1"),
            Row("prepare, WebAssembly", times["wasm prepare"], "ms", "kernel", times["prepare"]),
            Row("embedding, gzip", gzip / 2**20, "MiB", "fp16", len(halves) / 2**20, "<= 0.65"),
            Row("embedding, cache's coding", len(packed) / 2**20, "MiB", "gzip", gzip / 2**20),
        ],
    )


if __name__ == "__main__":
    main()

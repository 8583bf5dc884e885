"""Builds the images without Docker and gets a mask from their containers: `make images`.

Base images are stand-ins (bases.py) unless the storage has the real ones. Parts that this machine
cannot run are named with the reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bases
import compose
from bases import ROOT
from engine import CannotRun, Engine, pip_volumes
from masks import http_mask, wait_for_mask
from pods import Pods, redis_image

FOLDER = ROOT / "build" / "images"
PARTS = ("decoder", "edge", "embedding", "gateway", "triton")
MOST_MEGABYTES = {"decoder": 400, "gateway": 400}


def build(engine: Engine, part: str, version: str) -> None:
    """Build an image from its Dockerfile, as it is."""
    volumes = pip_volumes(engine.folder)
    file = f"deploy/docker/{part}.Dockerfile"
    options = ["--pull-never", "--network", "host", "--layers", *volumes]
    tag = f"samserve-{part}:{version}"
    engine.run("buildah", "build", "--quiet", *options, "--file", file, "--tag", tag, ".", cwd=ROOT)


def megabytes(engine: Engine, image: str) -> int:
    """Return the size of an image."""
    return int(engine.ask("podman", "image", "inspect", "--format", "{{.Size}}", image)) // 10**6


def version() -> str:
    """Return the version in compose's defaults, which a test holds against the project's."""
    lines = (ROOT / "deploy" / ".env").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("VERSION="))


def build_all(engine: Engine, parts: list[str]) -> None:
    """Build base images and images, and print their sizes.

    Raises:
        CannotRun: A build failed, or an image is too large.
    """
    bases.make_python(engine)
    bases.make_redis(engine, redis_image())
    if "triton" in parts:
        bases.make_triton(engine)

    for part in parts:
        build(engine, part, version())
        size = megabytes(engine, f"samserve-{part}:{version()}")
        print(f"{part}: {size} MB, of which the base {base_megabytes(engine, part)}", flush=True)
        if size > MOST_MEGABYTES.get(part, size):
            limit = MOST_MEGABYTES[part]
            raise CannotRun(f"the image of {part} has {size} MB; the limit is {limit}")


def base_megabytes(engine: Engine, part: str) -> int:
    stage = 1 if part == "triton" else 0
    return megabytes(engine, bases.base_of(part, stage))


def run_pods(engine: Engine) -> None:
    """Get a mask through the chart's pods."""
    with Pods(engine) as pods:
        pods.play()
        decoder, embedding = pods.address("decoder"), pods.address("embedding")
        print("pods:", wait_for_mask(f"{decoder}:8501", f"{embedding}:8500"), flush=True)
        print("  HTTP:", http_mask(f"{pods.address('gateway')}:8503"), flush=True)
        print("  through the edge:", http_mask(f"{pods.address('edge')}:8504"), flush=True)
        for name, how in pods.confinement().items():
            print(f"  {name}: {how}", flush=True)


def run_compose(engine: Engine) -> None:
    """Get a mask through the services of compose.yaml."""
    with compose.running(engine) as addresses:
        print("compose:", wait_for_mask(addresses["decoder"], addresses["embedding"]), flush=True)
        print("  HTTP:", http_mask(addresses["gateway"]), flush=True)
        print("  through the edge:", http_mask(addresses["edge"]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where images are kept")
    parser.add_argument("--parts", default=",".join(PARTS), help="images to build")
    parser.add_argument("--steps", default="build,pods,compose", help="what to do")
    options = parser.parse_args()
    engine = Engine(options.folder.resolve())
    steps = options.steps.split(",")

    try:
        engine.set_up()
        if "build" in steps:
            build_all(engine, options.parts.split(","))
        if "pods" in steps:
            run_pods(engine)
        if "compose" in steps:
            run_compose(engine)
    except CannotRun as reason:
        sys.exit(f"images: {reason}")


if __name__ == "__main__":
    main()

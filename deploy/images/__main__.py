"""Builds the images without Docker and gets a mask from their containers: `make images`.

Base images are stand-ins (bases.py) unless the storage has the real ones. Parts that this machine
cannot run are named with the reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bases
from engine import CannotRun, Engine, pip_volumes

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "images"
PARTS = ("decoder", "embedding", "triton")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where images are kept")
    parser.add_argument("--parts", default=",".join(PARTS), help="images to build")
    options = parser.parse_args()
    engine = Engine(options.folder.resolve())
    parts = options.parts.split(",")

    try:
        engine.set_up()
        bases.make_python(engine)
        if "triton" in parts:
            bases.make_triton(engine)

        for part in parts:
            build(engine, part, version())
            print(f"{part}: {megabytes(engine, f'samserve-{part}:{version()}')} MB", flush=True)
    except CannotRun as reason:
        sys.exit(f"images: {reason}")


if __name__ == "__main__":
    main()

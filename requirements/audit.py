"""Asks the advisory database about all packages, by their hashes: `make audit`.

Exit code 1: a package has a known fault. Where the database cannot be reached, it says so and fails
nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FILES = sorted(Path(__file__).parent.glob("*.txt"))
SKIPPED = "skipped: the advisory database cannot be reached from here"


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
    command += ["--progress-spinner", "off", "--format", "json"]
    for file in FILES:
        command += ["--requirement", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        sys.stderr.write(done.stderr)
        print(SKIPPED)
        return 0

    unknown = [each["name"] for each in packages if "skip_reason" in each]
    faults = [(each, fault) for each in packages for fault in each.get("vulns", [])]
    if len(unknown) == len(packages):
        print(SKIPPED)
        return 0
    for package, fault in faults:
        fixed = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {fault['id']}, fixed in {fixed}")
    if unknown:
        print(f"not known to the database: {', '.join(sorted(set(unknown)))}")
    print(f"{len(packages) - len(unknown)} packages asked about, {len(faults)} known faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes the chart's two Grafana dashboards: `python helm/boards [FOLDER]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from decoder import decoder
from embedding import embedding
from grafana import board

FOLDER = Path(__file__).parents[1] / "samserve" / "dashboards"


def write(folder: Path) -> None:
    for half, rows in {"decoder": decoder(), "embedding": embedding()}.items():
        (folder / f"{half}.json").write_text(json.dumps(board(half, rows), indent=1) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)

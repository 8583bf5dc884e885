"""Writes the chart's Grafana dashboards: `python helm/boards [FOLDER]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from decoder import decoder
from edge import edge
from embedding import embedding
from gateway import gateway
from grafana import board

FOLDER = Path(__file__).parents[1] / "samserve" / "dashboards"


def write(folder: Path) -> None:
    boards = {
        "decoder": decoder(),
        "edge": edge(),
        "embedding": embedding(),
        "gateway": gateway(),
    }
    for part, rows in boards.items():
        (folder / f"{part}.json").write_text(json.dumps(board(part, rows), indent=1) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)

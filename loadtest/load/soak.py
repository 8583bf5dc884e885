"""Whether the decoder's memory stays flat: `make soak`. 10,000 clicks on the real stack, then 92 masks of 12 MP.

Writes build/bench/soak.json.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from rich.progress import track
from samserve.client import Click, Client, Prompt
from samserve.local.stack import StackOptions, running

from loadtest.bench.decoder import photo
from loadtest.bench.report import Row, kilobytes, report

CALLS, SETTLED, MANY = 10_000, 1_000, 92


def main() -> None:
    small, large = photo(1), photo(12)
    rng = np.random.default_rng(0)
    settled = 0
    with (
        running(StackOptions()) as stack,
        Client(stack.addresses.decoder, stack.addresses.embedding) as client,
    ):
        decoder = stack.programs["decoder"].pid
        client.segment(large, [Click(2000, 1500)])
        for call in track(range(CALLS), "clicks"):
            x, y = rng.uniform(0, 800, 2)
            client.predict(small, [Prompt([Click(x, y)], multimask=False)])
            if call == SETTLED:
                settled = kilobytes(decoder, "VmRSS")
        flat = kilobytes(decoder, "VmRSS")
        Path(f"/proc/{decoder}/clear_refs").write_text("5")  # forget the most so far
        before = kilobytes(decoder, "VmHWM")
        clicks = itertools.product(np.linspace(100, 3900, 23), np.linspace(100, 2900, 4))
        client.predict(large, [Prompt([Click(x, y)], multimask=False) for x, y in clicks])
        after = kilobytes(decoder, "VmHWM")
    report(
        "soak",
        [
            Row(
                f"memory after {CALLS:,} calls",
                flat / 1024,
                "MiB",
                f"after {SETTLED:,}",
                settled / 1024,
                "<= 1.02",
            ),
            Row(
                f"peak of {MANY} masks at 12 MP",
                (after - before) / 1024,
                "MiB",
                "300 MB",
                300e6 / 2**20,
                "<= 1",
            ),
        ],
    )


if __name__ == "__main__":
    main()

"""Checks that the decoder's memory stays flat: `make soak`.

Sends 10,000 clicks to the real stack, then asks for 92 masks of 12 MP. Writes
build/bench/soak.json.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from rich.progress import track
from samserve.client import Click, Client, Prompt
from samserve.local.stack import StackOptions, running

from loadtest.bench.decoder import cat_image
from loadtest.bench.report import Row, kilobytes, report

CALLS = 10_000
SETTLED = 1_000  # calls before the first reading
MANY = 92  # masks of the last call


def main() -> None:
    small, large = cat_image(1), cat_image(12)
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

        # Reset the kernel's peak counter, then measure the peak of many large masks.
        Path(f"/proc/{decoder}/clear_refs").write_text("5")
        before = kilobytes(decoder, "VmHWM")
        points = itertools.product(np.linspace(100, 3900, 23), np.linspace(100, 2900, 4))
        client.predict(large, [Prompt([Click(x, y)], multimask=False) for x, y in points])
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

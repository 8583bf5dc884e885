"""What tests ask of a running Triton over its HTTP interface."""

import json
import urllib.request
from dataclasses import dataclass

from samserve.local.stack import Stack


@dataclass(frozen=True)
class Encoded:
    """Triton's own count of images encoded, and of the runs that took."""

    images: int
    runs: int

    def __sub__(self, before: "Encoded") -> "Encoded":
        return Encoded(self.images - before.images, self.runs - before.runs)


def encoded(stack: Stack, model: str) -> Encoded:
    with urllib.request.urlopen(
        f"http://{stack.addresses.triton_http}/v2/models/{model}/stats", timeout=60
    ) as answer:
        (stats,) = json.load(answer)["model_stats"]
    return Encoded(int(stats["inference_count"]), int(stats["execution_count"]))


def load(stack: Stack, model: str) -> None:
    _tell(stack, model, "load")


def unload(stack: Stack, model: str) -> None:
    _tell(stack, model, "unload")


def _tell(stack: Stack, model: str, what: str) -> None:
    url = f"http://{stack.addresses.triton_http}/v2/repository/models/{model}/{what}"
    with urllib.request.urlopen(urllib.request.Request(url, method="POST", data=b"{}"), timeout=60):
        pass

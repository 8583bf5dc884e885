"""The grammar of model names, and where bundles lie."""

from __future__ import annotations

import os
from pathlib import Path

BUNDLES = Path(__file__).resolve().parent  # the shipped ones
STORE = (
    Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    / "samserve"
    / "bundles"
)


def model_name(model: str) -> str:
    """A model's name in requests: `NAME` of `NAME` or `NAME:VARIANT`."""
    return model.partition(":")[0]


def parse_models(models: str) -> tuple[str, ...]:
    """`NAME` or `NAME:VARIANT`, separated by commas. Raises ValueError if there is none, or a name twice."""
    every = tuple(model.strip() for model in models.split(","))
    names = [model_name(model) for model in every]
    if not all(names):
        raise ValueError("give the models' names, separated by commas")
    if len(set(names)) < len(names):
        raise ValueError("give each model once: a request could not tell its variants apart")
    return every

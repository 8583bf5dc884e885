"""The grammar of model names, and the folders that hold bundles."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_MODEL = "nano"
SHIPPED = Path(__file__).resolve().parent  # the bundles that come with the package


def user_folder() -> Path:
    """Return the default folder for the user's own bundles, by the XDG convention."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "samserve" / "bundles"


def model_name(model: str) -> str:
    """Return the name that requests use: `NAME` of `NAME` or `NAME:VARIANT`."""
    return model.partition(":")[0]


def parse_models(models: str) -> tuple[str, ...]:
    """Split a list of `NAME` or `NAME:VARIANT`, separated by commas.

    Raises:
        ValueError: A name is empty, or given twice.
    """
    parsed = tuple(model.strip() for model in models.split(","))
    names = [model_name(model) for model in parsed]

    if not all(names):
        raise ValueError("give model names separated by commas, such as nano,vit-b:fp16")
    if len(set(names)) < len(names):
        raise ValueError("give each model once: requests name a model, not its variant")

    return parsed

"""Where bundles lie: a folder of the user's, and the ones that samserve ships."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from samserve.core.config import BUNDLES
from samserve.models.bundle import Bundle, find_bundles, load_bundle
from samserve.models.variant import EXPORTED, BrokenBundle

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class UnknownModel(ValueError):
    """A name that no bundle has; the message lists those there are."""


class Store:
    """Bundles by name. One in the user's folder hides a shipped one of the same name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> dict[str, Path]:
        """Every bundle's folder by its name."""
        return {path.name: path for folder in (BUNDLES, self.folder) for path in find_bundles(folder)}

    def load(self, model: str) -> Bundle:
        """`NAME` or `NAME:VARIANT`. Raises UnknownModel, BrokenBundle."""
        name, _, variant = model.partition(":")
        known = self.paths()
        if name not in known:
            raise UnknownModel(f"there is no model {name!r}; there is: {', '.join(sorted(known))}")
        return load_bundle(known[name], variant or EXPORTED)

    def load_all(self, models: Iterable[str]) -> list[Bundle]:
        """As `load`, for each."""
        return [self.load(model) for model in models]

    def place_for(self, name: str) -> Path:
        """Where a new bundle of this name goes. Raises BrokenBundle for what is no name."""
        if not NAME.fullmatch(name):
            raise BrokenBundle(f"{name!r} is no name for a model: use lower-case letters, digits, '.', '_' and '-'")
        return self.folder / name

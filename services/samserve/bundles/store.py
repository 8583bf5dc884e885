"""Where bundles lie: a folder of the user's, and the ones that samserve ships."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from samserve.bundles.bundle import Bundle, find_bundles, load_bundle, variant_names
from samserve.bundles.gpu import HERE, gpu_here
from samserve.bundles.names import SHIPPED
from samserve.bundles.variant import EXPORTED, FACTS, TENSORRT, VARIANTS, BrokenBundle, read_facts

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class UnknownModel(ValueError):
    """A name that no bundle has; the message lists those there are."""


class Store:
    """Bundles by name. One in the user's folder hides a shipped one of the same name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> dict[str, Path]:
        """Every bundle's folder by its name."""
        return {
            path.name: path for folder in (SHIPPED, self.folder) for path in find_bundles(folder)
        }

    def load(self, model: str) -> Bundle:
        """`NAME`, `NAME:VARIANT`, or `NAME:here`: the engine for this machine's GPU.

        Raises UnknownModel, BrokenBundle.
        """
        name, _, variant = model.partition(":")
        known = self.paths()
        if name not in known:
            raise UnknownModel(f"there is no model {name!r}; there is: {', '.join(sorted(known))}")
        return load_bundle(
            known[name], _engine_here(known[name]) if variant == HERE else variant or EXPORTED
        )

    def load_all(self, models: Iterable[str]) -> list[Bundle]:
        """As `load`, for each."""
        return [self.load(model) for model in models]

    def own(self, name: str) -> Bundle:
        """A bundle that may be added to: a shipped one is copied to the user's folder first. Raises as `load` does."""
        bundle = self.load(name)
        place = self.folder / bundle.name
        if bundle.path != place:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(bundle.path, place)
        return load_bundle(place)

    def place_for(self, name: str) -> Path:
        """Where a new bundle of this name goes. Raises BrokenBundle for what is no name."""
        if not NAME.fullmatch(name):
            raise BrokenBundle(
                f"{name!r} is no name for a model: use lower-case letters, digits, '.', '_' and '-'"
            )
        return self.folder / name


def _engine_here(path: Path) -> str:
    """The name of the published engine for this machine's GPU. Raises BrokenBundle."""
    if (gpu := gpu_here()) is None:
        raise BrokenBundle(
            f"{path.name}:{HERE} needs an NVIDIA GPU, and there is none on this machine: name a variant"
        )
    for name in variant_names(path):
        facts = read_facts(path / VARIANTS / name / FACTS)
        if facts["backend"] == TENSORRT and facts["target"] == gpu.slug:
            return name
    raise BrokenBundle(
        f"{path.name} has no engine for {gpu}: `samserve models engine {path.name} --target {HERE}`"
    )

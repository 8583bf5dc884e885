"""Finds bundles by model name, in the user's folder and among those that ship with samserve."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from samserve.bundles.bundle import Bundle, find_bundles, load_bundle, variant_names
from samserve.bundles.files import BrokenBundle, read_facts
from samserve.bundles.gpu import HERE, gpu_here
from samserve.bundles.names import SHIPPED
from samserve.bundles.variant import EXPORTED, FACTS, TENSORRT, VARIANTS

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class UnknownModel(ValueError):
    """Unknown model name; the message lists the available models."""


class Store:
    """Bundles by name. A bundle in the user's folder hides a shipped one of the same name."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: The user's bundles; it need not exist.
        """
        self.folder = folder

    def paths(self) -> dict[str, Path]:
        """Folder of each bundle by its name."""
        return {
            path.name: path for folder in (SHIPPED, self.folder) for path in find_bundles(folder)
        }

    def load(self, model: str) -> Bundle:
        """Load a bundle.

        Args:
            model: `NAME`, `NAME:VARIANT`, or `NAME:here` for the engine of this machine's GPU.

        Raises:
            UnknownModel: No bundle has this name.
            BrokenBundle: The bundle is damaged, or has no such variant.
        """
        name, _, variant = model.partition(":")
        paths = self.paths()
        if name not in paths:
            raise UnknownModel(f"unknown model {name!r}; available: {', '.join(sorted(paths))}")
        path = paths[name]
        if variant == HERE:
            variant = _engine_here(path)
        return load_bundle(path, variant or EXPORTED)

    def load_all(self, models: Iterable[str]) -> list[Bundle]:
        """Load several bundles, see `load`."""
        return [self.load(model) for model in models]

    def load_writable(self, name: str) -> Bundle:
        """Load a bundle from the user's folder; a shipped one is copied there first.

        Raises:
            UnknownModel, BrokenBundle: See `load`.
        """
        bundle = self.load(name)
        path = self.folder / bundle.name
        if bundle.path != path:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(bundle.path, path)
        return load_bundle(path)

    def place_for(self, name: str) -> Path:
        """Return the folder for a new bundle.

        Raises:
            BrokenBundle: The name is invalid.
        """
        if not NAME.fullmatch(name):
            raise BrokenBundle(
                f"invalid model name {name!r}: "
                "use lower-case letters, digits, '.', '_' and '-', 64 characters at most"
            )
        return self.folder / name


def _engine_here(path: Path) -> str:
    """Return the name of the published engine for this machine's GPU, or raise BrokenBundle."""
    gpu = gpu_here()
    if gpu is None:
        raise BrokenBundle(
            f"{path.name}:{HERE} needs an NVIDIA GPU, but this machine has none; name a variant"
        )

    for name in variant_names(path):
        facts = read_facts(path / VARIANTS / name / FACTS)
        if facts["backend"] == TENSORRT and facts["target"] == gpu.slug:
            return name

    raise BrokenBundle(
        f"{path.name} has no engine for {gpu}; "
        f"build one with `samserve models engine {path.name} --target {HERE}`"
    )

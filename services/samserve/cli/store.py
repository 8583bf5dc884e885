"""The bundles of this machine, as the commands look them up."""

from __future__ import annotations

from samserve.bundles.bundle import Bundle
from samserve.bundles.files import BrokenBundle
from samserve.bundles.store import Store, UnknownModel
from samserve.cli.console import Output


def store() -> Store:
    """The bundles of this machine; SAMSERVE_BUNDLES sets the user's own folder."""
    # Imported here, since most commands need no settings.
    from samserve.infra.settings import BundleSettings, load_settings

    return Store(load_settings(BundleSettings).bundles)


def load_bundle(output: Output, model: str) -> Bundle:
    """Load `NAME` or `NAME:VARIANT`, or end the command."""
    with output.exit_on(mistakes=(UnknownModel,), failures=(BrokenBundle, OSError)):
        return store().load(model)


def own_bundle(output: Output, name: str) -> Bundle:
    """Load a bundle that the user may add to, or end the command."""
    with output.exit_on(mistakes=(UnknownModel,), failures=(BrokenBundle, OSError)):
        return store().load_writable(name)

"""Settings, read once from the environment in each program's main and then passed on.

This package is the one source of every default. docs/configuration.md is generated from it.
"""

from samserve.infra.settings.common import (
    BundleSettings,
    CommonSettings,
    ListenerSettings,
    ProcessSettings,
)
from samserve.infra.settings.decoder import DecoderSettings
from samserve.infra.settings.edge import EdgeSettings
from samserve.infra.settings.embedding import EmbeddingSettings
from samserve.infra.settings.gateway import GatewaySettings
from samserve.infra.settings.identity import IdentitySettings, KeySettings
from samserve.infra.settings.load import (
    load_settings,
    parse_arguments,
    unknown_variable_warnings,
    variable_of,
)
from samserve.infra.settings.values import EnvironmentSettings, require_otlp_extra

__all__ = [
    "BundleSettings",
    "CommonSettings",
    "DecoderSettings",
    "EdgeSettings",
    "EmbeddingSettings",
    "EnvironmentSettings",
    "GatewaySettings",
    "IdentitySettings",
    "KeySettings",
    "ListenerSettings",
    "ProcessSettings",
    "load_settings",
    "parse_arguments",
    "require_otlp_extra",
    "unknown_variable_warnings",
    "variable_of",
]

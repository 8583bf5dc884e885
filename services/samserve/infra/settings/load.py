"""Reads settings from the environment, and tells what is wrong with it."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Mapping
from typing import TypeVar

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo

from samserve.infra.settings.decoder import DecoderSettings
from samserve.infra.settings.edge import EdgeSettings
from samserve.infra.settings.embedding import EmbeddingSettings
from samserve.infra.settings.gateway import GatewaySettings
from samserve.infra.settings.identity import IdentitySettings
from samserve.infra.settings.values import PREFIX, EnvironmentSettings

OTHER_VARIABLES = frozenset({"SAMSERVE_API_KEY", "SAMSERVE_LARGE"})  # of the client, of tests
SECRET_NAMES = {"SECRET", "TOKEN", "PEPPER"}  # in the names of variables whose values are not shown

Settings = TypeVar("Settings", bound=EnvironmentSettings)


def load_settings(kind: type[Settings]) -> Settings:
    """Read the settings from the environment.

    An invalid variable ends the program with status 2 and one line on stderr for each. An unknown
    one that begins with SAMSERVE_ is warned of on stderr.
    """
    for warning in unknown_variable_warnings(os.environ):
        sys.stderr.write(f"{warning}\n")

    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors():
            if not problem["loc"]:  # of several variables together
                sys.stderr.write(f"{problem['msg'].removeprefix('Value error, ')}\n")
                continue
            name = str(problem["loc"][0])
            variable = name if name.isupper() else PREFIX + name.upper()
            value = "***" if SECRET_NAMES & set(variable.split("_")) else repr(problem["input"])
            sys.stderr.write(f"{variable}={value}: {problem['msg']}\n")
        raise SystemExit(2) from None


def parse_arguments(program: str, summary: str, kind: type[EnvironmentSettings]) -> None:
    """Answer --help with the variables of a program, and refuse all other arguments.

    Args:
        program: The command that starts it.
        summary: One line.
        kind: Its settings.
    """
    variables = [
        f"  {variable_of(name, field)}\n    {field.description}"
        for name, field in sorted(kind.model_fields.items())
    ]
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"{summary} It takes no arguments, only environment variables.",
        epilog="\n".join(["environment variables:", *variables]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()


def variable_of(name: str, field: FieldInfo) -> str:
    """Return the environment variable that a field of the settings is read from."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else PREFIX + name.upper()


def unknown_variable_warnings(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that begins with SAMSERVE_ and that no program reads.

    The variables of all programs are known to each, since they often share one environment.
    """
    known = OTHER_VARIABLES | {
        variable_of(name, field)
        for kind in (
            EmbeddingSettings,
            DecoderSettings,
            GatewaySettings,
            EdgeSettings,
            IdentitySettings,
        )
        for name, field in kind.model_fields.items()
    }
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)

    warnings = []
    for name in unknown:
        closest = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        warnings.append(f"unknown variable {name} is ignored{hint}")
    return warnings

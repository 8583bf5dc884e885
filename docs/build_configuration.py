"""Writes docs/configuration.md from the settings' descriptions.

python docs/build_configuration.py            write the page
python docs/build_configuration.py --check    fail if the page is out of date
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo
from samserve.infra.addresses import DECODER_ADDRESS, EMBEDDING_ADDRESS
from samserve.infra.settings import (
    BundleSettings,
    CommonSettings,
    DecoderSettings,
    EdgeSettings,
    EmbeddingSettings,
    EnvironmentSettings,
    GatewaySettings,
    IdentitySettings,
    ListenerSettings,
    ProcessSettings,
    variable_of,
)

DOCS = Path(__file__).parent
PAGE = DOCS / "configuration.md"

INTRODUCTION = """\
# Configuration

<!-- Written by docs/build_configuration.py from services/samserve/infra/settings. -->

Programs read their settings from environment variables, once, at start.

- An invalid value ends the program with exit status 2 and a line on stderr that names the variable.
- An unknown variable that begins with `SAMSERVE_` is ignored. A line on stderr warns of it and
  names the closest known one.
- A service ignores the variables of the others, so all can share one environment.

In Kubernetes, set more variables through the chart's `settings` of `embedding`, `decoder` and
`gateway` ([kubernetes.md](kubernetes.md)).
"""


def decision(number: int) -> str:
    """Return a link to a decision note."""
    (note,) = DOCS.glob(f"decisions/{number:04}-*.md")
    return f"[decision {number:04}](decisions/{note.name})"


# Variables that no settings class reads: variable, default, meaning.
OTHERS = {
    "Client and command line": [
        ("DECODER_URL", DECODER_ADDRESS, "Address of the decoder."),
        ("EMBEDDING_URL", EMBEDDING_ADDRESS, "Address of the embedding service."),
        ("SAMSERVE_API_KEY", "", "API key that the commands send to the edge."),
        ("REDIS_URL", "", "Redis that `samserve up` uses; without it, the command starts one."),
        ("TRITON_URL", "", "Triton that `samserve up` uses; without it, the command starts one."),
        ("SAMSERVE_CACHE_CODING", "small", "Coding that `samserve up` gives its services."),
        ("XDG_DATA_HOME", "~/.local/share", "Base of the default of `SAMSERVE_BUNDLES`."),
        (
            "XDG_STATE_HOME",
            "~/.local/state",
            "Folder for the state of `samserve up`; another one allows a second stack.",
        ),
    ],
    "Ray and Prometheus": [
        (
            "RAY_SERVE_ENABLE_HA_PROXY",
            "1",
            "1 puts HAProxy before the replicas; 0 uses Ray Serve's own proxy, which is slower "
            f"({decision(11)}).",
        ),
        (
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
            "8503",
            "HTTP port of Ray Serve's own proxy, which HAProxy falls back to.",
        ),
        (
            "PROMETHEUS_MULTIPROC_DIR",
            "",
            "Folder in which the replicas share their metrics; by default a temporary one.",
        ),
    ],
    "Traces": [
        (
            "OTEL_TRACES_SAMPLER",
            "parentbased_always_on",
            "Sampler of OpenTelemetry; its other `OTEL_*` variables apply, too.",
        ),
    ],
    "Tests": [
        (
            "SAMSERVE_LARGE",
            "",
            "Full-size checkpoints to test, such as `sam-vit-b`; minutes and gigabytes.",
        ),
        ("CHART_RAY", "", "1 tests the chart's Serve config on a real Ray."),
        ("FAULT_SECONDS", "12", "Length of the load in each fault test, in seconds."),
    ],
}

Row = tuple[str, str, str, str]


def page() -> str:
    """Return the page's text."""
    every, common = set(ProcessSettings.model_fields), set(CommonSettings.model_fields)
    parts = [
        INTRODUCTION,
        section("All services", rows(ProcessSettings)),
        section("Embedding service and decoder", rows(CommonSettings, every)),
        section("Embedding service", rows(EmbeddingSettings, common)),
        section("Decoder", rows(DecoderSettings, common)),
        section("Gateway", rows(GatewaySettings, every)),
        section("Authoriser", rows(IdentitySettings, every)),
        section("Edge", rows(EdgeSettings, ListenerSettings.model_fields)),
    ]

    for title, variables in OTHERS.items():
        listed = [(name, code(default), "", meaning) for name, default, meaning in variables]
        if title == "Client and command line":
            listed += [(name, default, "", text) for name, default, _, text in rows(BundleSettings)]
        parts.append(section(title, listed))

    return "\n".join(parts)


def section(title: str, listed: Iterable[Row]) -> str:
    """Return a heading and a table; the column of values is left out if it is empty."""
    ordered = sorted(listed)
    head = ["Variable", "Default", "Values", "Meaning"]
    columns = [0, 1, 2, 3] if any(values for _, _, values, _ in ordered) else [0, 1, 3]

    lines = [head, ["---"] * 4, *([f"`{row[0]}`", *row[1:]] for row in ordered)]
    table = ["| " + " | ".join(line[column] for column in columns) + " |" for line in lines]
    return "\n".join([f"## {title}", "", *table, ""])


def rows(kind: type[EnvironmentSettings], without: Iterable[str] = ()) -> list[Row]:
    """Return a row for each field of a settings class."""
    return [
        (variable_of(name, field), default_of(field), values_of(field), str(field.description))
        for name, field in kind.model_fields.items()
        if name not in without
    ]


def default_of(field: FieldInfo) -> str:
    """Return the default as one would write it in the environment."""
    value: Any = field.get_default(call_default_factory=True)
    match value:
        case dict():
            return code(",".join(f"{name}={model}" for name, model in value.items()))
        case tuple():
            return code(",".join(value))
        case Path():
            return code(str(value).replace(str(Path.home()), "~"))
        case int() if value >= 2**20 and value % 2**20 == 0:
            return f"{code(value)} ({value // 2**20} MiB)"
        case _:
            return code(value)


def values_of(field: FieldInfo) -> str:
    """Return the kind of value, and its bounds."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(code(value) for value in get_args(field.annotation))

    kinds: dict[Any, str] = {int: "integer", float: "number", Path: "folder"}
    words = [kinds.get(field.annotation, "text")]
    for bound in field.metadata:
        match bound:
            case Gt():
                words.append(f"over {bound.gt}")
            case Ge():
                words.append(f"from {bound.ge}")
            case Le():
                words.append(f"to {bound.le}")
    return " ".join(words)


def code(value: object) -> str:
    """Format a value as code; nothing stays nothing."""
    return f"`{value}`" if str(value) else "none"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/configuration.md.")
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    check = parser.parse_args().check

    os.environ.pop("XDG_DATA_HOME", None)  # the page shows the default without it
    text = page()
    if not check:
        PAGE.write_text(text)
        return 0

    if not PAGE.is_file() or PAGE.read_text() != text:
        sys.stderr.write(f"{PAGE.name} is out of date: run python docs/{Path(__file__).name}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

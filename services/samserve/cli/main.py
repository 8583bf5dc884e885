"""The command line: `samserve ...`.

Exit codes: 0 success, 1 failure, 2 the caller's mistake, 130 interrupted. Errors go to stderr; with
`--json` stdout has JSON only.
"""

from __future__ import annotations

import typer

from samserve.cli import (
    embed,
    everything,
    find,
    keys,
    label_studio,
    models,
    segment,
    stack,
    tenants,
)
from samserve.cli.console import Command

app = typer.Typer(
    help="Serve the Segment Anything family: click on an image, get the object's mask.",
    no_args_is_help=True,
)

app.command("up", cls=Command)(stack.up)
app.command("status", cls=Command)(stack.status)
app.command("segment", cls=Command)(segment.segment)
app.command("find", cls=Command)(find.find)
app.command("embed", cls=Command)(embed.embed)
app.command("everything", cls=Command)(everything.everything)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(tenants.app, name="tenants")
app.add_typer(label_studio.app, name="label-studio")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()

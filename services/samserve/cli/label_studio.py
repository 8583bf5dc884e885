"""`samserve label-studio check`: what Label Studio would see of the gateway, step by step."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from samserve.cli.console import Command, Json, Output

app = typer.Typer(help="Work with Label Studio.", no_args_is_help=True)

Studio = Annotated[
    str,
    typer.Option(
        envvar="SAMSERVE_LABEL_STUDIO_URL", help="URL of Label Studio, as the gateway has it."
    ),
]
Token = Annotated[
    str,
    typer.Option(
        envvar="SAMSERVE_LABEL_STUDIO_TOKEN",
        help="Its token, as the gateway has it. Better set the variable: options are seen by all.",
    ),
]


@app.callback()
def label_studio() -> None:
    """Work with Label Studio."""


@app.command("check", cls=Command)
def check(
    url: Annotated[
        str, typer.Argument(help="Of the backend: http://GATEWAY:8503/label-studio, or the like.")
    ],
    studio: Studio = "",
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Print what Label Studio would see: health, setup, an image with the token, a prediction.

    Exit code 0: every step succeeded or was skipped; 1: one failed.
    """
    from samserve.gateway.label_studio import check as label_studio_check

    output = Output(as_json)
    steps = []

    async def run() -> None:
        async for step in label_studio_check.steps(url.rstrip("/"), studio, token):
            steps.append(step)
            if not as_json:
                output.print_text(f"{step.state:8}{step.name:8}{step.detail}")

    asyncio.run(run())
    failed = [step.name for step in steps if step.state == label_studio_check.FAILED]
    if as_json:
        output.print_json(
            {"url": url, "ok": not failed, "steps": [each.as_json() for each in steps]}
        )
    if failed:
        raise typer.Exit(1)

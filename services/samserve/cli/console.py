"""The consoles, the `--json` option, and how a command fails."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperCommand

from samserve.core.errors import InvalidInput, ModelNotFound, ModelVersionMismatch, NoConcepts

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

CALLER_ERRORS = (InvalidInput, ModelNotFound, ModelVersionMismatch, NoConcepts)  # exit code 2
Errors = tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class Output:
    """The output of one command.

    Attributes:
        as_json: whether the command was called with --json.
    """

    as_json: bool = False

    def print_json(self, value: Any) -> None:
        """Print one line of JSON on stdout."""
        print(json.dumps(value), flush=True)

    def print_text(self, text: str) -> None:
        """Print text on stdout as it is, without markup or line breaks."""
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    def fail(
        self, code: int, message: str, *, details: Mapping[str, Any] | None = None
    ) -> NoReturn:
        """End the command: the message on stderr and, with --json, `{"error": ...}` on stdout.

        Args:
            code: 2 for the caller's mistake, 1 for any other failure.
            message: what is wrong, and what to do.
            details: further fields beside "error".
        """
        if self.as_json:
            self.print_json({**(details or {}), "error": message})
        err.print(f"samserve: {message}", markup=False, highlight=False)
        raise typer.Exit(code)

    @contextmanager
    def exit_on(self, *, mistakes: Errors = (), failures: Errors = ()) -> Iterator[None]:
        """End the command if the block raises one of these errors.

        Args:
            mistakes: errors of the caller, exit code 2; checked first.
            failures: all others, exit code 1.
        """
        try:
            yield
        except mistakes as problem:
            self.fail(2, str(problem))
        except failures as problem:
            self.fail(1, str(problem))


class Command(TyperCommand):
    """A command that prints its usage errors and its bugs as JSON too, if called with --json."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        as_json = "--json" in args
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as problem:
            if as_json:
                Output(as_json).print_json({"error": _usage_error(problem)})
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as problem:
            if ctx.params.get("as_json"):
                message = f"internal error: {type(problem).__name__}: {problem}"
                Output(as_json=True).print_json({"error": message})
            raise


def _usage_error(problem: Any) -> str:
    return str(problem.format_message() if hasattr(problem, "format_message") else problem)

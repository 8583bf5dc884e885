"""`samserve up` and `samserve status`: the stack of this machine."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from samserve.bundles.names import parse_models
from samserve.bundles.triton_repository import check_passed
from samserve.cli.console import Json, Output, err, out
from samserve.cli.store import store
from samserve.codec.tensors import Coding

if TYPE_CHECKING:
    from samserve.local.stack import StackOptions
    from samserve.local.state import Addresses

POLL_SECONDS = 0.2  # between two looks at the parts
SUPERVISION_SECONDS = 0.5  # likewise, of `samserve up` itself


def up(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to serve, NAME or NAME:VARIANT; repeatable, the first is the default."
        ),
    ] = None,
    gateway_port: Annotated[
        int, typer.Option(help="Port of the HTTP gateway; 0 for any free port.")
    ] = 8503,
    embedding_port: Annotated[
        int, typer.Option(help="Port of the embedding service; 0 for any free port.")
    ] = 8500,
    decoder_port: Annotated[
        int, typer.Option(help="Port of the decoder; 0 for any free port.")
    ] = 8501,
    edge_port: Annotated[
        int, typer.Option(help="Port of the edge, for all callers; 0 for any free port.")
    ] = 8504,
    edge: Annotated[
        bool, typer.Option(help="Start the edge (Envoy) in front of the services.")
    ] = True,
    tls: Annotated[
        bool,
        typer.Option("--tls", help="Have the edge speak TLS, with a CA made for this run."),
    ] = False,
    keys: Annotated[
        bool,
        typer.Option("--keys", help="Have the edge ask for API keys; see `samserve keys`."),
    ] = False,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the embedding service.")] = 1,
    cache_coding: Annotated[
        Coding,
        typer.Option(
            envvar="SAMSERVE_CACHE_CODING",
            help="Coding of cached embeddings: small (lossy) or exact.",
        ),
    ] = "small",
    redis_url: Annotated[
        str, typer.Option(envvar="REDIS_URL", help="Use a running Redis, redis://host:port/0.")
    ] = "",
    triton_url: Annotated[
        str, typer.Option(envvar="TRITON_URL", help="Use a running Triton, host:port.")
    ] = "",
) -> None:
    """Run the whole stack until Ctrl-C: Triton, Redis, the services, the gateway, and the edge."""
    from samserve.local import state
    from samserve.local.process import StartFailed
    from samserve.local.stack import StackOptions

    output = Output()
    if (tls or keys) and not edge:
        output.fail(2, f"{'--tls' if tls else '--keys'} needs the edge; leave out --no-edge")
    models = _servable_models(output, model or ["nano"])
    if state.load_state() is not None:
        output.fail(
            2,
            "a stack already runs on this machine; see `samserve status`. "
            f"Its state is in {state.state_file()}; set XDG_STATE_HOME to run a second one",
        )

    options = StackOptions(
        models=models,
        bundles=store().folder,
        cache_coding=cache_coding,
        gateway_port=gateway_port,
        embedding_port=embedding_port,
        decoder_port=decoder_port,
        edge_port=edge_port,
        edge=edge,
        keys=keys,
        tls_folder=state.state_folder() / "tls" if tls else None,
        replicas=replicas,
        redis_url=redis_url,
        triton_url=triton_url,
    )

    with output.exit_on(failures=(StartFailed,)):
        _run_until_stopped(options)


def status(
    wait: Annotated[
        float, typer.Option(help="Seconds to wait until the stack is ready; 0 to look once.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Show whether the stack of this machine is ready, and the addresses of its parts.

    Exit code 0: ready; 1: not ready, or no stack runs.
    """
    output = Output(as_json)
    addresses, parts = _readiness_within(wait)
    if addresses is None:
        output.fail(1, "no stack runs on this machine; start one with `samserve up`")

    ready = all(parts.values())
    if as_json:
        output.print_json(
            {
                "ready": ready,
                "models": addresses.models,
                "parts": parts,
                "addresses": addresses.shown(),
                "restarts": addresses.restarts,
            }
        )
    else:
        _print_status(addresses, parts)
    raise typer.Exit(0 if ready else 1)


def _servable_models(output: Output, models: list[str]) -> tuple[str, ...]:
    """The models, if they can be served together."""
    with output.exit_on(mistakes=(ValueError,)):
        names = parse_models(",".join(models))
        for bundle in store().load_all(names):
            check_passed(bundle)
    return names


def _run_until_stopped(options: StackOptions) -> None:
    from samserve.local import state
    from samserve.local.stack import running

    _exit_on_signals()

    with running(options, lambda part: err.print(f"starting {part}")) as stack:
        state.save_state(stack.addresses)
        for name, address in stack.addresses.shown().items():
            err.print(f"[green]ready[/]  {name:<10} {address}", highlight=False)
        err.print("press Ctrl-C to stop the stack", highlight=False)

        def report(event: str) -> None:
            err.print(event, highlight=False)
            state.save_state(stack.addresses)

        try:
            while True:
                time.sleep(SUPERVISION_SECONDS)
                stack.restart_dead_parts(report)
        finally:
            state.delete_state()


def _exit_on_signals() -> None:
    """Have the first Ctrl-C or SIGTERM stop the stack at once, also while it starts."""

    def stop(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        err.print("stopping")
        sys.exit(0)

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        signal.signal(number, stop)


def _readiness_within(seconds: float) -> tuple[Addresses | None, dict[str, bool]]:
    """The running stack's addresses and parts, once all are ready or the time is up."""
    from samserve.local import probes, state

    deadline = time.monotonic() + seconds
    while True:
        addresses = state.load_state()
        parts = probes.readiness(addresses) if addresses else {}
        if (parts and all(parts.values())) or time.monotonic() >= deadline:
            return addresses, parts
        time.sleep(POLL_SECONDS)


def _print_status(addresses: Addresses, parts: dict[str, bool]) -> None:
    labels = {True: "[green]ready[/]", False: "[red]not ready[/]", None: ""}
    out.print(f"{'models':<16} {', '.join(addresses.models)}", highlight=False)
    for name, address in addresses.shown().items():
        restarts = addresses.restarts.get(name, 0)
        note = f"  restarted {restarts} times" if restarts else ""
        label = labels[parts.get(name)]
        out.print(f"{name:<16} {address:<32} {label}{note}", highlight=False)

"""Work on a pool of threads, on behalf of the call that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run_in_pool(
    pool: Executor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """Run the work in the pool, with the log fields and the trace of the current call."""
    context = copy_context()
    return asyncio.get_running_loop().run_in_executor(
        pool, lambda: context.run(work, *args, **kwargs)
    )

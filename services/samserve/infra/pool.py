"""Work on a pool of threads, on behalf of the call that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def submit(pool: Executor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Submit the work to the pool, with the log fields and the trace of the current call.

    `cancel` drops work that has not begun. Work that runs cannot be stopped: the future is done
    when its thread is.
    """
    context = copy_context()
    return pool.submit(lambda: context.run(work, *args, **kwargs))


def run_in_pool(
    pool: Executor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """Run the work in the pool as `submit` does, for a caller on the event loop to await.

    When the caller is cancelled, work that has not begun is dropped.
    """
    return asyncio.wrap_future(submit(pool, work, *args, **kwargs))

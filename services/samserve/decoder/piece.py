"""A piece of work that waits in this process before it enters a pool of threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from contextvars import copy_context
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Piece(Future[Result], Generic[Result]):
    """A future of the work's result. `cancel` drops work that has not begun.

    Attributes:
        in_turn: Whether it is of a batch, and so has a turn.
        entered: Whether it has entered the pool.
    """

    def __init__(self, work: Callable[[], Result], *, in_turn: bool) -> None:
        """Wait. The work has the log fields and the trace of the current call."""
        super().__init__()
        self.in_turn = in_turn
        self._work = work
        self._context = copy_context()
        self._inner: Future[Result] | None = None

    @property
    def entered(self) -> bool:
        return self._inner is not None

    def enter(self, pool: Executor) -> None:
        """Enter the pool."""
        self._inner = pool.submit(self._run)
        self._inner.add_done_callback(self._take)

    def cancel(self) -> bool:
        """Drop the work if it has not begun; return whether it has not."""
        return super().cancel() if self._inner is None else self._inner.cancel()

    def refuse(self, error: Exception) -> None:
        """Drop the work and raise an error to its caller."""
        if not self.done():
            self.set_exception(error)

    def _run(self) -> Result:
        return self._context.run(self._work)

    def _take(self, inner: Future[Result]) -> None:
        """Take the result over, in the thread that made it."""
        try:
            self.set_result(inner.result())
        except CancelledError:
            super().cancel()
        except InvalidStateError:
            return
        except BaseException as error:
            self.set_exception(error)

"""Streams in progress, which end when their image or their tenant is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from samserve.core.errors import EmbeddingNotCached
from samserve.infra.deletions import Deletion

End = Callable[[Exception], None]


class OpenWork:
    """Knows what streams work on. For one event loop."""

    def __init__(self) -> None:
        self._open: dict[object, tuple[str, str, End]] = {}

    @contextmanager
    def on(self, owner: str, image_id: str, end: End) -> Iterator[None]:
        """Work on an image of an owner during the block; `end` is called if it is deleted."""
        number = object()
        self._open[number] = owner, image_id, end
        try:
            yield
        finally:
            del self._open[number]

    def end(self, deletion: Deletion) -> None:
        """End the streams that work on what was deleted."""
        for owner, image_id, end in list(self._open.values()):
            if owner == deletion.owner and deletion.image_id in ("", image_id):
                end(EmbeddingNotCached(image_id))

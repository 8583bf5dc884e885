"""One stack of two replicas, for tests that break its parts one by one."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import skimage.data
from faults.load import Sample
from PIL import Image
from samserve.client import Click, Client
from samserve.local.stack import Stack, StackOptions
from stacks import CAP, client, encoded, new_photo, patience, started

__all__ = ["client", "encoded", "new_photo", "patience"]


@pytest.fixture(scope="package")
def stack(patience: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(
        StackOptions(replicas=2, triton_control=True), tmp_path_factory.mktemp("stack")
    ) as stack:
        yield stack


@pytest.fixture(scope="package")
def samples(stack: Stack) -> list[Sample]:
    """Images whose clicks have one clear answer: no other image's mask passes for it."""
    with Client(stack.addresses.decoder, stack.addresses.embedding, timeout=CAP) as client:
        return [
            _sample(client, *each)
            for each in (("coins", 213, 193), ("coffee", 330, 200), ("chelsea", 220, 150))
        ]


def _sample(client: Client, name: str, x: float, y: float) -> Sample:
    out = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(out, "PNG")
    photo, click = out.getvalue(), Click(x, y)
    client.segment(photo, [click])
    return Sample(photo, click, client.segment(photo, [click]).masks[0].array())

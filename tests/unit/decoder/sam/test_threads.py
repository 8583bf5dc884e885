import threading

import pytest
from samserve.decoder.sam.threads import ThreadShare, WorkerPool


@pytest.mark.parametrize(("cells", "threads"), [(4096, 1), (4096, 2), (4096, 3), (64, 4), (128, 7)])
def test_spans_cover_every_cell_once_and_hold_whole_tiles(cells: int, threads: int) -> None:
    spans = ThreadShare(cells, threads).spans
    assert [first for first, _ in spans] == [0, *(last for _, last in spans[:-1])]
    assert spans[-1][1] == cells
    assert all(first % 64 == 0 and first < last for first, last in spans)
    assert len(spans) <= threads


def test_work_is_split_between_the_caller_and_the_workers() -> None:
    meeting = threading.Barrier(2)  # passed only if both are at work at the same time

    def work(first: int, last: int) -> tuple[int, int, bool]:
        meeting.wait(10)
        return first, last, threading.current_thread() is threading.main_thread()

    done = ThreadShare(4096, 2, WorkerPool(2)).map_spans(work)
    assert done == [(0, 2048, True), (2048, 4096, False)]


def test_items_are_answered_in_their_order() -> None:
    assert ThreadShare(4096, 2, WorkerPool(2)).map(lambda item: item * item, range(20)) == [
        n * n for n in range(20)
    ]


def test_a_worker_s_failure_reaches_the_caller() -> None:
    def work(first: int, _: int) -> None:
        if first:
            raise ValueError("span")

    with pytest.raises(ValueError, match="span"):
        ThreadShare(4096, 2, WorkerPool(2)).map_spans(work)

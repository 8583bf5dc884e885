"""What one user's clicks tell of the service times."""

from __future__ import annotations

import pytest
from calibrate import service_times
from traffic.run import Run
from traffic.samples import FIRST, REFINE, Sample
from traffic.scenario import Scenario


def run_of(decode: float, taken: float, decoder: float, generator: float = 2.0) -> Run:
    """100 clicks in 10 s that decode in so many milliseconds, refining ones in twice as many, and take so much more;
    decoder, generator: milliseconds of processor a click.
    """
    clicks = []
    for kind, times in ((FIRST, 1), (REFINE, 2)):
        ended = 1 + (decode * times + taken) / 1000
        clicks += [Sample(kind, 1, 1, ended, "OK", decode=decode * times - 1, masks=1.0)] * 50
    cores = {"decoder": decoder * 10 / 1000, "generator": generator * 10 / 1000}
    return Run(Scenario(seconds=10, settling=1), clicks, {}, cores, [])


def test_what_a_decoder_of_one_thread_uses_besides_its_decode_is_the_way_to_it() -> None:
    times = service_times(run_of(6, taken=5, decoder=16), run_of(10, taken=5, decoder=18), threads=2)
    assert times.decoder_rpc == pytest.approx(3)
    assert times.generator == pytest.approx(2)
    assert times.on_path == pytest.approx(1)
    assert times.wire == pytest.approx(0)
    assert times.first.one == pytest.approx([10.0] * 50)
    assert times.refine.every == pytest.approx([12.0] * 50)
    assert times.first.every_cpu == pytest.approx(6 * 13 / 9)


def test_what_is_neither_decode_nor_processor_is_waiting() -> None:
    times = service_times(run_of(6, taken=9, decoder=16), run_of(10, taken=9, decoder=18), threads=2)
    assert times.on_path == 1
    assert times.wire == pytest.approx(4)


def test_processor_time_after_the_answer_is_not_on_the_callers_path() -> None:
    times = service_times(run_of(6, taken=2.5, decoder=16), run_of(10, taken=2.5, decoder=18), threads=2)
    assert times.on_path == pytest.approx(0.5)
    assert times.wire == 0


def test_a_decode_never_uses_more_cores_than_it_has_threads() -> None:
    times = service_times(run_of(6, taken=5, decoder=60), run_of(10, taken=5, decoder=18), threads=2)
    assert times.first.every_cpu == pytest.approx(12)

"""Service times derived from the clicks of one user."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.capacity.calibrate import heat_of, rested, service_times
from loadtest.capacity.simulation.calibration import Heat
from loadtest.load.traffic.run import Run
from loadtest.load.traffic.samples import FIRST, REFINE, Sample
from loadtest.load.traffic.scenario import Scenario


def run_of(decode: float, taken: float, decoder: float, generator: float = 2.0) -> Run:
    """100 clicks in 10 s, half of them refining.

    Args:
        decode: Milliseconds of a first click's decode; a refining click takes twice as long.
        taken: Milliseconds of a click's latency without the decode.
        decoder: CPU milliseconds of the decoder per click.
        generator: CPU milliseconds of the generator per click.
    """
    clicks = []
    for kind, times in ((FIRST, 1), (REFINE, 2)):
        ended = 1 + (decode * times + taken) / 1000
        clicks += [Sample(kind, 1, 1, ended, "OK", decode=decode * times - 1, masks=1.0)] * 50
    cores = {"decoder": decoder * 10 / 1000, "generator": generator * 10 / 1000}
    return Run(Scenario(seconds=10, settling=1), clicks, {}, cores, [])


def test_cpu_time_of_a_single_thread_beyond_its_decode_is_the_round_trip() -> None:
    times = service_times(
        run_of(6, taken=5, decoder=16), run_of(10, taken=5, decoder=18), threads=2
    )

    assert times.decoder_rpc == pytest.approx(3)
    assert times.generator == pytest.approx(2)
    assert times.on_path == pytest.approx(1)
    assert times.wire == pytest.approx(0)
    assert times.first.one == pytest.approx([10.0] * 50)
    assert times.refine.every == pytest.approx([12.0] * 50)
    assert times.first.every_cpu == pytest.approx(6 * 13 / 9)


def test_latency_beyond_decode_and_cpu_time_is_delay() -> None:
    times = service_times(
        run_of(6, taken=9, decoder=16), run_of(10, taken=9, decoder=18), threads=2
    )

    assert times.on_path == 1
    assert times.wire == pytest.approx(4)


def test_processor_time_after_the_answer_is_not_on_the_callers_path() -> None:
    times = service_times(
        run_of(6, taken=2.5, decoder=16), run_of(10, taken=2.5, decoder=18), threads=2
    )

    assert times.on_path == pytest.approx(0.5)
    assert times.wire == 0


def test_a_decode_never_uses_more_cores_than_it_has_threads() -> None:
    times = service_times(
        run_of(6, taken=5, decoder=60), run_of(10, taken=5, decoder=18), threads=2
    )
    assert times.first.every_cpu == pytest.approx(12)


def user(heat: Heat, pauses: list[float]) -> Run:
    """One user who clicks after each of these pauses, in milliseconds."""
    clicks, now = [], 0.0
    for number, pause in enumerate([1000.0, *pauses]):
        kind, times = ((FIRST, 1), (REFINE, 2))[number % 2]
        now += pause / 1000
        decode = 10 * times * heat.factor(pause)
        clicks.append(
            Sample(
                kind,
                now,
                now,
                now + 1.2 * decode / 1000,
                "OK",
                decode=0.9 * decode,
                masks=0.1 * decode,
            )
        )
        now = clicks[-1].ended

    return Run(Scenario(seconds=10, settling=5), clicks, {}, {"decoder": 0.5}, [])


def test_heat_is_fitted_to_pauses_of_all_lengths_and_removed_again() -> None:
    pauses = np.random.default_rng(1).lognormal(3.4, 1.2, 400).tolist()
    load = user(Heat(0.15, 12.0), pauses)
    heat = heat_of([load])

    assert heat.hot == pytest.approx(0.15, abs=0.02)
    assert heat.cooling == pytest.approx(12, rel=0.25)

    cold = rested(load, heat)

    assert [s.latency for s in cold.samples if s.kind == FIRST] == pytest.approx(
        [12.0] * 200, rel=0.02
    )
    assert [s.decode + s.masks for s in cold.samples if s.kind == REFINE] == pytest.approx(
        [20.0] * 200, rel=0.02
    )
    assert 0.5 < cold.cores["decoder"] < 0.6

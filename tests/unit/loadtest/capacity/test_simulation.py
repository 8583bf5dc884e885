"""The simulation against results of queueing theory, and its parts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtest.capacity import simulate as simulate_module
from loadtest.capacity.calibrate import crowding
from loadtest.capacity.simulate import Comparison, rate_of_one, replicas
from loadtest.capacity.simulation.batcher import Batcher, Curve
from loadtest.capacity.simulation.calibration import (
    Calibration,
    Decode,
    Heat,
    read_calibration,
    write_calibration,
)
from loadtest.capacity.simulation.engine import Clock, Machine, Pool, Work
from loadtest.capacity.simulation.model import Demand, System, decode_work, simulate
from loadtest.load.traffic.arrivals import poisson
from loadtest.load.traffic.run import Run
from loadtest.load.traffic.scenario import SINGLES, Scenario

KNOWN = Calibration(
    machine={},
    cores=2,
    threads=2,
    bare=9.0,
    heat=Heat(0.0, 10.0),
    crowded=1.0,
    first=Decode([10.0], [6.0], 9.0),
    refine=Decode([10.0], [6.0], 9.0),
    decoder_rpc=1.0,
    generator=1.0,
    on_path=1.0,
    wire=0.5,
    prepare=20.0,
    get=5.0,
    entry_bytes=750_000,
    encode={1: 100.0, 8: 400.0},
)


def mean_time(threads: int, load: float, works: list[float]) -> float:
    """Mean time in a pool with one core per thread, for Poisson arrivals of these works [s]."""
    clock = Clock()
    pool = Pool(Machine(clock, threads), threads)
    times: list[float] = []
    rng = np.random.default_rng(5)
    rate = load * threads / np.mean(works)
    for arrival, work in zip(poisson(rate, len(works) / rate, rng), works, strict=False):

        def arrive(arrival: float = float(arrival), work: float = float(work)) -> None:
            pool.submit(lambda _: Work(work), lambda: times.append(clock.now - arrival))

        clock.at(float(arrival), arrive)

    clock.run()

    return float(np.mean(times))


@pytest.mark.parametrize("load", [0.4, 0.6])
def test_one_thread_and_exponential_work_is_m_m_1(load: float) -> None:
    works = np.random.default_rng(1).exponential(1, 15_000).tolist()
    assert mean_time(1, load, works) == pytest.approx(1 / (1 - load), rel=0.08)


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_one_thread_and_equal_work_is_m_d_1(load: float) -> None:
    assert mean_time(1, load, [1.0] * 15_000) == pytest.approx(
        1 + load / (2 * (1 - load)), rel=0.05
    )


@pytest.mark.parametrize("threads", [2, 3])
def test_several_threads_and_exponential_work_is_m_m_c(threads: int) -> None:
    load = 0.6
    works = np.random.default_rng(2).exponential(1, 15_000).tolist()
    offered = load * threads
    waits = offered**threads / math.factorial(threads) / (1 - load)
    erlang_c = waits / (sum(offered**k / math.factorial(k) for k in range(threads)) + waits)

    assert mean_time(threads, load, works) == pytest.approx(
        1 + erlang_c / (threads * (1 - load)), rel=0.08
    )


def test_tasks_share_a_core_evenly() -> None:
    clock = Clock()
    machine = Machine(clock, 1)
    ends: dict[str, float] = {}
    machine.run(Work(1.0), lambda: ends.setdefault("short", clock.now))
    machine.run(Work(2.0), lambda: ends.setdefault("long", clock.now))
    clock.run()

    assert ends == pytest.approx({"short": 2.0, "long": 3.0})


def test_threads_that_wait_for_each_other_run_at_the_pace_of_the_slowest() -> None:
    clock = Clock()
    machine = Machine(clock, 2)
    ends: list[float] = []
    machine.run(Work(3.0, threads=2, most=1.5), lambda: ends.append(clock.now))
    clock.run()

    assert ends == pytest.approx([2.0])

    machine.run(Work(4.0, threads=2, most=2.0), lambda: ends.append(clock.now))
    machine.run(
        Work(1.0), lambda: ends.append(clock.now)
    )  # one core for this task; half of each core for the others
    clock.run()

    assert ends[1:] == pytest.approx([3.0, 4.5])


def test_crowded_cores_are_slower_only_while_they_are_crowded() -> None:
    clock = Clock()
    machine = Machine(clock, 2, crowded=0.5)
    ends: list[float] = []
    machine.run(Work(1.0), lambda: ends.append(clock.now))
    machine.run(Work(2.0), lambda: ends.append(clock.now))
    clock.run()

    assert ends == pytest.approx([2.0, 3.0])
    assert machine.used == pytest.approx(5.0)


def test_a_pool_with_a_full_queue_refuses_work() -> None:
    clock = Clock()
    pool = Pool(Machine(clock, 1), threads=1, queue=2)
    taken = [pool.submit(lambda _: Work(1.0), lambda: None) for _ in range(5)]
    assert taken == [True, True, True, False, False]


def test_a_batch_takes_requests_within_the_delay_up_to_its_maximum() -> None:
    clock = Clock()
    batcher = Batcher(Machine(clock, 1), Curve({1: 1.0, 4: 2.0}), most=4, delay=0.1)
    ends: list[float] = []
    for at in (0.0, 0.05, 0.2, 0.3, 0.4, 0.5, 0.6):
        clock.at(at, lambda: batcher.submit(lambda: ends.append(clock.now)))

    clock.run()

    assert batcher.batches == [2, 4, 1]
    assert ends[0] == pytest.approx(0.1 + 4 / 3)


def test_the_batch_curve_is_linear_between_sizes_and_proportional_beyond() -> None:
    curve = Curve({1: 1.0, 3: 2.0})
    assert [curve(1), curve(2), curve(3), curve(6)] == pytest.approx([1.0, 1.5, 2.0, 4.0])


def test_a_single_click_takes_the_sum_of_its_parts() -> None:
    prediction = simulate(System(), Demand(rate=0.5, seconds=200), KNOWN)
    assert prediction.percentiles["p50"] == pytest.approx(1.0 + 0.5 + 1.0 + 6.0)


def test_decoding_with_all_threads_takes_its_measured_time_on_a_machine_that_is_crowded() -> None:
    clock = Clock()
    machine = Machine(clock, 2, crowded=0.8)
    machine.run(decode_work(KNOWN.first, 0.0, 2, machine), lambda: None)
    clock.run()

    assert clock.now == pytest.approx(0.006)


def test_the_same_seed_predicts_the_same() -> None:
    first, second = (simulate(System(), Demand(40, seconds=40), KNOWN) for _ in range(2))
    assert first == second


def test_latency_grows_with_load_and_shrinks_with_machines() -> None:
    apart = System(together=False)
    low, high, two = (
        simulate(system, Demand(rate, seconds=60), KNOWN).percentiles["p95"]
        for system, rate in ((apart, 20), (apart, 130), (replace(apart, decoders=2), 130))
    )

    assert max(low, two) < high


def test_a_bounded_queue_refuses_overload_and_keeps_answering() -> None:
    prediction = simulate(System(queue=8), Demand(400, seconds=40), KNOWN)
    assert prediction.refused > 0.3
    assert prediction.answered > 100
    assert prediction.percentiles["p99"] < 500


def test_unprepared_images_take_longer_and_new_ones_longest() -> None:
    apart = System(together=False)
    ready, in_redis, new = (
        simulate(
            apart, replace(Demand(5, seconds=60), resident=resident, redis=redis), KNOWN
        ).percentiles["p50"]
        for resident, redis in ((1, 0), (0, 1), (0, 0))
    )

    assert ready < in_redis < new
    assert in_redis == pytest.approx(ready + 25.0, abs=1.0)


def test_the_load_carried_grows_with_the_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = System(together=False), Demand(1000, settling=5), 50, KNOWN
    each = rate_of_one(*arguments)
    assert 100 < each < 200

    # The search for the rate takes seconds, so it runs only once.
    monkeypatch.setattr(
        simulate_module, "rate_of_one", lambda *args: each if args == arguments else 0
    )
    assert replicas(*arguments) == math.ceil(1000 / each)


def test_a_target_below_a_single_click_is_refused() -> None:
    with pytest.raises(ValueError, match="a click alone"):
        replicas(System(together=False), Demand(10, settling=5), 5, KNOWN)


def test_a_calibration_read_from_its_file_is_equal(tmp_path: Path) -> None:
    write_calibration(KNOWN, tmp_path / "calibration.json")
    assert read_calibration(tmp_path / "calibration.json") == KNOWN
    with pytest.raises(FileNotFoundError, match=r"loadtest\.capacity\.calibrate"):
        read_calibration(tmp_path / "none.json")


def test_a_prediction_holds_within_15_percent() -> None:
    assert Comparison(1, 10, "p50", measured=10, bare=8, predicted=11.4, calibrated=8).holds
    assert not Comparison(1, 10, "p50", measured=10, bare=8, predicted=8.4, calibrated=8).holds


def test_the_comparison_cancels_a_change_in_the_machines_speed() -> None:
    assert Comparison(
        1, 10, "p50", measured=12, bare=9.6, predicted=10, calibrated=8
    ).off == pytest.approx(0)


def test_only_clicks_right_after_others_are_quicker() -> None:
    warm = replace(KNOWN, heat=Heat(0.2, 10.0))
    soon, late = (
        simulate(System(), Demand(users=1, think=think, seconds=100), warm).percentiles["p50"]
        for think in (0.001, 0.2)
    )

    assert late == pytest.approx(8.5)
    assert soon == pytest.approx(0.5 + 8 * (1 - 0.2 * math.exp(-0.1)))


def test_the_rate_of_a_closed_loop_follows_from_latency_and_pause() -> None:
    prediction = simulate(System(), Demand(users=1, think=0.1, seconds=200), KNOWN)
    assert prediction.answered == pytest.approx(1 / 0.1085, rel=0.01)
    assert prediction.percentiles["p95"] == pytest.approx(8.5)


def test_crowding_is_fitted_to_the_clicks_of_several_users() -> None:
    known, law = replace(KNOWN, crowded=0.8), {"users": 3, "think": 0.1, "think_sigma": 0.3}
    took = simulate(System(), Demand(**law, seconds=200, refining=0.6), known).percentiles["mean"]
    figures = {"decode_ms": 1.1 * KNOWN.bare, "click_mean_ms": 1.1 * took}
    load = Run(Scenario(arrivals=SINGLES, seconds=60, **law), [], figures, {}, [])

    assert crowding(KNOWN, [load, load]) == pytest.approx(0.8, abs=0.02)

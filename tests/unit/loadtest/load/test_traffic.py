"""Scenarios, arrivals, pictures, figures of samples, verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf.any_pb2 import Any as AnyProto
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from samserve.core.errors import InvalidInput, Overloaded
from samserve.wire.status import DETAILS_KEY, status_of

from loadtest.load.traffic.arrivals import at_least_one, maybe_none, pause, poisson, zipf
from loadtest.load.traffic.calls import retry_after, target
from loadtest.load.traffic.order import Order, read_order, write_order
from loadtest.load.traffic.pictures import known_pictures
from loadtest.load.traffic.run import THRESHOLDS
from loadtest.load.traffic.samples import (
    ALONE,
    FIRST,
    NEW,
    PROBE,
    REFINE,
    Sample,
    errors,
    good,
    percentiles,
    read_samples,
    recovery,
    write_samples,
)
from loadtest.load.traffic.scenario import CLICKS, Scenario, read_scenario
from loadtest.load.traffic.verdict import Judged, figures, judge, read_thresholds


def sample(
    intended: float, ms: float, kind: str = FIRST, code: str = "OK", told_when: bool = False
) -> Sample:
    return Sample(kind, intended, intended, intended + ms / 1000, code, told_when)


def test_a_poisson_process_has_its_rate_and_gaps_without_memory() -> None:
    times = poisson(50, 400, np.random.default_rng(0))
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert (gaps >= 0).all()
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    first, second = (poisson(10, 10, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)


def test_zipf_halves_for_the_second_most_popular() -> None:
    chances = zipf(10, 1)
    assert chances.sum() == pytest.approx(1)
    assert chances[0] == pytest.approx(2 * chances[1])
    assert zipf(4, 0) == pytest.approx([0.25] * 4)


def test_geometric_counts_have_their_means() -> None:
    rng = np.random.default_rng(0)
    objects = [at_least_one(4, rng) for _ in range(20_000)]
    refinements = [maybe_none(1.5, rng) for _ in range(20_000)]
    assert min(objects) == 1
    assert min(refinements) == 0
    assert np.mean(objects) == pytest.approx(4, rel=0.03)
    assert np.mean(refinements) == pytest.approx(1.5, rel=0.05)


def test_half_of_all_pauses_are_shorter_than_the_median() -> None:
    rng = np.random.default_rng(0)
    assert np.median([pause(1.5, 0.7, rng) for _ in range(20_000)]) == pytest.approx(1.5, rel=0.03)


def test_known_pictures_are_the_same_in_each_run_and_new_ones_never() -> None:
    first, second = (known_pictures(2, seed=3) for _ in range(2))
    assert [p.id for p in first] == [p.id for p in second]
    assert first[0].id != first[1].id
    assert first[0].anew().id != first[0].anew().id


def test_a_scenario_is_read_from_yaml_and_wrong_ones_are_named(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text("arrivals: clicks\nrate: 12\n")
    assert read_scenario(file) == Scenario(arrivals=CLICKS, rate=12)
    file.write_text("rates: 12\n")
    with pytest.raises(ValueError, match="no rates"):
        read_scenario(file)


@pytest.mark.parametrize(
    ("field", "value"), [("arrivals", "bursts"), ("rate", 0), ("new", 1.5), ("settling", 60)]
)
def test_a_scenario_that_means_nothing_is_refused_by_the_fields_name(
    field: str, value: object
) -> None:
    with pytest.raises(ValueError, match=field):
        Scenario(**{field: value})  # type: ignore[arg-type]


def test_an_order_survives_its_file(tmp_path: Path) -> None:
    order = Order(
        Scenario(rate=3), ("127.0.0.1:1", "127.0.0.1:2"), "127.0.0.1:3", {"decoder": 12}, tmp_path
    )
    assert read_order(write_order(order)) == order


def test_several_decoders_are_one_target() -> None:
    assert target(["10.0.0.1:1", "10.0.0.2:1"]) == "ipv4:10.0.0.1:1,10.0.0.2:1"
    assert target(["decoders.samserve:8501"]) == "dns:///decoders.samserve:8501"
    with pytest.raises(ValueError, match="by number"):
        target(["a:1", "b:1"])


class Failure:
    """What a call that failed has of a grpc.RpcError."""

    def __init__(self, status: status_pb2.Status | None) -> None:
        self._status = status

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        return [] if self._status is None else [(DETAILS_KEY, self._status.SerializeToString())]


def test_a_refusal_says_when_to_come_back_only_if_it_does() -> None:
    assert retry_after(Failure(status_of(Overloaded("the queue", 0.25)))) == pytest.approx(0.25)
    assert retry_after(Failure(status_of(InvalidInput("x", "wrong")))) is None
    assert retry_after(Failure(None)) is None
    packed = AnyProto()
    packed.Pack(details.RetryInfo())
    assert retry_after(Failure(status_pb2.Status(details=[packed]))) == 0


def test_time_counts_from_when_a_call_was_to_start() -> None:
    late = Sample(FIRST, intended=1.0, started=1.5, ended=1.6, code="OK")
    assert late.taken == pytest.approx(600)


def test_percentiles_are_of_the_answered() -> None:
    samples = [sample(0, ms) for ms in range(1, 101)] + [sample(0, 1e6, code="UNAVAILABLE")]
    found = percentiles(samples)
    assert found["p50"] == pytest.approx(50.5)
    assert found["p99"] == pytest.approx(99.01)
    assert percentiles([]) == {}


def test_answers_after_patience_are_no_good_and_refusals_no_errors() -> None:
    samples = [
        sample(0, 10),
        sample(0, 1500),
        sample(0, 5, code="RESOURCE_EXHAUSTED"),
        sample(0, 5, code="INTERNAL"),
    ]
    assert len(good(samples, patience=1)) == 1
    assert errors(samples) == 1


def test_recovery_is_the_first_quick_probe_after_the_end() -> None:
    probes = [
        sample(59, 1, PROBE),
        sample(60.5, 900, PROBE),
        sample(61, 25, PROBE),
        sample(62, 10, PROBE),
    ]
    assert recovery(probes, ended=60, normal=10) == pytest.approx(2)
    assert recovery(probes[:3], ended=60, normal=10) is None


def test_samples_survive_their_file(tmp_path: Path) -> None:
    samples = [
        Sample(REFINE, 0.1, 0.2, 0.3, "OK", decode=7.5, masks=0.5),
        sample(1, 2, code="RESOURCE_EXHAUSTED", told_when=True),
    ]
    write_samples(samples, tmp_path / "samples.csv")
    assert read_samples(tmp_path / "samples.csv") == samples


def run_of(ms: float, refused: int = 0, told_when: bool = True) -> list[Sample]:
    """10 clicks a second for 10 s, some refused, after clicks made alone that decode in 5 ms; probed at the end."""
    clicks = [sample(second / 10, ms) for second in range(100)]
    no = [
        sample(5 + n / 100, 1, code="RESOURCE_EXHAUSTED", told_when=told_when)
        for n in range(refused)
    ]
    alone = [Sample(ALONE, -1, -1, -0.99, "OK", decode=5.0)] * 3
    return [*alone, *clicks, *no, sample(10.25, 12, PROBE)]


def test_figures_are_of_the_judged_part() -> None:
    scenario = Scenario(arrivals=CLICKS, rate=10, seconds=10, settling=2)
    found = figures(
        [*run_of(15, refused=4), sample(1, 5000, code="INTERNAL")], scenario, ceiling=20
    )
    assert found["errors"] == 0  # it fell into the settling
    assert found["refused"] == 4
    assert found["refused_without_retry_info"] == 0
    assert found["goodput"] == pytest.approx(10)
    assert found["goodput_over_ceiling"] == pytest.approx(0.5)
    assert found["goodput_share"] == pytest.approx(80 / 84)
    assert found["click_p99_over_decode"] == pytest.approx(3)
    assert found["recovery_seconds"] == pytest.approx(0.25)


def test_new_pictures_do_not_count_as_clicks() -> None:
    scenario = Scenario(arrivals=CLICKS, rate=10, seconds=10, settling=2)
    found = figures([*run_of(15), sample(5, 900, NEW)], scenario)
    assert found["click_p99_ms"] == pytest.approx(15)
    assert found["new_p50_ms"] == pytest.approx(900)


def test_refusals_that_do_not_say_when_are_counted() -> None:
    found = figures(
        run_of(15, refused=4, told_when=False), Scenario(arrivals=CLICKS, seconds=10, settling=2)
    )
    assert found["refused_without_retry_info"] == 4


def test_each_threshold_is_judged_by_its_bound() -> None:
    judged = judge(
        {"goodput": 90.0, "errors": 1.0}, {"goodput": {"least": 85}, "errors": {"most": 0}}
    )
    assert [one.holds for one in judged] == [True, False]
    assert str(judged[1]) == "FAILS  errors: 1, at most 0"


def test_what_was_not_measured_does_not_hold() -> None:
    assert not Judged("goodput", None, "least", 0).holds


@pytest.mark.parametrize("wrong", [{"speed": {"most": 1}}, {"errors": {"max": 1}}, {"errors": {}}])
def test_a_threshold_that_means_nothing_is_refused(wrong: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValueError, match=r"speed|errors"):
        judge({"errors": 0.0}, wrong)


@pytest.mark.parametrize("section", ["normal", "overload", "capacity", "smoke"])
def test_the_thresholds_we_ship_can_be_judged(section: str) -> None:
    found = figures(
        run_of(12), Scenario(arrivals=CLICKS, rate=10, seconds=10, settling=2), ceiling=10
    )
    judged = judge(found, read_thresholds(THRESHOLDS, section))
    assert judged
    assert all(one.holds for one in judged)


def test_a_section_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="'tomorrow'"):
        read_thresholds(THRESHOLDS, "tomorrow")

"""Scenarios, arrivals, images, statistics over samples, verdicts."""

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
from loadtest.load.traffic.images import known_images
from loadtest.load.traffic.order import Order, read_order, write_order
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
from loadtest.load.traffic.verdict import ThresholdResult, figures, judge, read_thresholds


def sample(
    intended: float, ms: float, kind: str = FIRST, code: str = "OK", has_retry_info: bool = False
) -> Sample:
    return Sample(kind, intended, intended, intended + ms / 1000, code, has_retry_info)


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


def test_known_images_repeat_in_each_run_and_unseen_copies_never() -> None:
    first, second = (known_images(2, seed=3) for _ in range(2))
    assert [image.id for image in first] == [image.id for image in second]
    assert first[0].id != first[1].id
    assert first[0].unseen_copy().id != first[0].unseen_copy().id


def test_a_scenario_is_read_from_yaml_and_unknown_fields_are_named(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text("arrivals: clicks\nrate: 12\n")

    assert read_scenario(file) == Scenario(arrivals=CLICKS, rate=12)
    file.write_text("rates: 12\n")

    with pytest.raises(ValueError, match="rates"):
        read_scenario(file)


@pytest.mark.parametrize(
    ("field", "value"), [("arrivals", "bursts"), ("rate", 0), ("new", 1.5), ("settling", 60)]
)
def test_an_invalid_scenario_is_refused_with_the_name_of_the_field(
    field: str, value: object
) -> None:
    with pytest.raises(ValueError, match=field):
        Scenario(**{field: value})  # type: ignore[arg-type]


def test_an_order_read_from_its_file_is_equal(tmp_path: Path) -> None:
    order = Order(
        Scenario(rate=3), ("127.0.0.1:1", "127.0.0.1:2"), "127.0.0.1:3", {"decoder": 12}, tmp_path
    )
    assert read_order(write_order(order)) == order


def test_several_decoders_are_one_target() -> None:
    assert target(["10.0.0.1:1", "10.0.0.2:1"]) == "ipv4:10.0.0.1:1,10.0.0.2:1"
    assert target(["decoders.samserve:8501"]) == "dns:///decoders.samserve:8501"
    with pytest.raises(ValueError, match="IP addresses"):
        target(["a:1", "b:1"])


class Failure:
    """The part of a grpc.RpcError that carries RetryInfo."""

    def __init__(self, status: status_pb2.Status | None) -> None:
        self._status = status

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        return [] if self._status is None else [(DETAILS_KEY, self._status.SerializeToString())]


def test_the_retry_delay_is_read_only_from_retry_info() -> None:
    assert retry_after(Failure(status_of(Overloaded("the queue", 0.25)))) == pytest.approx(0.25)
    assert retry_after(Failure(status_of(InvalidInput("x", "wrong")))) is None
    assert retry_after(Failure(None)) is None
    packed = AnyProto()
    packed.Pack(details.RetryInfo())

    assert retry_after(Failure(status_pb2.Status(details=[packed]))) == 0


def test_latency_counts_from_the_intended_start() -> None:
    late = Sample(FIRST, intended=1.0, started=1.5, ended=1.6, code="OK")
    assert late.latency == pytest.approx(600)


def test_percentiles_cover_answered_calls_only() -> None:
    samples = [sample(0, ms) for ms in range(1, 101)] + [sample(0, 1e6, code="UNAVAILABLE")]
    values = percentiles(samples)

    assert values["p50"] == pytest.approx(50.5)
    assert values["p99"] == pytest.approx(99.01)
    assert percentiles([]) == {}


def test_late_answers_are_not_goodput_and_refusals_are_not_errors() -> None:
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


def test_samples_read_from_their_file_are_equal(tmp_path: Path) -> None:
    samples = [
        Sample(REFINE, 0.1, 0.2, 0.3, "OK", decode=7.5, masks=0.5),
        sample(1, 2, code="RESOURCE_EXHAUSTED", has_retry_info=True),
    ]
    write_samples(samples, tmp_path / "samples.csv")

    assert read_samples(tmp_path / "samples.csv") == samples


def run_of(ms: float, refused: int = 0, has_retry_info: bool = True) -> list[Sample]:
    """10 clicks per second for 10 s, some refused; 3 single clicks of 5 ms; one late probe."""
    clicks = [sample(second / 10, ms) for second in range(100)]
    refusals = [
        sample(5 + n / 100, 1, code="RESOURCE_EXHAUSTED", has_retry_info=has_retry_info)
        for n in range(refused)
    ]
    alone = [Sample(ALONE, -1, -1, -0.99, "OK", decode=5.0)] * 3

    return [*alone, *clicks, *refusals, sample(10.25, 12, PROBE)]


def test_figures_leave_out_the_settling_time() -> None:
    scenario = Scenario(arrivals=CLICKS, rate=10, seconds=10, settling=2)
    values = figures(
        [*run_of(15, refused=4), sample(1, 5000, code="INTERNAL")], scenario, ceiling=20
    )

    assert values["errors"] == 0  # the error was in the settling time
    assert values["refused"] == 4
    assert values["refused_without_retry_info"] == 0
    assert values["goodput"] == pytest.approx(10)
    assert values["goodput_over_ceiling"] == pytest.approx(0.5)
    assert values["goodput_share"] == pytest.approx(80 / 84)
    assert values["click_p99_over_decode"] == pytest.approx(3)
    assert values["recovery_seconds"] == pytest.approx(0.25)


def test_clicks_on_new_images_are_counted_apart() -> None:
    scenario = Scenario(arrivals=CLICKS, rate=10, seconds=10, settling=2)
    values = figures([*run_of(15), sample(5, 900, NEW)], scenario)
    assert values["click_p99_ms"] == pytest.approx(15)
    assert values["new_p50_ms"] == pytest.approx(900)


def test_refusals_without_retry_info_are_counted() -> None:
    values = figures(
        run_of(15, refused=4, has_retry_info=False),
        Scenario(arrivals=CLICKS, seconds=10, settling=2),
    )

    assert values["refused_without_retry_info"] == 4


def test_each_threshold_is_compared_with_its_bound() -> None:
    results = judge(
        {"goodput": 90.0, "errors": 1.0}, {"goodput": {"least": 85}, "errors": {"most": 0}}
    )

    assert [result.holds for result in results] == [True, False]
    assert str(results[1]) == "FAILS  errors: 1, at most 0"


def test_a_threshold_without_a_figure_fails() -> None:
    assert not ThresholdResult("goodput", None, "least", 0).holds


@pytest.mark.parametrize("wrong", [{"speed": {"most": 1}}, {"errors": {"max": 1}}, {"errors": {}}])
def test_an_invalid_threshold_is_refused(wrong: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValueError, match=r"speed|errors"):
        judge({"errors": 0.0}, wrong)


@pytest.mark.parametrize("section", ["normal", "overload", "capacity", "smoke"])
def test_the_shipped_thresholds_can_be_judged(section: str) -> None:
    values = figures(
        run_of(12), Scenario(arrivals=CLICKS, rate=10, seconds=10, settling=2), ceiling=10
    )
    results = judge(values, read_thresholds(THRESHOLDS, section))

    assert results
    assert all(result.holds for result in results)


def test_an_unknown_section_is_named() -> None:
    with pytest.raises(ValueError, match="'tomorrow'"):
        read_thresholds(THRESHOLDS, "tomorrow")

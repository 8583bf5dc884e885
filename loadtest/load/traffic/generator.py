"""The load generator process: `python -m loadtest.load.traffic.generator ORDER.json`.

It is a separate process because Locust patches it for gevent, and so that its CPU time can be
measured on its own.
"""

from __future__ import annotations

import grpc.experimental.gevent
from locust.env import Environment  # importing locust patches the process for gevent

grpc.experimental.gevent.init_gevent()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import numpy as np  # noqa: E402

from loadtest.load.traffic.calls import Caller, ClickPrompt, warm_up  # noqa: E402
from loadtest.load.traffic.images import known_images  # noqa: E402
from loadtest.load.traffic.machine import cpu_seconds, machine_busy  # noqa: E402
from loadtest.load.traffic.order import GENERATOR, SAMPLES, Order, read_order  # noqa: E402
from loadtest.load.traffic.samples import (  # noqa: E402
    ALONE,
    BARE,
    BESIDE,
    PROBE,
    Sample,
    of_kinds,
    percentiles,
    recovery,
    write_samples,
)
from loadtest.load.traffic.scenario import CLOSED  # noqa: E402
from loadtest.load.traffic.users import Annotator, Arrivals, BatchJob, Workload  # noqa: E402

ALONE_CLICKS = 100
ALONE_PAUSE = 0.05  # seconds; caches are then as cold as under load
WARM_UP_TIMEOUT = 60.0  # seconds per click
PROBE_EVERY, PROBE_SECONDS = 0.25, 20.0
PROGRESS_EVERY = 5.0  # seconds


class CallFailed(Exception):
    """Reports a failed call to Locust."""


class LoadEnvironment(Environment):
    """Locust's environment, with the workload that our users share."""

    workload: Workload


class Generator:
    """Makes the load that an order describes."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.scenario = order.scenario
        self.samples: list[Sample] = []
        self.environment = LoadEnvironment()
        self.environment.events.request.add_listener(self._on_request)
        self.caller = Caller(order.decoders, order.embedding, self.scenario.timeout, self._record)

    def run(self) -> None:
        scenario = self.scenario

        # Embed the images, and prepare them in every decoder.
        images = known_images(scenario.pictures, scenario.seed)
        decoders = (*self.order.decoders, *filter(None, [self.order.bare]))
        logits = warm_up(decoders, self.order.embedding, images, WARM_UP_TIMEOUT)
        self.workload = Workload(scenario, self.caller, images, logits)

        # A machine's speed drifts by several percent per minute, so the bare decode is measured
        # before and after the load.
        self._click_alone(self.caller, ALONE)
        self._measure_bare_decode()

        before = self._cpu_times()
        self._load()
        cores = {
            name: (used - before[name]) / scenario.seconds
            for name, used in self._cpu_times().items()
        }

        self._probe()
        while self.caller.in_flight:  # each has a deadline
            gevent.sleep(0.05)
        self._measure_bare_decode()

        write_samples(self.samples, self.order.folder / SAMPLES)
        (self.order.folder / GENERATOR).write_text(json.dumps({"cores": cores}, indent=1) + "\n")

    def _cpu_times(self) -> dict[str, float]:
        """CPU seconds so far of each watched process, the generator and the whole machine."""
        watched = {name: cpu_seconds(pid) for name, pid in self.order.watched.items()}
        return {**watched, "generator": time.process_time(), "whole machine": machine_busy()}

    def _click_alone(self, caller: Caller, kind: str) -> None:
        """Send clicks of the load one at a time, to measure a click without contention."""
        rng = np.random.default_rng(self.scenario.seed)
        for _ in range(ALONE_CLICKS):
            image, prompt = self.workload.any_click(rng)
            gevent.sleep(ALONE_PAUSE)
            caller.click(image, prompt, caller.clock(), kind)

    def _measure_bare_decode(self) -> None:
        order = self.order
        if order.bare:
            caller = Caller((order.bare,), order.embedding, self.scenario.timeout, self._record)
            self._click_alone(caller, BARE)

    def _load(self) -> None:
        scenario = self.scenario
        environment = self.environment
        closed = scenario.arrivals in CLOSED

        # One Locust user per annotator and batch job, or one for all open-loop arrivals.
        counts: dict[type[Any], int] = {BatchJob: scenario.batch_jobs}
        counts |= {Annotator: scenario.users} if closed else {Arrivals: 1}
        environment.user_classes = [kind for kind, count in counts.items() if count]
        for kind, count in counts.items():
            kind.fixed_count = count
        environment.workload = self.workload
        runner = environment.create_local_runner()

        # A closed loop adds its users over the settling time.
        users = sum(counts.values())
        spawn_rate = max(1.0, users / scenario.settling) if closed else users
        self.caller.began = time.perf_counter()
        runner.start(users, spawn_rate=spawn_rate)
        while not self.workload.over:
            remaining = scenario.seconds - self.caller.clock()
            gevent.sleep(min(PROGRESS_EVERY, max(remaining, 0.01)))
            self._print_progress()

    def _probe(self) -> None:
        """After the load, click at fixed times until one click is as quick as usual."""
        normal = percentiles(of_kinds(self.samples, [ALONE]))["p50"]
        rng = np.random.default_rng()
        until = self.scenario.seconds + PROBE_SECONDS
        prompt = ClickPrompt(((1.0, 1.0, True),))

        probes: list[Any] = []
        while (
            self.caller.clock() < until
            and recovery(of_kinds(self.samples, [PROBE]), 0, normal) is None
        ):
            image, _ = self.workload.choose(rng)
            now = self.caller.clock()
            probes.append(gevent.spawn(self.caller.click, image, prompt, now, PROBE))
            gevent.sleep(PROBE_EVERY)

        gevent.joinall(probes, timeout=self.scenario.timeout)

    def _record(self, sample: Sample) -> None:
        self.environment.events.request.fire(
            request_type="gRPC",
            name=sample.kind,
            response_time=sample.latency,
            response_length=0,
            exception=None if sample.answered else CallFailed(sample.code),
            context={"sample": sample},
        )

    def _on_request(self, context: dict[str, Sample], **_: object) -> None:
        self.samples.append(context["sample"])

    def _print_progress(self) -> None:
        now = self.caller.clock()
        recent = [
            sample
            for sample in self.samples
            if sample.ended > now - PROGRESS_EVERY and sample.kind not in BESIDE
        ]
        figures = percentiles(recent) or {"p50": 0.0, "p99": 0.0}
        answered = sum(sample.answered for sample in recent)
        failed = len(recent) - answered

        print(
            f"{now:6.0f} s  answered {answered / PROGRESS_EVERY:6.1f}/s  "
            f"refused or failed {failed / PROGRESS_EVERY:6.1f}/s  "
            f"in flight {self.caller.in_flight:4d}  "
            f"p50 {figures['p50']:7.1f} ms  p99 {figures['p99']:7.1f} ms",
            flush=True,
        )


def main() -> None:
    generator = Generator(read_order(Path(sys.argv[1])))
    try:
        generator.run()
    except ConnectionError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

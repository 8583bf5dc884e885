"""The process that makes the load: `python -m loadtest.load.traffic.generator ORDER.json`.

It is a process of its own because locust patches it for gevent, and so that its share of the machine can be told apart.
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

from loadtest.load.traffic.calls import Caller, Clicked, warm_up  # noqa: E402
from loadtest.load.traffic.machine import cpu_seconds, machine_busy  # noqa: E402
from loadtest.load.traffic.order import GENERATOR, SAMPLES, Order, read_order  # noqa: E402
from loadtest.load.traffic.pictures import known_pictures  # noqa: E402
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
from loadtest.load.traffic.users import Annotator, Arrivals, BatchJob, Scene  # noqa: E402

ALONE_CLICKS = 100
ALONE_PAUSE = 0.05  # seconds; caches then are as cold as under load
# A machine's speed drifts by several percent in a minute: the bare decode is taken before the load and after it.
PROBE_EVERY, PROBE_SECONDS = 0.25, 20.0
TELL_EVERY = 5.0


class Refused(Exception):
    """What locust is told of a call that was not answered."""


class Surroundings(Environment):
    """Locust's, with what our users share."""

    scene: Scene


class Generator:
    """Makes the load that an order asks for."""

    def __init__(self, order: Order) -> None:
        self.order, self.scenario = order, order.scenario
        self.samples: list[Sample] = []
        self.environment = Surroundings()
        self.environment.events.request.add_listener(self._heard)
        self.caller = Caller(order.decoders, order.embedding, self.scenario.timeout, self._note)

    def run(self) -> None:
        scenario = self.scenario
        pictures = known_pictures(scenario.pictures, scenario.seed)
        decoders = (*self.order.decoders, *filter(None, [self.order.bare]))
        logits = warm_up(decoders, self.order.embedding, pictures, 60.0)
        self.scene = Scene(scenario, self.caller, pictures, logits)
        self._click_alone(self.caller, ALONE)
        self._decode_bare()
        before = self._used()
        self._load()
        cores = {
            name: (used - before[name]) / scenario.seconds for name, used in self._used().items()
        }
        self._probe()
        while self.caller.in_flight:  # each has a deadline
            gevent.sleep(0.05)
        self._decode_bare()
        write_samples(self.samples, self.order.folder / SAMPLES)
        (self.order.folder / GENERATOR).write_text(json.dumps({"cores": cores}, indent=1) + "\n")

    def _used(self) -> dict[str, float]:
        """Processor seconds so far of each process that is watched, of this one, and of the whole machine."""
        watched = {name: cpu_seconds(pid) for name, pid in self.order.watched.items()}
        return {**watched, "generator": time.process_time(), "whole machine": machine_busy()}

    def _click_alone(self, caller: Caller, kind: str) -> None:
        """The clicks of the load one at a time: what a click takes when nobody else is there."""
        rng = np.random.default_rng(self.scenario.seed)
        for _ in range(ALONE_CLICKS):
            picture, clicked = self.scene.any_click(rng)
            gevent.sleep(ALONE_PAUSE)
            caller.click(picture, clicked, caller.clock(), kind)

    def _decode_bare(self) -> None:
        order = self.order
        if order.bare:
            caller = Caller((order.bare,), order.embedding, self.scenario.timeout, self._note)
            self._click_alone(caller, BARE)

    def _load(self) -> None:
        scenario, environment = self.scenario, self.environment
        counts: dict[type[Any], int] = {BatchJob: scenario.batch_jobs}
        counts |= {Annotator: scenario.users} if scenario.arrivals in CLOSED else {Arrivals: 1}
        environment.user_classes = [kind for kind, count in counts.items() if count]
        for kind, count in counts.items():
            kind.fixed_count = count
        environment.scene = self.scene
        runner = environment.create_local_runner()
        self.caller.began = time.perf_counter()
        people = sum(counts.values())
        runner.start(
            people,
            spawn_rate=max(1.0, people / scenario.settling)
            if scenario.arrivals in CLOSED
            else people,
        )
        while not self.scene.over:
            gevent.sleep(min(TELL_EVERY, max(scenario.seconds - self.caller.clock(), 0.01)))
            self._tell()

    def _probe(self) -> None:
        """Clicks at fixed times after the load's end, until one takes no longer than usual."""
        normal = percentiles(of_kinds(self.samples, [ALONE]))["p50"]
        rng, until = np.random.default_rng(), self.scenario.seconds + PROBE_SECONDS
        probes: list[Any] = []
        while (
            self.caller.clock() < until
            and recovery(of_kinds(self.samples, [PROBE]), 0, normal) is None
        ):
            picture, _ = self.scene.choose(rng)
            probes.append(
                gevent.spawn(
                    self.caller.click,
                    picture,
                    Clicked(((1.0, 1.0, True),)),
                    self.caller.clock(),
                    PROBE,
                )
            )
            gevent.sleep(PROBE_EVERY)
        gevent.joinall(probes, timeout=self.scenario.timeout)

    def _note(self, sample: Sample) -> None:
        self.environment.events.request.fire(
            request_type="gRPC",
            name=sample.kind,
            response_time=sample.taken,
            response_length=0,
            exception=None if sample.answered else Refused(sample.code),
            context={"sample": sample},
        )

    def _heard(self, context: dict[str, Sample], **_: object) -> None:
        self.samples.append(context["sample"])

    def _tell(self) -> None:
        now = self.caller.clock()
        recent = [s for s in self.samples if s.ended > now - TELL_EVERY and s.kind not in BESIDE]
        figures = percentiles(recent) or {"p50": 0.0, "p99": 0.0}
        answered = sum(s.answered for s in recent)
        print(
            f"{now:6.0f} s  answered {answered / TELL_EVERY:6.1f}/s  refused or failed "
            f"{(len(recent) - answered) / TELL_EVERY:6.1f}/s  in flight {self.caller.in_flight:4d}  "
            f"p50 {figures['p50']:7.1f} ms  p99 {figures['p99']:7.1f} ms",
            flush=True,
        )


def main() -> None:
    generator = Generator(read_order(Path(sys.argv[1])))
    try:
        generator.run()
    except ConnectionError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()

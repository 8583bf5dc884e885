"""Locust users: annotators, batch jobs, and open-loop arrivals.

Importing this module patches the process for gevent; only the generator imports it.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import gevent
import numpy as np
from locust import User, task
from locust.exception import StopUser

from loadtest.load.traffic.arrivals import at_least_one, maybe_none, pause, poisson, zipf
from loadtest.load.traffic.calls import Caller, ClickPrompt, random_point
from loadtest.load.traffic.images import LoadImage
from loadtest.load.traffic.scenario import CLICKS, SINGLES, Scenario


class Workload:
    """State that all users of a load share: the scenario, the images and the caller.

    Args:
        scenario: The load.
        caller: Sends the calls.
        images: The known images, most popular first.
        logits: For each image, logits of a mask that a click can refine.
    """

    def __init__(
        self, scenario: Scenario, caller: Caller, images: list[LoadImage], logits: list[bytes]
    ) -> None:
        self.scenario = scenario
        self.caller = caller
        self._images = images
        self._logits = logits
        self._popularity = zipf(len(images), scenario.zipf)
        self._numbers = count()

    def next_rng(self) -> np.random.Generator:
        """Return a generator for the next user; runs with the same seed get the same ones."""
        return np.random.default_rng([self.scenario.seed, next(self._numbers)])

    @property
    def over(self) -> bool:
        return self.caller.clock() >= self.scenario.seconds

    def choose(self, rng: np.random.Generator) -> tuple[LoadImage, bytes]:
        """Choose an image, and logits of a mask on it to refine."""
        index = rng.choice(len(self._images), p=self._popularity)
        image = self._images[index]

        if rng.random() < self.scenario.new:
            image = image.unseen_copy()
        return image, self._logits[index]

    def visit(self, rng: np.random.Generator) -> None:
        """Let one annotator mark objects in one image, one after the other."""
        image, _ = self.choose(rng)
        for _ in range(at_least_one(self.scenario.objects, rng)):
            self._mark(image, rng)

    def _mark(self, image: LoadImage, rng: np.random.Generator) -> None:
        """Click on an object and refine it; give up the object after a failed click."""
        prompt = ClickPrompt(())
        for _ in range(1 + maybe_none(self.scenario.refinements, rng)):
            intended = self._think(rng)
            if self.over:
                return

            on = not prompt.points or bool(rng.random() < 0.5)
            prompt = ClickPrompt((*prompt.points, random_point(rng, on)), prompt.logits)

            logits = self.caller.click(image, prompt, intended)
            if logits is None:
                return
            prompt = ClickPrompt(prompt.points, logits)

    def any_click(self, rng: np.random.Generator) -> tuple[LoadImage, ClickPrompt]:
        """Draw one click of a visit: a first click or a refinement, in the same proportions."""
        image, logits = self.choose(rng)
        before = maybe_none(self.scenario.refinements, rng)
        later = (random_point(rng, bool(rng.random() < 0.5)) for _ in range(before))
        points = (random_point(rng), *later)
        return image, ClickPrompt(points, logits if before else b"")

    def think_and_click(self, rng: np.random.Generator) -> None:
        """Send a click that is independent of the one before."""
        image, prompt = self.any_click(rng)
        intended = self._think(rng)
        if not self.over:
            self.caller.click(image, prompt, intended)

    def _think(self, rng: np.random.Generator) -> float:
        """Pause; return when the pause was to end, on the load's clock."""
        until = self.caller.clock() + pause(self.scenario.think, self.scenario.think_sigma, rng)
        gevent.sleep(until - self.caller.clock())
        return until

    def single_click(self, rng: np.random.Generator, intended: float) -> None:
        """Draw an independent click now and send it in a new greenlet."""
        gevent.spawn(self.caller.click, *self.any_click(rng), intended)


class WorkloadUser(User):
    """A Locust user with access to the workload, which the environment holds."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.workload: Workload = environment.workload
        self.rng = self.workload.next_rng()


class Annotator(WorkloadUser):
    """Opens one image after the other, or clicks on random images."""

    @task
    def visit(self) -> None:
        if self.workload.over:
            raise StopUser

        if self.workload.scenario.arrivals == SINGLES:
            self.workload.think_and_click(self.rng)
        else:
            self.workload.visit(self.rng)


class BatchJob(WorkloadUser):
    """Embeds new images at low priority, a few at a time, and backs off as the service asks."""

    @task
    def embed_all(self) -> None:
        in_flight = self.workload.scenario.batch_in_flight
        gevent.joinall([gevent.spawn(self._embed) for _ in range(in_flight)])
        raise StopUser

    def _embed(self) -> None:
        while not self.workload.over:
            image, _ = self.workload.choose(self.rng)
            gevent.sleep(self.workload.caller.embed(image.unseen_copy()))


class Arrivals(WorkloadUser):
    """The open loop: starts a click or a visit at each time of a Poisson process."""

    @task
    def arrive(self) -> None:
        workload = self.workload
        scenario = workload.scenario

        for arrival in poisson(scenario.rate, scenario.seconds, self.rng):
            gevent.sleep(max(arrival - workload.caller.clock(), 0))
            if scenario.arrivals == CLICKS:
                workload.single_click(self.rng, float(arrival))
            else:
                gevent.spawn(workload.visit, workload.next_rng())
        raise StopUser

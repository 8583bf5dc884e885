"""Locust's users: annotators and batch jobs, in a closed loop, or arriving by themselves. Importing this patches the
process for gevent: only the generator does.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import gevent
import numpy as np
from locust import User, task
from locust.exception import StopUser

from loadtest.load.traffic.arrivals import at_least_one, maybe_none, pause, poisson, zipf
from loadtest.load.traffic.calls import Caller, Clicked, anywhere
from loadtest.load.traffic.pictures import Picture
from loadtest.load.traffic.scenario import CLICKS, SINGLES, Scenario


class Scene:
    """What all users of a load share: the pictures, the way to the service, and when it is over."""

    def __init__(
        self, scenario: Scenario, caller: Caller, pictures: list[Picture], logits: list[bytes]
    ) -> None:
        self.scenario, self.caller, self._pictures, self._logits = (
            scenario,
            caller,
            pictures,
            logits,
        )
        self._chances = zipf(len(pictures), scenario.zipf)
        self._numbers = count()

    def dice(self) -> np.random.Generator:
        """For the next user, the same in each run."""
        return np.random.default_rng([self.scenario.seed, next(self._numbers)])

    @property
    def over(self) -> bool:
        return self.caller.clock() >= self.scenario.seconds

    def choose(self, rng: np.random.Generator) -> tuple[Picture, bytes]:
        """A picture, and logits of a mask on it to refine."""
        index = rng.choice(len(self._pictures), p=self._chances)
        picture = self._pictures[index]
        return (picture.anew() if rng.random() < self.scenario.new else picture), self._logits[
            index
        ]

    def visit(self, rng: np.random.Generator) -> None:
        """One annotator and one picture, object after object."""
        picture, _ = self.choose(rng)
        for _ in range(at_least_one(self.scenario.objects, rng)):
            self._mark(picture, rng)

    def _mark(self, picture: Picture, rng: np.random.Generator) -> None:
        """Click on an object and refine it; who is refused leaves the object."""
        clicked = Clicked(())
        for _ in range(1 + maybe_none(self.scenario.refinements, rng)):
            intended = self._think(rng)
            if self.over:
                return
            on = not clicked.points or bool(rng.random() < 0.5)
            clicked = Clicked((*clicked.points, anywhere(rng, on)), clicked.logits)
            logits = self.caller.click(picture, clicked, intended)
            if logits is None:
                return
            clicked = Clicked(clicked.points, logits)

    def any_click(self, rng: np.random.Generator) -> tuple[Picture, Clicked]:
        """One of an annotator's clicks, whichever: after none, one or more on its object, as `visit` has it."""
        picture, logits = self.choose(rng)
        before = maybe_none(self.scenario.refinements, rng)
        points = (anywhere(rng), *(anywhere(rng, bool(rng.random() < 0.5)) for _ in range(before)))
        return picture, Clicked(points, logits if before else b"")

    def think_and_click(self, rng: np.random.Generator) -> None:
        """A click that has nothing to do with the one before."""
        picture, clicked = self.any_click(rng)
        intended = self._think(rng)
        if not self.over:
            self.caller.click(picture, clicked, intended)

    def _think(self, rng: np.random.Generator) -> float:
        """Pause, until when on the load's clock."""
        until = self.caller.clock() + pause(self.scenario.think, self.scenario.think_sigma, rng)
        gevent.sleep(until - self.caller.clock())
        return until

    def single_click(self, rng: np.random.Generator, intended: float) -> None:
        """A click out of nowhere. Drawn now, sent in a greenlet of its own."""
        gevent.spawn(self.caller.click, *self.any_click(rng), intended)


class SceneUser(User):
    """A user that knows the scene: the environment has it."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.scene: Scene = environment.scene
        self.rng = self.scene.dice()


class Annotator(SceneUser):
    """Opens picture after picture, or clicks on any."""

    @task
    def visit(self) -> None:
        if self.scene.over:
            raise StopUser
        if self.scene.scenario.arrivals == SINGLES:
            self.scene.think_and_click(self.rng)
        else:
            self.scene.visit(self.rng)


class BatchJob(SceneUser):
    """Embeds new pictures at low priority, a few at a time, and keeps away for as long as it is told to."""

    @task
    def embed_all(self) -> None:
        workers = [gevent.spawn(self._embed) for _ in range(self.scene.scenario.batch_in_flight)]
        gevent.joinall(workers)
        raise StopUser

    def _embed(self) -> None:
        while not self.scene.over:
            picture, _ = self.scene.choose(self.rng)
            gevent.sleep(self.scene.caller.embed(picture.anew()))


class Arrivals(SceneUser):
    """The open loop: starts a click or a visit at each of a Poisson process's times, whatever became of the others."""

    @task
    def arrive(self) -> None:
        scene = self.scene
        for arrival in poisson(scene.scenario.rate, scene.scenario.seconds, self.rng):
            gevent.sleep(max(arrival - scene.caller.clock(), 0))
            if scene.scenario.arrivals == CLICKS:
                scene.single_click(self.rng, float(arrival))
            else:
                gevent.spawn(scene.visit, scene.dice())
        raise StopUser

"""Random distributions of arrivals, choices and pauses. Pure: the caller passes the generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Floats:
    """Times [N] of a Poisson process with `rate` events per second, ascending, in [0, seconds)."""
    count = rng.poisson(rate * seconds)
    return np.sort(rng.uniform(0, seconds, count))


def zipf(count: int, exponent: float) -> Floats:
    """Probabilities [count]; the k-th is proportional to k ** -exponent."""
    weights = np.arange(1, count + 1) ** -float(exponent)
    probabilities: Floats = weights / weights.sum()
    return probabilities


def at_least_one(mean: float, rng: np.random.Generator) -> int:
    """Geometric on 1, 2, 3...; mean >= 1."""
    return int(rng.geometric(1 / max(mean, 1.0)))


def maybe_none(mean: float, rng: np.random.Generator) -> int:
    """Geometric on 0, 1, 2..."""
    return int(rng.geometric(1 / (1 + mean))) - 1


def pause(median: float, sigma: float, rng: np.random.Generator) -> float:
    """Lognormal seconds."""
    return float(median * np.exp(sigma * rng.standard_normal()))

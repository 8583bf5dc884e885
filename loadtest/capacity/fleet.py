"""From images a day to machines, bytes and limits. Pure: the decoders' rates come from the simulator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DAY = 86_400.0
GIB = 2**30
Assumptions = Mapping[str, Mapping[str, float]]
RateOfOne = Callable[
    [float], float
]  # share of clicks whose image is ready in the decoder -> clicks a second of one


@dataclass(frozen=True, slots=True)
class Limit:
    """Something of which one is not enough beyond some size; `of_one`: how many times over it is asked for."""

    name: str
    demand: float
    limit: float
    then: str

    @property
    def of_one(self) -> float:
        return self.demand / self.limit


@dataclass(frozen=True, slots=True)
class Plan:
    """At the peak hour. decoders: with clicks taken in turn, and with those of an image going to the same one. Bytes
    are a second where they flow. ready_bytes: that a decoder needs to keep ready what is worked on, clicks affine.
    cost: of a day, by what it is for.
    """

    images: float
    encodes: float
    clicks: float
    gpus: int
    replicas: int
    ready_in_turn: float
    ready_affine: float
    decoders_in_turn: int
    decoders_affine: int
    ready_bytes: float
    redis_bytes: float
    redis_shards_in_turn: int
    redis_shards_affine: int
    redis_out_in_turn: float
    redis_out_affine: float
    ingress: float
    egress: float
    cost: dict[str, float]
    limits: list[Limit]


def ready_in_turn(clicks: float, decoders: int) -> float:
    """Share of an image's clicks that find it ready, when each click goes to any of the decoders."""
    seen: float = decoders * (1 - (1 - 1 / decoders) ** clicks)
    return 1 - seen / clicks


def kept(wanted: float, most: float) -> float:
    """Share of what is worked on that stays ready, of bytes wanted and bytes there are. As if what goes were chosen by
    lot: the least recently used may be worse off.
    """
    return min(1.0, most / wanted)


def plan(images: float, assumed: Assumptions, rate_of_one: RateOfOne) -> Plan:
    """What so many images opened a day need."""
    demand, sizes, machines = assumed["demand"], assumed["sizes"], assumed["machines"]
    opens = images / DAY * demand["peak"]
    encodes, clicks = opens * demand["new"], opens * demand["clicks"]
    gpus = math.ceil(encodes / (machines["gpu_images_per_second"] * machines["gpu_busy"]))
    worked_on = opens * demand["seconds"] * sizes["ready"]  # bytes, if each image is ready once

    def in_turn_of(decoders: int) -> float:
        seen = decoders * (
            1 - (1 - 1 / decoders) ** demand["clicks"]
        )  # by so many decoders is an image kept ready
        return ready_in_turn(demand["clicks"], decoders) * kept(
            worked_on * seen / decoders, sizes["resident"]
        )

    def affine_of(decoders: int) -> float:
        return (1 - 1 / demand["clicks"]) * kept(worked_on / decoders, sizes["resident"])

    decoders_in_turn, in_turn = _settled(clicks, in_turn_of, rate_of_one)
    decoders_affine, affine = _settled(clicks, affine_of, rate_of_one)
    stored = images * demand["new"] * sizes["ttl_hours"] / 24 * sizes["entry"]
    out_in_turn, out_affine = (clicks * (1 - ready) * sizes["entry"] for ready in (in_turn, affine))
    shards_in_turn, shards_affine = (
        max(
            math.ceil(stored / machines["redis_bytes"]),
            math.ceil(out / machines["redis_bytes_per_second"]),
        )
        for out in (out_in_turn, out_affine)
    )
    ingress = encodes * sizes["upload"] + clicks * sizes["request"]
    found: dict[str, Any] = {
        "images": images,
        "encodes": encodes,
        "clicks": clicks,
        "gpus": gpus,
        "replicas": math.ceil(encodes / machines["replica_images_per_second"]),
        "ready_in_turn": in_turn,
        "ready_affine": affine,
        "decoders_in_turn": decoders_in_turn,
        "decoders_affine": decoders_affine,
        "ready_bytes": worked_on / decoders_affine,
        "redis_bytes": stored,
        "redis_shards_in_turn": shards_in_turn,
        "redis_shards_affine": shards_affine,
        "redis_out_in_turn": out_in_turn,
        "redis_out_affine": out_affine,
        "ingress": ingress,
        "egress": clicks * sizes["answer"],
    }
    return Plan(**found, cost=_cost(found, assumed), limits=_limits(found, opens, assumed))


def _settled(
    clicks: float, share_ready: Callable[[int], float], rate_of_one: RateOfOne
) -> tuple[int, float]:
    """How many decoders, when the share of ready images depends on how many there are; the share."""
    decoders = math.ceil(clicks / rate_of_one(1.0))
    while (needed := math.ceil(clicks / rate_of_one(share_ready(decoders)))) > decoders:
        decoders = needed
    return decoders, share_ready(decoders)


def _cost(found: Mapping[str, Any], assumed: Assumptions) -> dict[str, float]:
    """Of a day in which machines follow the load: the mean is 1/peak of the peak, but never less than one of each. What
    Redis keeps stays.
    """
    prices, sizes, machines = assumed["prices"], assumed["sizes"], assumed["machines"]
    gpus, decoders, replicas = (
        max(found[name] / assumed["demand"]["peak"], 1)
        for name in ("gpus", "decoders_affine", "replicas")
    )
    a_decoder = machines["decoder_cores"] * prices["core"] + sizes["resident"] / GIB * prices["gib"]
    return {
        "GPUs": 24 * gpus * prices["gpu"],
        "decoders": 24 * decoders * a_decoder,
        "embedding replicas": 24 * replicas * machines["replica_cores"] * prices["core"],
        "Redis": 24 * found["redis_bytes"] / GIB * prices["gib"],
    }


def _limits(found: Mapping[str, Any], opens: float, assumed: Assumptions) -> list[Limit]:
    """What one of each is asked for, the most overdrawn first."""
    sizes, machines, demand = assumed["sizes"], assumed["machines"], assumed["demand"]
    ready = opens * demand["seconds"] * sizes["ready"]
    pods = (
        found["decoders_in_turn"]
        + found["gpus"]
        + found["replicas"]
        + found["redis_shards_in_turn"]
    )
    limits = [
        Limit(
            "GPUs",
            found["encodes"],
            machines["gpu_images_per_second"] * machines["gpu_busy"],
            "more Triton replicas",
        ),
        Limit(
            "Redis's memory",
            found["redis_bytes"],
            machines["redis_bytes"],
            "cluster mode; a shorter TTL; a colder tier (SSD, object store) behind it",
        ),
        Limit(
            "Redis's network, clicks in turn",
            found["redis_out_in_turn"],
            machines["redis_bytes_per_second"],
            "hash-affine routing, so that an image is read once, not once a click",
        ),
        Limit(
            "Redis's network, clicks affine",
            found["redis_out_affine"],
            machines["redis_bytes_per_second"],
            "cluster mode",
        ),
        Limit(
            "one balancer's bytes in",
            found["ingress"],
            machines["ingress_bytes_per_second"],
            "several, by DNS",
        ),
        Limit(
            "one balancer's bytes out",
            found["egress"],
            machines["ingress_bytes_per_second"],
            "logits kept in streams",
        ),
        Limit(
            "an embedding replica",
            found["encodes"],
            machines["replica_images_per_second"],
            "more Ray Serve replicas",
        ),
        Limit(
            "one decoder's memory for ready images",
            ready,
            sizes["resident"],
            "more decoders; affine, else each holds all",
        ),
        Limit(
            "one cluster's pods",
            pods,
            machines["pods"],
            "cells: clusters by region, each with its own Redis",
        ),
    ]
    return sorted(limits, key=lambda limit: -limit.of_one)

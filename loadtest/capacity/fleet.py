"""Converts images per day into machines, bytes and limits. Pure: decoder rates are passed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DAY = 86_400.0
GIB = 2**30

Assumptions = Mapping[str, Mapping[str, float]]
RateOfOne = Callable[[float], float]  # share of prepared images -> clicks per second of a decoder


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource of which one is not enough beyond some size.

    Attributes:
        name: The resource.
        demand: How much is needed.
        limit: How much one of it provides.
        then: What to do beyond the limit.
    """

    name: str
    demand: float
    limit: float
    then: str

    @property
    def of_one(self) -> float:
        """Demand as a multiple of the limit."""
        return self.demand / self.limit


@dataclass(frozen=True, slots=True)
class Plan:
    """Resources needed in the peak hour, for one number of images per day.

    Names with `in_turn` are for round-robin routing of clicks. Names with `affine` are for
    routing by image: all clicks on an image reach the same decoder.

    Attributes:
        images: Images opened per day.
        encodes: New images per second.
        clicks: Clicks per second.
        gpus: GPUs for the encoder.
        replicas: Replicas of the embedding service.
        ready_in_turn, ready_affine: Share of clicks whose image is prepared in the decoder.
        decoders_in_turn, decoders_affine: Decoders.
        ready_bytes: Memory per decoder for the prepared images in use, with affine routing.
        redis_bytes: Memory of Redis.
        redis_shards_in_turn, redis_shards_affine: Shards of Redis.
        redis_out_in_turn, redis_out_affine: Bytes per second from Redis.
        ingress: Bytes per second from callers.
        egress: Bytes per second to callers.
        cost: Cost per day, by resource.
        limits: Resources by demand, the scarcest first.
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


def decoders_reached(clicks: float, decoders: int) -> float:
    """Expected number of different decoders that get an image's clicks by round robin."""
    reached: float = decoders * (1 - (1 - 1 / decoders) ** clicks)
    return reached


def ready_in_turn(clicks: float, decoders: int) -> float:
    """Share of an image's clicks that find it prepared, with round-robin routing."""
    return 1 - decoders_reached(clicks, decoders) / clicks


def kept(wanted: float, most: float) -> float:
    """Share of the images in use that stay prepared.

    This assumes random eviction; least recently used may be worse.

    Args:
        wanted: Bytes of all images in use.
        most: Bytes available.
    """
    return min(1.0, most / wanted)


def plan(images: float, assumed: Assumptions, rate_of_one: RateOfOne) -> Plan:
    """Plan for a number of images opened per day.

    Args:
        images: Images opened per day.
        assumed: The content of assumptions.yaml.
        rate_of_one: Clicks per second of one decoder, by the share of prepared images.
    """
    demand, sizes, machines = assumed["demand"], assumed["sizes"], assumed["machines"]

    # Demand in the peak hour.
    opens = images / DAY * demand["peak"]
    encodes = opens * demand["new"]
    clicks = opens * demand["clicks"]
    gpus = math.ceil(encodes / (machines["gpu_images_per_second"] * machines["gpu_busy"]))

    # Decoders, and the share of clicks that find their image prepared.
    in_use = opens * demand["seconds"] * sizes["ready"]  # bytes, with each image prepared once

    def in_turn_of(decoders: int) -> float:
        copies = decoders_reached(demand["clicks"], decoders)
        share = kept(in_use * copies / decoders, sizes["resident"])
        return ready_in_turn(demand["clicks"], decoders) * share

    def affine_of(decoders: int) -> float:
        return (1 - 1 / demand["clicks"]) * kept(in_use / decoders, sizes["resident"])

    decoders_in_turn, in_turn = _enough_decoders(clicks, in_turn_of, rate_of_one)
    decoders_affine, affine = _enough_decoders(clicks, affine_of, rate_of_one)

    # Redis: its memory, and the entries that decoders read.
    stored = images * demand["new"] * sizes["ttl_hours"] / 24 * sizes["entry"]
    out_in_turn = clicks * (1 - in_turn) * sizes["entry"]
    out_affine = clicks * (1 - affine) * sizes["entry"]

    resources: dict[str, Any] = {
        "images": images,
        "encodes": encodes,
        "clicks": clicks,
        "gpus": gpus,
        "replicas": math.ceil(encodes / machines["replica_images_per_second"]),
        "ready_in_turn": in_turn,
        "ready_affine": affine,
        "decoders_in_turn": decoders_in_turn,
        "decoders_affine": decoders_affine,
        "ready_bytes": in_use / decoders_affine,
        "redis_bytes": stored,
        "redis_shards_in_turn": _shards(stored, out_in_turn, machines),
        "redis_shards_affine": _shards(stored, out_affine, machines),
        "redis_out_in_turn": out_in_turn,
        "redis_out_affine": out_affine,
        "ingress": encodes * sizes["upload"] + clicks * sizes["request"],
        "egress": clicks * sizes["answer"],
    }
    return Plan(
        **resources, cost=_cost(resources, assumed), limits=_limits(resources, in_use, assumed)
    )


def _enough_decoders(
    clicks: float, share_ready: Callable[[int], float], rate_of_one: RateOfOne
) -> tuple[int, float]:
    """Find the number of decoders; return it with the share of prepared images.

    That share depends on the number of decoders, so the number grows until it suffices.
    """
    decoders = math.ceil(clicks / rate_of_one(1.0))
    while (needed := math.ceil(clicks / rate_of_one(share_ready(decoders)))) > decoders:
        decoders = needed
    return decoders, share_ready(decoders)


def _shards(stored: float, read: float, machines: Mapping[str, float]) -> int:
    by_memory = math.ceil(stored / machines["redis_bytes"])
    by_network = math.ceil(read / machines["redis_bytes_per_second"])
    return max(by_memory, by_network)


def _cost(resources: Mapping[str, Any], assumed: Assumptions) -> dict[str, float]:
    """Cost of a day with autoscaling, by resource.

    The mean of the day is 1/peak of the peak hour, but at least one of each. Redis keeps its size.
    """
    prices, sizes, machines = assumed["prices"], assumed["sizes"], assumed["machines"]
    gpus, decoders, replicas = (
        max(resources[name] / assumed["demand"]["peak"], 1)
        for name in ("gpus", "decoders_affine", "replicas")
    )

    decoder_memory = sizes["resident"] / GIB
    decoder = machines["decoder_cores"] * prices["core"] + decoder_memory * prices["gib"]
    return {
        "GPUs": 24 * gpus * prices["gpu"],
        "decoders": 24 * decoders * decoder,
        "embedding replicas": 24 * replicas * machines["replica_cores"] * prices["core"],
        "Redis": 24 * resources["redis_bytes"] / GIB * prices["gib"],
    }


def _limits(resources: Mapping[str, Any], in_use: float, assumed: Assumptions) -> list[Limit]:
    """Compare the demand with one of each resource, the scarcest first."""
    sizes, machines = assumed["sizes"], assumed["machines"]
    gpu_images = machines["gpu_images_per_second"] * machines["gpu_busy"]
    pods = (
        resources["decoders_in_turn"]
        + resources["gpus"]
        + resources["replicas"]
        + resources["redis_shards_in_turn"]
    )

    limits = [
        Limit("GPU", resources["encodes"], gpu_images, "more Triton replicas"),
        Limit(
            "Redis memory",
            resources["redis_bytes"],
            machines["redis_bytes"],
            "cluster mode; a shorter TTL; a second tier (SSD, object store) behind it",
        ),
        Limit(
            "Redis network, round robin",
            resources["redis_out_in_turn"],
            machines["redis_bytes_per_second"],
            "affine routing by image hash: one read per image, not per click",
        ),
        Limit(
            "Redis network, affine",
            resources["redis_out_affine"],
            machines["redis_bytes_per_second"],
            "cluster mode",
        ),
        Limit(
            "load balancer, bytes in",
            resources["ingress"],
            machines["ingress_bytes_per_second"],
            "several, by DNS",
        ),
        Limit(
            "load balancer, bytes out",
            resources["egress"],
            machines["ingress_bytes_per_second"],
            "keep logits in streams",
        ),
        Limit(
            "embedding replica",
            resources["encodes"],
            machines["replica_images_per_second"],
            "more Ray Serve replicas",
        ),
        Limit(
            "decoder memory for prepared images",
            in_use,
            sizes["resident"],
            "more decoders with affine routing; otherwise each holds every image",
        ),
        Limit(
            "pods of a cluster",
            pods,
            machines["pods"],
            "cells: one cluster per region, each with its own Redis",
        ),
    ]
    return sorted(limits, key=lambda limit: -limit.of_one)

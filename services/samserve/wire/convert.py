"""Conversions between core's values and the messages of the protos."""

from __future__ import annotations

from collections.abc import Mapping

from samserve.core.cache_status import CacheStatus
from samserve.v1 import types_pb2 as types


def stage_times(milliseconds: Mapping[str, float]) -> list[types.StageTime]:
    """Return a message for each stage of a call."""
    return [types.StageTime(stage=stage, milliseconds=ms) for stage, ms in milliseconds.items()]


def cache_status_to_proto(status: CacheStatus) -> str:
    """Return the name of the proto's value."""
    return f"CACHE_STATUS_{status.name}"


def cache_status_from_proto(status: types.CacheStatus) -> CacheStatus:
    """Return the value with the proto's name."""
    return CacheStatus[types.CacheStatus.Name(status).removeprefix("CACHE_STATUS_")]

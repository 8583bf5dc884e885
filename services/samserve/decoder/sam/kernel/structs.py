"""The structures of decode_job.h, field by field.

Arrays are passed by address: the code that fills a structure keeps them alive.
"""

from __future__ import annotations

import ctypes
from typing import Any

_Fields = tuple[tuple[str, Any], ...]
MOST_MASKS = 4


def _each(kind: Any, *names: str) -> _Fields:
    return tuple((name, kind) for words in names for name in words.split())


def _pointers(*names: str) -> _Fields:
    return _each(ctypes.c_void_p, *names)


class Packed16(ctypes.Structure):
    """Numbers of 16 bits, with scales."""

    _fields_ = (*_pointers("numbers scale"), ("half", ctypes.c_int64))


class Linear(ctypes.Structure):
    """y = x weight + bias."""

    _fields_ = (("weight", Packed16), *_pointers("bias"), *_each(ctypes.c_int64, "inner outer"))


class Norm(ctypes.Structure):
    """LayerNorm over the channels."""

    _fields_ = (*_pointers("weight bias"), ("epsilon", ctypes.c_float))


class SelfAttention(ctypes.Structure):
    """Attention of the tokens to each other."""

    _fields_ = _each(Linear, "query key value join")


class ToImage(ctypes.Structure):
    """Attention of the tokens to the image."""

    _fields_ = (*_each(Linear, "ask join"), *_each(Packed16, "key value"), *_pointers("value_bias"))


class FromImage(ctypes.Structure):
    """Attention of the image to the tokens."""

    _fields_ = (
        *_each(Linear, "key value"),
        *_each(Packed16, "query out"),
        *_pointers("query_bias out_bias"),
    )


class Layer(ctypes.Structure):
    """One of the two layers."""

    _fields_ = (
        ("own", SelfAttention),
        *_each(Norm, "norm1 norm2 norm3"),
        ("to_image", ToImage),
        *_each(Linear, "wide narrow"),
        ("from_image", FromImage),
    )


class Weights(ctypes.Structure):
    """What depends on the checkpoint alone."""

    _fields_ = (
        *_each(Layer, "first second"),
        ("last", ToImage),
        ("last_norm", Norm),
        ("hyper", Linear * 3 * MOST_MASKS),
        ("iou", Linear * 3),
        *_pointers(
            "gain1 gain2 rough rough_turned up fine_bias norm_weight norm_bias thinner thinner_bias"
        ),
        *_pointers("place_key1 place_query1 place_key2"),
        *_each(ctypes.c_float, "epsilon1 epsilon2 epsilon_fine"),
    )


class Job(ctypes.Structure):
    """One prompt on one image."""

    _fields_ = (
        *_each(ctypes.c_int64, "cells tokens rough masks"),
        ("wanted", ctypes.c_int64 * MOST_MASKS),
        *_pointers(
            "weights given",
            "key0 value0 query0 out0 key1 value1 query1 norm1 out1 key2 value2 fine",
            "key0_scale value0_scale query0_scale out0_scale key1_scale value1_scale",
            "query1_scale norm1_scale out1_scale key2_scale value2_scale fine_scale",
            "fine_1 fine_0 square0 square1 cross1 rough_rows s1 s2 r1 r2 logits ious side",
        ),
    )

"""The structures of decode_job.h, field by field.

Arrays are passed by address; the code that fills a structure keeps them alive.
"""

from __future__ import annotations

import ctypes
from typing import Any

_Fields = tuple[tuple[str, Any], ...]

MOST_MASKS = 4


def _fields(kind: Any, *names: str) -> _Fields:
    """Fields of one kind; each string holds names separated by spaces."""
    return tuple((name, kind) for words in names for name in words.split())


def _pointers(*names: str) -> _Fields:
    return _fields(ctypes.c_void_p, *names)


class Packed16(ctypes.Structure):
    """16-bit numbers with scales."""

    _fields_ = (*_pointers("numbers scale"), ("half", ctypes.c_int64))


class Linear(ctypes.Structure):
    """y = x weight + bias."""

    _fields_ = (("weight", Packed16), *_pointers("bias"), *_fields(ctypes.c_int64, "inner outer"))


class Norm(ctypes.Structure):
    """A LayerNorm over the channels."""

    _fields_ = (*_pointers("weight bias"), ("epsilon", ctypes.c_float))


class SelfAttention(ctypes.Structure):
    """The attention of the tokens to each other."""

    _fields_ = _fields(Linear, "query key value out")


class ToImage(ctypes.Structure):
    """The attention of the tokens to the image."""

    _fields_ = (
        *_fields(Linear, "query out"),
        *_fields(Packed16, "key value"),
        *_pointers("value_bias"),
    )


class FromImage(ctypes.Structure):
    """The attention of the image to the tokens."""

    _fields_ = (
        *_fields(Linear, "key value"),
        *_fields(Packed16, "query out"),
        *_pointers("query_bias out_bias"),
    )


class Layer(ctypes.Structure):
    """One of the transformer's two layers."""

    _fields_ = (
        ("self_attention", SelfAttention),
        *_fields(Norm, "norm1 norm2 norm3"),
        ("to_image", ToImage),
        *_fields(Linear, "mlp_in mlp_out"),
        ("from_image", FromImage),
    )


class Weights(ctypes.Structure):
    """Everything that depends on the checkpoint alone."""

    _fields_ = (
        *_fields(Layer, "first second"),
        ("last", ToImage),
        ("last_norm", Norm),
        ("hyper", Linear * 3 * MOST_MASKS),
        ("iou", Linear * 3),
        *_pointers("gain1 gain2 dense dense_transposed upscale1 upscale1_bias"),
        *_pointers("upscale_norm_weight upscale_norm_bias upscale2 upscale2_bias"),
        *_pointers("place_key1 place_query1 place_key2"),
        *_fields(ctypes.c_float, "epsilon1 epsilon2 upscale_epsilon"),
    )


class Job(ctypes.Structure):
    """One prompt on one image."""

    _fields_ = (
        *_fields(ctypes.c_int64, "cells tokens dense masks"),
        ("wanted", ctypes.c_int64 * MOST_MASKS),
        *_pointers(
            "weights prompt_tokens",
            "key0 value0 query0 out0 key1 value1 query1 norm1 out1 key2 value2 upscaled",
            "key0_scale value0_scale query0_scale out0_scale key1_scale value1_scale",
            "query1_scale norm1_scale out1_scale key2_scale value2_scale upscaled_scale",
            "fine_1 fine_0 square0 square1 cross1 dense_rows s1 s2 r1 r2 logits ious scratch",
        ),
    )

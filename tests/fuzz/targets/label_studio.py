"""Any body is a prediction or refused; what is cut out of it before it is parsed is not missed."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import ValidationError
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.gateway.label_studio.body import cut_unused
from samserve.gateway.label_studio.config import parse_label_config
from samserve.gateway.label_studio.messages import PredictRequest
from samserve.gateway.label_studio.prompts import object_prompts

MOST_BYTES = 4096
UNUSED = ("annotations", "drafts", "predictions")


def check(data: bytes) -> None:
    try:
        whole: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        whole = None

    try:
        cut = cut_unused(data)
    except InvalidInput:
        assert whole is None
        return
    if whole is None:
        return
    parsed = orjson.loads(cut)
    assert without_unused(parsed) == without_unused(whole)

    try:
        request = PredictRequest.model_validate(parsed)
        parse_label_config(request.label_config)
        if request.params.context is not None:
            object_prompts(request.params.context.result, Size(384, 303))
    except (InvalidInput, ValidationError):
        pass


def without_unused(value: Any) -> Any:
    """Return parsed JSON with the unused lists empty."""
    if isinstance(value, list):
        return [without_unused(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: [] if key in UNUSED and isinstance(each, list) else without_unused(each)
        for key, each in value.items()
    }

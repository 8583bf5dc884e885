"""Runs in the environment of inference-sdk: `python roboflow_calls.py URL IMAGE`; prints JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

from inference_sdk import InferenceConfiguration, InferenceHTTPClient
from inference_sdk.http.errors import HTTPCallErrorError

CLICK = {"points": [{"x": 213, "y": 193, "positive": True}]}
BOX = {"box": {"x": 213, "y": 195, "width": 54, "height": 54}}
MIXED = [
    BOX,
    CLICK,
    {"box": {"x": 124, "y": 75, "width": 48, "height": 46}, **CLICK},
    {"points": [{"x": 124, "y": 75, "positive": True}, {"x": 150, "y": 75, "positive": False}]},
    {"points": [{"x": 300, "y": 120, "positive": True}]},
]


def call_all(url: str, photo: str) -> dict[str, Any]:
    """Call every method that a samserve gateway serves."""
    client = InferenceHTTPClient(url)
    answers: dict[str, Any] = {
        "info": dict(vars(client.get_server_info())),
        "models": [model.model_id for model in client.list_loaded_models().models],
        "embedded": client.sam3_embed_image(photo),
        "named": client.sam3_embed_image(photo, image_id="coins"),
        "polygons": client.sam2_segment_image(photo, prompts=[CLICK]),
        "rle": client.sam2_segment_image(photo, prompts=[CLICK], mask_input_format="rle"),
        "visual": client.sam3_visual_segment(photo, prompts=[CLICK], mask_input_format="rle"),
        "mixed": client.sam2_segment_image(photo, prompts=MIXED, mask_input_format="rle"),
        "two_images": client.sam2_segment_image([photo, photo], prompts=[CLICK]),
    }
    try:
        client.sam2_segment_image(photo, prompts=[])
    except HTTPCallErrorError as error:
        answers["refused"] = [error.status_code, error.api_message]
    try:
        client.sam3_concept_segment(photo, prompts=[{"type": "text", "text": "coin"}])
    except HTTPCallErrorError as error:
        answers["concepts"] = [error.status_code, error.api_message]

    with_key = InferenceHTTPClient(url, api_key="a-key")
    with_key.configure(InferenceConfiguration(api_key_transport="both"))
    answers["with_key"] = with_key.sam3_embed_image(photo, image_id="coins")
    return {**answers, **asyncio.run(call_async(client, photo))}


async def call_async(client: InferenceHTTPClient, photo: str) -> dict[str, Any]:
    """Call the methods for asyncio; only they can read a binary answer."""
    binary = await client.sam2_segment_image_async(photo, prompts=MIXED, mask_input_format="binary")
    return {
        "rle_async": await client.sam2_segment_image_async(
            photo, prompts=[CLICK], mask_input_format="rle"
        ),
        "visual_async": await client.sam3_visual_segment_async(
            photo, prompts=[CLICK], mask_input_format="rle"
        ),
        "embedded_async": await client.sam3_embed_image_async(photo),
        "models_async": [
            model.model_id for model in (await client.list_loaded_models_async()).models
        ],
        "binary_async": base64.b64encode(binary).decode(),
    }


if __name__ == "__main__":
    print(json.dumps(call_all(*sys.argv[1:])))

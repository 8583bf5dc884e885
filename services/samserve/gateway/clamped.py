"""Boxes that are partly outside the image, as detectors and drawing tools make them."""

from __future__ import annotations

from collections.abc import Sequence

from samserve.client import Answer, AsyncClient, ImageInput, Prompt
from samserve.core.errors import InvalidInput


async def predict_clamped(
    client: AsyncClient,
    image: ImageInput,
    prompts: Sequence[Prompt],
    *,
    low_res_logits: bool = False,
    max_masks: int = 0,
) -> Answer:
    """Answer prompts; boxes are cut off at the image's edges, where SAM's own library takes them.

    The image's size is unknown here, so only a refused box costs a second call.

    Raises:
        InvalidInput: The image or a prompt is invalid; a point or a whole box is outside the image.
    """
    try:
        return await client.predict(
            image, prompts, low_res_logits=low_res_logits, max_masks=max_masks
        )
    except InvalidInput as problem:
        if not problem.field.endswith(".box"):
            raise
        return await client.predict(
            image, prompts, low_res_logits=low_res_logits, max_masks=max_masks, clamp=True
        )

"""The Python client library.

from samserve.client import Client, Click

with Client() as client:
    answer = client.segment("photo.jpg", points=[Click(120, 80)])
    answer.masks[0].array()          # bool [height, width]
"""

from samserve.client.answer import Answer, EmbedAnswer, Mask, Polygon
from samserve.client.bulk import BulkResult
from samserve.client.client import Client
from samserve.client.interaction import Interaction
from samserve.client.prompt import Box, Click, Prompt

__all__ = [
    "Answer",
    "Box",
    "BulkResult",
    "Click",
    "Client",
    "EmbedAnswer",
    "Interaction",
    "Mask",
    "Polygon",
    "Prompt",
]

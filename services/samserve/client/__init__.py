"""The Python client library.

from samserve.client import Client, Click

with Client() as client:
    answer = client.segment("photo.jpg", points=[Click(120, 80)])
    answer.masks[0].array()          # bool [height, width]
"""

from samserve.client.answer import Answer, BulkResult, EmbedAnswer, Mask, Polygon
from samserve.client.async_client import AsyncClient
from samserve.client.async_interaction import AsyncInteraction
from samserve.client.client import Client
from samserve.client.concept import Concept, ConceptFindings, Example, Findings, FoundObject
from samserve.client.everything import Everything, GridOptions, Record, Sureness
from samserve.client.image import CachedImage, ImageInput
from samserve.client.interaction import Interaction
from samserve.client.output import MaskFormat
from samserve.client.prompt import Box, Click, Prompt
from samserve.core.cache_status import CacheStatus

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncInteraction",
    "Box",
    "BulkResult",
    "CacheStatus",
    "CachedImage",
    "Click",
    "Client",
    "Concept",
    "ConceptFindings",
    "EmbedAnswer",
    "Everything",
    "Example",
    "Findings",
    "FoundObject",
    "GridOptions",
    "ImageInput",
    "Interaction",
    "Mask",
    "MaskFormat",
    "Polygon",
    "Prompt",
    "Record",
    "Sureness",
]

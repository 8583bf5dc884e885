"""Limits of a request, checked before anything is found, allocated or decoded. Pure.

docs/limits.md lists these and all other limits of both services. The settings hold the defaults of
those that an operator may change.
"""

from __future__ import annotations

from dataclasses import dataclass

from samserve.core.errors import InvalidInput

DEFAULT_PROMPTS = 64  # of a call; the client library splits larger calls
DEFAULT_BATCHES = 8  # calls of several prompts in progress

LONGEST_STRING = 64  # characters of a name, a version or an id
LONGEST_TIMEOUT = 10  # digits of a number of milliseconds: four months
MAX_METADATA_BYTES = 8 * 2**10
MAX_PARTS = 20_000  # fields and list entries of a request
MAX_FORMATS = 5  # each one once, and "unspecified"

# Of Find.
MAX_CONCEPTS = 16
MAX_EXAMPLES = 16  # of a concept
MAX_CONCEPT_TEXT = 256  # bytes of UTF-8
MAX_SEARCHES = 4  # in progress in a process; each may hold 130 MiB of what was found
MAX_SEARCHES_WAITING = 32

# Of GenerateMasks.
MAX_POINTS_PER_SIDE = 64
MAX_GRID_POINTS = MAX_POINTS_PER_SIDE**2  # of one grid of the caller's
MAX_POINTS_PER_BATCH = 256
MAX_CROP_LAYERS = 2
MAX_SWEEP_POINTS = 16_384  # of all crops together
MAX_SWEEP_MASKS = 4096  # of an answer; the best are sent
MAX_SHORTLIST_BYTES = 64 * 2**20  # of the masks that passed the thresholds, while a sweep runs
DEFAULT_SWEEPS = 2  # in progress
MAX_ACCEPTED = 1000  # masks that a person has accepted already
MAX_ACCEPTED_CROSSINGS = 4_000_000  # of their polygons and the image's columns
MAX_ACCEPTED_NUMBERS = 2**22  # bytes of their run lengths and coordinates of their polygons

# Of GetDecoder.
MAX_DECODER_BYTES = 32 * 2**20  # weights that a page downloads
MAX_DOWNLOADS = 16  # in progress


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits on one call of the decoder, or one step of a stream.

    Attributes:
        prompts: Prompts of a call.
        points: Points of a prompt.
        answer_bytes: Bytes of all masks in an answer together.
    """

    prompts: int
    points: int
    answer_bytes: int


@dataclass(frozen=True, slots=True)
class BulkLimits:
    """Limits on EmbedMany.

    Attributes:
        in_flight: Items of one stream that are worked on at once.
        all_in_flight: Items of all streams of a replica that are worked on at once.
        items: Items of one request.
        streams: Streams that are open at once in one replica.
        share: Part of them that one tenant may have.
    """

    in_flight: int
    all_in_flight: int
    items: int
    streams: int
    share: float = 1.0


def check_count(count: int, limit: int, field: str, noun: str) -> None:
    """Check a number of things; `noun` names them, as in "points".

    Raises:
        InvalidInput: There are more than `limit`; the error names the field, value and limit.
    """
    if count > limit:
        raise InvalidInput(field, f"{field}: {count:,} {noun}; the limit is {limit:,}")


def check_string(value: str, field: str) -> str:
    """Return a name, a version or an id if it is short enough.

    Raises:
        InvalidInput: It has more than LONGEST_STRING characters.
    """
    check_count(len(value), LONGEST_STRING, field, "characters")
    return value

"""Options of gRPC channels and servers."""

from __future__ import annotations

from samserve.core.limits import MAX_METADATA_BYTES

# A name may stand for many servers, as `dns:///` and a headless Service do: calls take turns.
EVERY_SERVER = ("grpc.lb_policy_name", "round_robin")

LARGEST_EMBEDDING = 16 * 2**20  # bytes; SAM 2's takes 8 MiB

# Above our own limit, which names the field. Without the second option gRPC refuses at random from
# the first size on.
METADATA_LIMITS = (
    ("grpc.max_metadata_size", 2 * MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
)

OVERHEAD = 2**20  # bytes for prompts, logits and framing around an image


def message_limits(max_image_bytes: int, max_answer_bytes: int = 0) -> list[tuple[str, int]]:
    """Return options that let a message with one image or one embedding through.

    Args:
        max_image_bytes: Of an encoded image, in either direction.
        max_answer_bytes: Of a message that is sent.
    """
    received = max(max_image_bytes, LARGEST_EMBEDDING) + OVERHEAD
    sent = max(received, max_answer_bytes + OVERHEAD)
    return [("grpc.max_receive_message_length", received), ("grpc.max_send_message_length", sent)]

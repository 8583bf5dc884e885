"""Messages of too many parts are recognised from their bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from samserve.core.errors import InvalidInput
from samserve.core.limits import MAX_PARTS
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2_grpc
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.parts import COUNTED_BYTES, PartLimit, RefusedMessage, has_more_parts, parsed

LENGTH = 33 * 2**20  # bytes of the largest message that a server takes


def nested(number: int, content: bytes) -> bytes:
    """A field that has a length: a message, bytes or a packed list."""
    length, varint = len(content), b""
    while length >= 0x80:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + varint + bytes([length]) + content


def repeated(part: bytes, around: int = 30) -> bytes:
    """As many of a part as fit into the largest message."""
    return part * ((LENGTH - around) // len(part))


POINT, PROMPT, ITEM = nested(1, b""), nested(4, b""), nested(1, b"")

HOSTILE = {
    "points": (pb.PredictRequest, nested(4, repeated(POINT))),
    "prompts": (pb.PredictRequest, repeated(PROMPT)),
    "packed formats": (pb.PredictRequest, nested(5, nested(1, repeated(b"\x01")))),
    "formats": (pb.PredictRequest, nested(5, repeated(b"\x08\x01"))),
    "unknown fields": (pb.PredictRequest, repeated(b"\xf8\x01\x01")),
    "points of a step": (pb.InteractRequest, nested(2, nested(2, repeated(POINT)))),
    "items": (embedding_pb2.EmbedManyRequest, repeated(ITEM)),
    "points, then cut off": (pb.PredictRequest, nested(4, repeated(POINT))[:-1]),
}


@pytest.mark.parametrize(("kind", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_the_largest_messages_of_small_parts_are_recognised(
    kind: type[Message], message: bytes
) -> None:
    assert LENGTH - 40 < len(message) <= LENGTH
    assert has_more_parts(message, kind.DESCRIPTOR, MAX_PARTS)


def test_every_request_within_the_limits_has_few_parts() -> None:
    point = types.Point(x=1, y=2, label=types.POINT_LABEL_BACKGROUND)
    box = types.Box(x0=1, y0=2, x1=3, y1=4)
    logits = bytes(131_072)
    full = pb.Prompt(points=[point] * 64, box=box, mask_input=logits, multimask=True)
    request = pb.PredictRequest(data=bytes(2**20), prompts=[full] * 64)
    assert not has_more_parts(request.SerializeToString(), request.DESCRIPTOR, MAX_PARTS // 4)

    item = embedding_pb2.EmbedManyRequest.Item(id=2**60, data=bytes(5_000), model="nano")
    many = embedding_pb2.EmbedManyRequest(items=[item] * 1_000)
    assert not has_more_parts(many.SerializeToString(), many.DESCRIPTOR, MAX_PARTS // 4)


def test_bytes_and_strings_are_not_looked_into() -> None:
    request = pb.PredictRequest(data=repeated(POINT), model="\x0a\x00" * 32)
    assert not has_more_parts(request.SerializeToString(), request.DESCRIPTOR, 10)


@pytest.mark.parametrize("most", [5, 6])
def test_fields_and_list_entries_are_counted(most: int) -> None:
    request = pb.PredictRequest(
        model="nano",  # 1
        prompts=[pb.Prompt(points=[types.Point(x=1, y=2)] * 2)],  # 2, 3, 4
        output=pb.OutputOptions(max_masks=1),  # 5, 6
    )
    assert has_more_parts(request.SerializeToString(), request.DESCRIPTOR, most) is (most < 6)


def test_a_damaged_message_is_left_to_the_parser() -> None:
    for message in (b"\x22", b"\x22\xff", b"\x22\x05\x0a", b"\xff" * 20):
        assert not has_more_parts(message, pb.PredictRequest.DESCRIPTOR, 20)


class Server:
    """Keeps the methods that are registered."""

    def __init__(self) -> None:
        self.parsers: dict[str, Callable[[bytes], object]] = {}
        self.generic = 0

    def add_generic_rpc_handlers(self, handlers: tuple[object, ...]) -> None:
        self.generic += len(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, object]) -> None:
        for name, handler in handlers.items():
            self.parsers[name] = handler.request_deserializer  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Server:
    server = Server()
    for module in (segmentation_pb2_grpc, embedding_pb2_grpc):
        (add,) = (getattr(module, name) for name in dir(module) if name.startswith("add_"))
        base = next(
            value for name, value in vars(module).items() if name.endswith("ServiceServicer")
        )
        add(base(), PartLimit(server))
    return server


def test_every_method_of_both_services_is_limited(server: Server) -> None:
    assert server.generic == 2
    assert set(server.parsers) == {
        *("Predict", "Interact", "GenerateMasks", "Find", "ListModels", "GetDecoder"),
        *("Embed", "EmbedMany", "GetEmbedding", "FindConcepts", "DeleteEmbedding"),
        *("DeleteImage", "DeleteTenant"),
    }
    for parse in server.parsers.values():
        refused = parse(repeated(b"\xf8\x01\x01"))
        assert isinstance(refused, RefusedMessage)
        with pytest.raises(InvalidInput, match="more than 20,000 fields") as caught:
            parsed(refused)
        assert caught.value.field == "request"


def test_a_message_of_few_parts_is_parsed(server: Server) -> None:
    request = pb.PredictRequest(data=bytes(COUNTED_BYTES), model="nano")
    assert parsed(server.parsers["Predict"](request.SerializeToString())) == request

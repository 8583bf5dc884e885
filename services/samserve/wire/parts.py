"""Refuses a message of too many parts before it is parsed.

Parsing turns an empty point of two bytes into an object of 50, so a message of 32 MiB may take more
than a GiB. This counts the parts first: fields, and entries of lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import Descriptor

from samserve.core.errors import InvalidInput
from samserve.core.limits import MAX_PARTS

COUNTED_BYTES = 2**20  # a smaller message is parsed at once: it takes 40 MiB at most

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types
BYTES_OF = {FIXED64: 8, FIXED32: 4}

LIST = object()  # stands for a field of many numbers in one value

Request = TypeVar("Request")


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """Stands for a request that has not been parsed."""

    problem: str


def parsed(request: Request | RefusedMessage) -> Request:
    """Return a request that has been parsed.

    Raises:
        InvalidInput: It was refused.
    """
    if isinstance(request, RefusedMessage):
        raise InvalidInput("request", request.problem)
    return request


class PartLimit:
    """Registers a service's methods with a gRPC server so that they get `RefusedMessage`, too.

    Give it in place of the server to the generated `add_...Servicer_to_server`.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignored: the same handlers are registered by their names as well."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        limited = {name: _limit_parts(handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, limited)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, limited)


def _limit_parts(handler: Any) -> Any:
    parse: Callable[[bytes], Any] = handler.request_deserializer
    descriptor = parse.__self__.DESCRIPTOR  # type: ignore[attr-defined]  # of the message's class

    def deserialize(message: bytes) -> Any:
        if len(message) > COUNTED_BYTES and has_more_parts(message, descriptor, MAX_PARTS):
            return RefusedMessage(
                f"request: more than {MAX_PARTS:,} fields and list entries; "
                "send fewer prompts or items"
            )
        return parse(message)

    return handler._replace(request_deserializer=deserialize)


def has_more_parts(message: bytes, descriptor: Descriptor, most: int) -> bool:
    """Whether a serialized message has more than `most` parts. A damaged one is the parser's."""
    try:
        return _count(message, 0, len(message), descriptor, most) > most
    except IndexError:  # truncated
        return False


def _count(message: bytes, at: int, end: int, descriptor: Descriptor, most: int) -> int:
    """Count the parts from `at` to `end`, until there are more than `most`."""
    fields = _fields(descriptor)
    parts = 0
    while at < end and parts <= most:
        key, at = _varint(message, at)
        number, wire_type = key >> 3, key & 7
        parts += 1

        if wire_type == VARINT:
            _, at = _varint(message, at)
        elif wire_type == LENGTH_DELIMITED:
            length, at = _varint(message, at)
            nested = fields.get(number)
            if isinstance(nested, Descriptor):
                parts += _count(message, at, min(at + length, end), nested, most - parts)
            elif nested is LIST:
                parts += length
            at += length
        else:
            at += BYTES_OF.get(wire_type, 0)

    return parts


@cache
def _fields(descriptor: Descriptor) -> dict[int, object]:
    """Return the fields that have parts: the descriptor of a message, or LIST."""
    fields: dict[int, object] = {}
    for field in descriptor.fields:
        message = field.message_type
        if message is not None:
            if _has_parts(message):
                fields[field.number] = message
        elif field.is_packed:
            fields[field.number] = LIST
    return fields


def _has_parts(descriptor: Descriptor) -> bool:
    """Whether a message has lists or messages; a point and a box have numbers only."""
    return any(field.is_repeated or field.message_type is not None for field in descriptor.fields)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7

"""Raw HTTP/2 for attacks that no gRPC library sends: halves of messages, resets, silence."""

from __future__ import annotations

import socket
import struct
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions

READ = 65536  # bytes of one read


class RawConnection:
    """One HTTP/2 connection that sends gRPC calls piece by piece."""

    def __init__(self, address: str) -> None:
        """Connect to `host:port` and exchange the settings."""
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._socket.settimeout(0.01)

        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._authority = address
        self._flush()
        self.read(0.2)

    def open(self, method: str) -> int:
        """Send the headers of a call; return its stream."""
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/samserve.v1.{method}"),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self._h2.send_headers(stream, headers)
        self._flush()
        return stream

    def send_part(self, stream: int, announced: int, sent: int) -> None:
        """Announce a message of `announced` bytes, and send `sent` bytes of it."""
        # Field 2 of Predict and Embed is the image's bytes.
        head = b"\x12" + _varint(announced - 8)
        left = memoryview(struct.pack(">BI", 0, announced) + head + bytes(sent - len(head)))
        give_up = time.monotonic() + 10

        while left and time.monotonic() < give_up:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                self.read(0.05)
                continue

            self._h2.send_data(stream, bytes(left[:room]))
            left = left[room:]
            self._flush()

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self._h2.reset_stream(stream, error_code=8)
        self._flush()

    def read(self, seconds: float) -> bool:
        """Read what has come; False once the server has closed the connection."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            try:
                data = self._socket.recv(READ)
            except TimeoutError:
                continue
            if not data:
                return False

            events = self._h2.receive_data(data)
            self._flush()
            if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
                return False
        return True

    def close(self) -> None:
        self._socket.close()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if not data:
            return
        self._socket.settimeout(10)
        self._socket.sendall(data)
        self._socket.settimeout(0.01)


def _varint(number: int) -> bytes:
    """A protobuf varint of five bytes, whatever the number's size."""
    groups = [(number >> shift) & 0x7F for shift in (0, 7, 14, 21, 28)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])

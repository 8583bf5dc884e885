"""The ports that the services listen on by default, and the addresses that clients then use."""

from __future__ import annotations

EMBEDDING_PORT = 8500
DECODER_PORT = 8501
HTTP_PORT = 8502

EMBEDDING_ADDRESS = f"127.0.0.1:{EMBEDDING_PORT}"
DECODER_ADDRESS = f"127.0.0.1:{DECODER_PORT}"

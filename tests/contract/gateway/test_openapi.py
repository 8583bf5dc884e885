"""Requests made from the OpenAPI description: no 500, and no answer that it does not allow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn

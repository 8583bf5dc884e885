"""Structured logs: one JSON object per line on stderr."""

from __future__ import annotations

import logging
import sys

import structlog

from samserve.infra import tracing


def set_up_logs(service: str, level: str) -> None:
    """Configure the logs of this process; each line names the service."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(service=service)


def bind_image_id(image_id: str) -> None:
    """Add the image's id to the log lines and the span of the current call."""
    structlog.contextvars.bind_contextvars(image_id=image_id)
    tracing.set_attribute("samserve.image_id", image_id)

"""Logging, set up once: JSON lines on standard output for journald, readable lines on a terminal."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from io import BytesIO, StringIO
from typing import Any

import msgspec
import structlog


def set_up(level: str) -> None:
    """level: debug, info, warning or error. Also quiets libraries that log through the standard module."""
    number = getattr(logging, level.upper())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    pretty = sys.stdout.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(_to_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(_Text()) if pretty else structlog.BytesLoggerFactory(_Lines()),
        cache_logger_on_first_use=True,
    )


def _to_json(event: Any, **_: Any) -> bytes:
    """There is a line for every inference: half of its time was the standard library's JSON."""
    return msgspec.json.encode(event, enc_hook=repr)


class _Text(StringIO):
    """Standard output that may be full or gone: the box goes on without its log."""

    def write(self, text: str, /) -> int:
        with suppress(OSError, ValueError):
            return sys.stdout.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()


class _Lines(BytesIO):
    """The same, for bytes."""

    def write(self, line: Any, /) -> int:
        with suppress(OSError, ValueError):
            return sys.stdout.buffer.write(line)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stdout.buffer.flush()

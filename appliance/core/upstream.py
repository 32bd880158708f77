"""What an answer of central means for what was sent, and how long to wait before the next try. No clock, no socket."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Literal

Fate = Literal["taken", "refused", "later", "wrong"]
"""taken: central has it. refused: central will never take this. later: nobody is to blame, try again. wrong: central or
the rights of this box are set up wrongly; what was sent may be all right, so it is kept."""

RETRY_AFTER_S_MAX = 3600.0
"""Whatever central asks for, the box looks again after so long."""

_FIRST_PAUSE_S = 0.5
# RFC 9110 section 15.5: a content that is malformed, too large, of a type or of a meaning that is not accepted.
_NEVER = frozenset({400, 413, 415, 422})
_NOT_NOW = frozenset({408, 409, 423, 424, 425, 429})
# MQTT 5 section 3.4.2.1: topic name invalid, packet too large, payload format invalid; not authorised.
_PUBLISH_NEVER = frozenset({0x90, 0x95, 0x99})
_PUBLISH_WRONG = frozenset({0x87})
_PUBLISH_FAILED = 0x80
_PAGE = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html)", re.IGNORECASE)


def fate_of_answer(status: int, content: bytes) -> Fate:
    """Of an HTTP request. A redirect is never followed: it would lead, with our token, where nobody allowed.

    A web page says nothing of what was sent: a portal or a proxy gives it to everybody, with status 200.
    """
    if 200 <= status < 300:
        return "wrong" if is_page(content) else "taken"
    if status in _NEVER:
        return "refused"
    return "later" if status >= 500 or status in _NOT_NOW else "wrong"


def is_page(content: bytes) -> bool:
    """Whether it begins as HTML does."""
    return _PAGE.match(content) is not None


def fate_of_reason(reason: int) -> Fate:
    """Of an MQTT PUBLISH, by the reason code of its PUBACK."""
    if reason < _PUBLISH_FAILED:
        return "taken"
    if reason in _PUBLISH_NEVER:
        return "refused"
    return "wrong" if reason in _PUBLISH_WRONG else "later"


def pause_s(attempt: int, most_s: float, draw: float) -> float:
    """Seconds until the next try: capped, and with full jitter, so that a fleet does not come back in step.

    attempt: failures in a row before this one. draw: a random number, 0 to 1.
    """
    return draw * min(most_s, _FIRST_PAUSE_S * 2.0 ** min(attempt, 32))


def retry_after_s(value: str | None, now: float) -> float | None:
    """Seconds that `Retry-After` asks for (RFC 9110 section 10.2.3: seconds, or a date); None when it says nothing.

    now: wall clock, which may be anywhere: no more than RETRY_AFTER_S_MAX is believed.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), RETRY_AFTER_S_MAX)
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - now), RETRY_AFTER_S_MAX)
    except (ValueError, OverflowError, OSError):
        return None

"""What the headers of a request say beside its input: where it comes from, and by when it must be answered.

The same at every wire door: X-Part, X-Lot, X-Recipe, X-Source, X-Timeout-Ms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from appliance.core.protocol import Part
from appliance.errors import FieldError, MediaTypeError
from appliance.fields import check_part, check_source
from appliance.http.call import Call

FIELDS = ("part", "lot", "recipe", "source")

_HEADERS = tuple((name, f"x-{name}".encode()) for name in FIELDS)
_NOTHING = Part()


def origin(call: Call, given: Mapping[str, object], source: str) -> tuple[str, Part]:
    """Source and part. given: what the body says, which goes before the headers; `source`: when nobody names one.

    Raises FieldError.
    """
    fields: dict[str, object] = {name: call.header(f"x-{name}") for name, key in _HEADERS if key in call.headers}
    fields.update(given)
    if not fields:
        return source, _NOTHING
    part = check_part(fields.get("part"), fields.get("lot"), fields.get("recipe"))
    return check_source(fields.get("source") or source), part


async def plain_body(call: Call) -> bytes:
    """The body of a door that reads no compressed ones. Raises MediaTypeError for such, and what `Call.body` raises."""
    coding = call.header("content-encoding").strip().lower()
    if coding not in ("", "identity"):
        raise MediaTypeError(f"the body has the coding {coding[:32]!r}; send it uncompressed")
    return await call.body()


def deadline_s(call: Call) -> float | None:
    """How long the caller waits, from X-Timeout-Ms. Raises FieldError."""
    if b"x-timeout-ms" not in call.headers:
        return None
    text = call.header("x-timeout-ms")
    try:
        timeout_ms = float(text)
    except ValueError:
        timeout_ms = math.nan
    if not 0 < timeout_ms < math.inf:
        raise FieldError(f"X-Timeout-Ms {text[:40]!r}: expected milliseconds above 0")
    return timeout_ms / 1000

"""Query parameters as a struct."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request

from appliance.errors import FieldError

T = TypeVar("T")


def query(request: Request[Any, Any, Any], kind: type[T]) -> T:
    """Raises FieldError with the parameter and the reason."""
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as error:
        raise FieldError(f"query: {error}") from error

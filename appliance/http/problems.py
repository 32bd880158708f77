"""From an error to an RFC 9457 problem: one table from class to status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from appliance import errors
from appliance.http.call import Reply, one_line
from appliance.http.security import HEADERS

log = structlog.get_logger("http")

PROBLEM = "application/problem+json"


_STATUS: dict[type[Exception], int] = {
    errors.ModelNotFound: 404,
    errors.VersionNotFound: 404,
    errors.NotFound: 404,
    errors.ModelNotReady: 503,
    errors.ModelFailed: 503,
    errors.RemoteUnavailable: 503,
    errors.ModelTooLarge: 507,
    errors.ModelLoadError: 422,
    errors.ManifestError: 422,
    errors.HashMismatch: 422,
    errors.KeyReused: 409,
    errors.WrongMethod: 405,
    errors.BodyTooLarge: 413,
    errors.ImageTooLarge: 413,
    errors.MediaTypeError: 415,
    errors.InputError: 400,
    errors.Overloaded: 503,
    errors.InferenceTimeout: 504,
    errors.InferenceError: 422,
    errors.CameraError: 503,
    errors.AnswerLate: 504,
    errors.Interrupted: 503,
    errors.BackupError: 409,
    errors.OrderRefused: 409,
    errors.StoreFull: 507,
    errors.StoreError: 503,
    errors.AddressRefused: 403,
    errors.ApplianceError: 500,
}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 400: "request_invalid"}


class Problem(msgspec.Struct, frozen=True):
    """`code` is stable; `detail` says what came, what was expected and what to do."""

    title: str
    status: int
    detail: str
    code: str
    type: str = "about:blank"


def status_of(error: errors.ApplianceError) -> int:
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def appliance_error(request: Request[Any, Any, Any], error: errors.ApplianceError) -> Response[Problem]:
    return _problem(status_of(error), error.code, str(error))


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """Litestar's own errors: an unknown path, a wrong method, a body over the limit."""
    status = error.status_code
    if status >= 500:
        return unexpected_error(request, error)
    detail = {
        404: f"there is nothing at {request.url.path}; GET / shows the page, GET /v1/status the box",
        405: f"{request.method} is not allowed at {request.url.path}",
        413: "the body is above http.body_bytes_max; send it smaller or raise the limit",
    }.get(status, error.detail)
    return _problem(status, _CODES.get(status, "request_invalid"), detail)


def unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    log.error("unexpected", path=request.url.path, exc_info=error)
    return _problem(500, "internal_error", f"{type(error).__name__}; the log of the box has the details")


def problem_reply(error: errors.ApplianceError) -> Reply:
    """The same problem from a wire door."""
    status = status_of(error)
    problem = Problem(HTTPStatus(status).phrase, status, one_line(str(error)), error.code)
    return Reply(msgspec.json.encode(problem), PROBLEM, status, error_headers(error))


def error_headers(error: errors.ApplianceError) -> dict[str, str] | None:
    """What a wire door says beside an error, whatever its form."""
    if isinstance(error, errors.WrongMethod):
        return {"Allow": error.allow}
    return retry_headers(status_of(error))


def retry_headers(status: int) -> dict[str, str] | None:
    """What a refusal for now says beside its status."""
    return {"Retry-After": "1"} if status == 503 else None


def _problem(status: int, code: str, detail: str) -> Response[Problem]:
    headers = {**HEADERS, **(retry_headers(status) or {})}
    problem = Problem(HTTPStatus(status).phrase, status, one_line(detail), code)
    return Response(problem, status_code=status, media_type=PROBLEM, headers=headers)

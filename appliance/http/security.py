"""Who may call. For now: this machine only, and only pages that this box served.

The seam for keys and TLS: `check_address` decides at start, `check_request` for each request.
"""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlsplit

from litestar import Request

from appliance.core.address import is_loopback
from appliance.errors import AddressRefused, NotFound

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def check_address(host: str, what: str) -> None:
    """Raises AddressRefused unless `host` is this machine's loopback; `what` names the setting."""
    if not is_loopback(host):
        raise AddressRefused(
            f"{what} is {host!r}: this version has no logins yet and listens on this machine only; "
            "use 127.0.0.1, and a reverse proxy with a login for other machines"
        )


# Every request of a client names the same host.
@functools.lru_cache(maxsize=256)
def _names_this_machine(host: str) -> bool:
    """Whether a Host header is the loopback, with or without a port."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def check_request(request: Request[Any, Any, Any]) -> None:
    """`check_call` for a handler of Litestar's."""
    origin = request.headers.get("origin")
    check_call(
        request.method,
        request.scope["path"],
        request.headers.get("host", ""),
        None if origin is None else origin.encode("latin-1"),
    )


def check_call(method: str, path: str, host: str, origin: bytes | None) -> None:
    """Refuse what a foreign page in a browser on this machine could send (DNS rebinding, cross-site posts).

    Raises AddressRefused; NotFound for a path that no file system has.
    """
    if "\0" in path:
        raise NotFound("there is nothing at a path with a NUL; GET / shows the page")
    if not _names_this_machine(host):
        raise AddressRefused(f"Host is {host!r}: call this box by the address it listens on")
    if origin is None:
        return
    if origin == b"null":
        if method != "GET":
            raise AddressRefused("a page without an origin may not call this box; open the page that the box serves")
    elif origin.partition(b"://")[2] != host.encode():
        raise AddressRefused(
            f"a page of {origin.decode('latin-1')} may not call this box; open the page that the box serves"
        )

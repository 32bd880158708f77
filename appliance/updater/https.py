"""A registry on a server, over HTTPS by urllib3."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, SSLError, TimeoutError

from appliance import __version__
from appliance.core.polling import parse_retry_after
from appliance.errors import ConfigError, RegistryUnavailable
from appliance.updater.fetch import Body, Missing, Patience

_CHUNK_BYTES = 64 << 10
_DRAINED_BYTES = 16 << 10
_CONTENT_RANGE = re.compile(r"^bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)$")
_NOT_THERE = (403, 404, 410)


class HttpsSource:
    """One connection, kept for the whole poll. One thread at a time.

    A redirect is not followed: whoever moves a registry tells the boxes its address; a captive portal is no registry.
    """

    def __init__(self, url: str, ca: Path | None, patience: Patience | None = None) -> None:
        """url: of the folder that holds `metadata`. ca: certificates in place of the system's. Raises ConfigError."""
        self.origin = url
        self._base = url.rstrip("/") + "/"
        self._patience = patience or Patience()
        self._pool = _pool(url, ca)

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"edge-inference-appliance/{__version__}"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        timeout = urllib3.Timeout(connect=self._patience.connect_s, read=self._patience.gap_s)
        try:
            response = self._pool.request(
                "GET",
                self._base + path,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            raise self._failed(error) from error
        is_usable = False
        try:
            self._check(response, path)
            begins, total = self._place(response, path, offset)
            chunks = self._patience.check(self._chunks(response), self.origin)
            yield Body(chunks, begins, total)
            is_usable = True
        except Missing:
            is_usable = True
            raise
        finally:
            if is_usable:
                self._drain(response)
            if not response.closed:
                response.close()
            response.release_conn()

    def _check(self, response: urllib3.BaseHTTPResponse, path: str) -> None:
        status, where = response.status, f"{self.origin} answered {response.status} for {path}"
        if status in (200, 206):
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise RegistryUnavailable(f"{where}, encoded though that was not asked for", answered=True, again=False)
            return
        if status in _NOT_THERE:
            raise Missing(where, status)
        if 300 <= status < 400:
            target = response.headers.get("Location", "another place")[:200]
            raise RegistryUnavailable(
                f"{where}, a redirect to {target}, which is not followed; set updates.url to where the registry is",
                answered=True,
                again=False,
            )
        retry_after_s = parse_retry_after(response.headers.get("Retry-After"), time.time())
        again = status in (408, 425, 429) or status >= 500
        raise RegistryUnavailable(
            f"{where}; {'try again later' if again else 'is updates.url the address of a registry?'}",
            answered=True,
            again=again,
            retry_after_s=retry_after_s,
        )

    def _place(self, response: urllib3.BaseHTTPResponse, path: str, offset: int) -> tuple[int, int | None]:
        """Where in the file the answer begins, and the length of the whole file."""
        if response.status == 200:
            length = response.headers.get("Content-Length", "")
            return 0, int(length) if length.isdecimal() else None
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            raise RegistryUnavailable(
                f"{self.origin} answered another range of {path} than from {offset} on", answered=True, again=False
            )
        return offset, None if found[3] == "*" else int(found[3])

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            # `read` waits until a chunk is full: a byte now and then would never be noticed.
            while chunk := response.read1(_CHUNK_BYTES):
                yield chunk
        except (HTTPError, OSError) as error:
            raise self._failed(error, answered=True) from error

    def _drain(self, response: urllib3.BaseHTTPResponse) -> None:
        """So that its connection can be used again, unless there is more left in it than that is worth."""
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) - response.tell() <= _DRAINED_BYTES:
            with suppress(RegistryUnavailable):
                for _ in self._patience.check(self._chunks(response), self.origin):
                    pass

    def _failed(self, error: Exception, *, answered: bool = False) -> RegistryUnavailable:
        if isinstance(error, SSLError):
            return RegistryUnavailable(
                f"{self.origin}: its certificate is not trusted ({error}); give the plant's own authority as "
                "updates.ca",
                answered=True,
            )
        if isinstance(error, TimeoutError):
            return RegistryUnavailable(
                f"{self.origin} gave nothing for {self._patience.gap_s:g} s; try again later", answered=answered
            )
        return RegistryUnavailable(f"{self.origin}: {error}; try again later", answered=answered)


def _pool(url: str, ca: Path | None) -> urllib3.PoolManager:
    """Through the proxy that the environment names (`https_proxy`, `no_proxy`), as other programs do."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context = ssl.create_default_context(cafile=str(ca))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"updates.ca: {ca}: {error}; give a file of certificates in PEM") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy is not None and not proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, ssl_context=context)
    return urllib3.PoolManager(ssl_context=context)

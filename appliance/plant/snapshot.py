"""One picture from a camera that gives it at a URL.

The URL stands in the configuration, never in a message: that is the list of what may be asked. A redirect is not
followed, since it would lead where nobody allowed.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

from appliance.codecs import sniff
from appliance.config import HttpCamera
from appliance.errors import CameraError, ConfigError, InputError

_CHUNK = 1 << 16


class Snapshot:
    """Raises ConfigError when the password or the authority's certificate cannot be read."""

    def __init__(self, name: str, config: HttpCamera) -> None:
        self._name = name
        self._config = config
        parts = urlsplit(config.url)
        assert parts.hostname is not None, "the configuration's pattern demands a host"
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Accept": "image/jpeg, image/png", "Connection": "close", "User-Agent": "appliance"}
        try:
            if config.username is not None:
                password = "" if config.password_file is None else Path(config.password_file).read_text().strip()
                both = base64.b64encode(f"{config.username}:{password}".encode()).decode()
                self._headers["Authorization"] = f"Basic {both}"
            self._trust = ssl.create_default_context(cafile=config.ca_file) if self._secure else None
        except (OSError, ValueError) as error:
            raise ConfigError(f"cameras.{name}: {error}; give readable files") from error

    def fetch(self, ends_at: float) -> bytes:
        """A JPEG or PNG. ends_at: monotonic time at which nobody waits for it any more. Raises CameraError."""
        ends_at = min(ends_at, time.monotonic() + self._config.timeout_ms / 1000)
        try:
            body = self._get(ends_at)
            sniff(body)
        except TimeoutError as error:
            raise self._error(f"did not answer within {self._config.timeout_ms} ms or in time for the part") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._error(f"cannot be asked ({type(error).__name__}: {error})") from error
        except InputError as error:
            raise self._error(f"sent no picture: {error}") from error
        return body

    def _get(self, ends_at: float) -> bytes:
        connection = self._connect(_left(ends_at))
        try:
            connection.connect()
            line = connection.sock
            line.settimeout(_left(ends_at))
            connection.request("GET", self._target, headers=self._headers)
            reply = connection.getresponse()
            if reply.status != 200:
                moved = "; a redirect is not followed, write the final address" if 300 <= reply.status < 400 else ""
                raise self._error(f"answered {reply.status} {reply.reason}{moved}")
            body = bytearray()
            while True:
                line.settimeout(_left(ends_at))
                part = reply.read1(_CHUNK)
                if not part:
                    break
                body += part
                if len(body) > self._config.bytes_max:
                    raise self._error(f"sent more than bytes_max ({self._config.bytes_max})")
            if reply.length:
                raise self._error(f"ended {reply.length} bytes early")
            return bytes(body)
        finally:
            connection.close()

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._trust is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._trust)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)

    def _error(self, what: str) -> CameraError:
        return CameraError(f"camera {self._name} at {self._config.url} {what}")


def _left(ends_at: float) -> float:
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s

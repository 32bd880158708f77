"""A destination behind HTTPS: rows in batches, pictures one by one.

`POST <url>` with `Content-Type: application/json`, `Content-Encoding: gzip`, `Idempotency-Key`, and the body

    {"device": "...", "late": false, "rows": [{"key": "...", "topic": "...", "payload": {...}}, ...]}

A payload that is not JSON comes as `"base64": "..."` with its `"media"`. A row's key never changes; the batch's is made
from those of its rows, so the same batch has the same key whenever it is sent. A picture is `PUT` to
`<url>/images/<device>/<result>` as it is. 2xx takes a batch whole, unless it comes with a web page. What is refused
for ever (400, 413, 415, 422) is halved until it is known which rows are meant; those become dead letters. The rest is
tried again, in smaller batches after one that was not answered in time.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from appliance import __version__
from appliance.config import HttpsUpstream
from appliance.core.upstream import fate_of_answer, is_page, retry_after_s
from appliance.errors import ConfigError
from appliance.outbox.link import REFUSED_AT_ONCE, Away, Row, Sent
from appliance.timed import CallTime, connect

_ANSWER_BYTES_MAX = 64 << 10
_TEXT_MAX = 300
_JSON = "application/json"
_ENCODER = msgspec.json.Encoder()


class _Answer(NamedTuple):
    """words: what it says, in one line. content: its beginning."""

    status: int
    retry_after: str | None
    words: str
    content: bytes


class HttpsLink:
    """One kept connection: each lane has a link of its own. Raises ConfigError when a file cannot be read."""

    def __init__(self, name: str, config: HttpsUpstream, device: str) -> None:
        parts = urlsplit(config.url)
        self._name = name
        self._config = config
        self._device = device
        self._host, self._path = parts.hostname or "", parts.path.rstrip("/")
        self._target = self._path or "/"
        if parts.query:
            self._target += f"?{parts.query}"
        self._tls = _tls(name, config)
        self._port = parts.port or (80 if self._tls is None else 443)
        self._time = CallTime(config.timeout_s)
        self._http: http.client.HTTPConnection | None = None
        self._refused_in_a_row = 0
        self._rows_at_once: int = config.batch_rows
        _token(name, config)

    def room(self, *, late: bool) -> int:
        return self._rows_at_once

    def send(self, rows: Sequence[Row], *, late: bool) -> Sent:
        """Blocks for `timeout_s` at most, for each part of a batch that is slow, or refused, again."""
        taken: list[Row] = []
        refused: list[tuple[Row, str]] = []
        size = self._rows_at_once
        parts = [list(rows[at : at + size]) for at in range(0, len(rows), size)][::-1]
        while parts:
            part = parts.pop()
            answer = self._try(part, late=late)
            if isinstance(answer, Away):
                return self._stopped(taken, refused, [part, *reversed(parts)], answer)
            if answer is None:
                self._refused_in_a_row = 0
                self._rows_at_once = min(self._config.batch_rows, 2 * self._rows_at_once)
                taken += part
            elif len(part) > 1:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
            else:
                refused.append((part[0], answer))
                self._refused_in_a_row += 1
                if self._refused_in_a_row >= REFUSED_AT_ONCE:
                    away = Away(f"{self._config.url} refuses everything: {answer}", fault=True)
                    return self._stopped(taken, refused, list(reversed(parts)), away)
        return Sent(tuple(taken), tuple(refused))

    def settled(self, queue: str) -> Sent:
        return Sent()

    def state(self) -> str | None:
        return None

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _stopped(self, taken: list[Row], refused: list[tuple[Row, str]], left: list[list[Row]], away: Away) -> Sent:
        return Sent(tuple(taken), tuple(refused), tuple(row for part in left for row in part), away)

    def _try(self, rows: list[Row], *, late: bool) -> Away | str | None:
        """None: taken. Text: refused for ever, in the server's words."""
        try:
            answer = self._request(rows, late=late)
        except ConfigError as error:
            return Away(str(error), fault=True)
        except TimeoutError:
            self.close()
            # A line so slow that this much never gets through in time may carry less.
            self._rows_at_once = max(1, len(rows) // 2)
            return Away(f"{self._config.url} did not answer within {self._config.timeout_s:g} s")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            return Away(f"{self._config.url} cannot be reached: {type(error).__name__}: {error}"[:_TEXT_MAX])
        fate = fate_of_answer(answer.status, answer.content)
        if fate == "taken":
            return None
        if fate == "refused":
            return f"status {answer.status}: {answer.words}"
        moved = "; a redirect is not followed, write the final address" if 300 <= answer.status < 400 else ""
        check = f"; check url, token_file and certificates of [upstreams.{self._name}]" if fate == "wrong" else ""
        wait = retry_after_s(answer.retry_after, time.time()) if fate == "later" else None
        said = f"{self._config.url} answers {answer.status}: {answer.words}{moved}{check}"
        return Away(said, wait, fate == "wrong")

    def _request(self, rows: list[Row], *, late: bool) -> _Answer:
        method, target, body, headers = "POST", self._target, b"", {"Idempotency-Key": batch_key(rows)}
        if rows[0].result is not None:
            # The lane of pictures gives one at a time.
            method, target = "PUT", f"{self._path}/images/{self._device}/{rows[0].result}"
            body, headers = rows[0].payload, {**headers, "Content-Type": rows[0].media}
        else:
            body = encode(self._device, rows, late=late)
            headers = {**headers, "Content-Type": _JSON, "Content-Encoding": "gzip"}
        self._time.start()
        if self._http is not None:
            # A server may have closed a connection that was idle; by its key it knows what it has seen.
            try:
                return self._once(self._http, method, target, body, headers)
            except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
                self.close()
        self._http = self._connect()
        return self._once(self._http, method, target, body, headers)

    def _once(
        self, connection: http.client.HTTPConnection, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> _Answer:
        sent = {"User-Agent": f"edge-inference-appliance/{__version__}", "Accept": _JSON, **headers}
        if (token := _token(self._name, self._config)) is not None:
            sent["Authorization"] = f"Bearer {token}"
        connection.request(method, target, body, sent)
        answer = connection.getresponse()
        content = answer.read(_ANSWER_BYTES_MAX)
        left = answer.length != 0 if answer.length is not None else not answer.isclosed()
        words = " ".join(content.decode(errors="replace").split())[:_TEXT_MAX] or answer.reason or "no reason given"
        if is_page(content):
            words = "a web page"
        if left or answer.will_close:
            self.close()
        return _Answer(answer.status, answer.headers.get("Retry-After"), words, content)

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPConnection if self._tls is None else http.client.HTTPSConnection
        connection = kind(self._host, self._port)
        # It would open another socket in place of a closed one, without a time limit.
        connection.auto_open = 0
        connection.sock = connect(self._host, self._port, self._tls, self._time)
        return connection


def encode(device: str, rows: Sequence[Row], *, late: bool) -> bytes:
    """The body of a batch, compressed; the same bytes for the same rows."""
    body = _ENCODER.encode({"device": device, "late": late, "rows": [_wire(row) for row in rows]})
    return gzip.compress(body, 1, mtime=0)


def batch_key(rows: Sequence[Row]) -> str:
    """32 hexadecimal digits made from the keys of the rows; whether they are late makes no difference."""
    return hashlib.blake2b("\n".join(row.key for row in rows).encode(), digest_size=16).hexdigest()


def _wire(row: Row) -> dict[str, object]:
    if row.media == _JSON:
        return {"key": row.key, "topic": row.topic, "payload": msgspec.Raw(row.payload)}
    text = base64.b64encode(row.payload).decode()
    return {"key": row.key, "topic": row.topic, "media": row.media, "base64": text}


def _tls(name: str, config: HttpsUpstream) -> ssl.SSLContext | None:
    if config.url.startswith("http:"):
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.cert_file is not None:
            context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"upstreams.{name}: {error}; give ca_file, cert_file and key_file as PEM files") from error
    return context


def _token(name: str, config: HttpsUpstream) -> str | None:
    """Read with every request, so that a new token needs no restart. Raises ConfigError."""
    if config.token_file is None:
        return None
    try:
        token = Path(config.token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"upstreams.{name}.token_file {config.token_file}: {error}; give a readable file") from error
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"upstreams.{name}.token_file {config.token_file} holds no token of one line; write one")
    return token

"""Central, as simple as it can be: takes batches, counts rows, and measures how long live ones were on their way.

    python -m benchmarks.central

Prints its port on a line, then serves plain HTTP on loopback until it is ended. `GET /` answers what came since the
last `GET /` as JSON: late, live, and p50_ms and p99_ms of the live ones, from `at` in their payload to here.
"""

from __future__ import annotations

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec


class _Payload(msgspec.Struct):
    at: float = 0.0


class _Row(msgspec.Struct):
    payload: _Payload


class _Batch(msgspec.Struct):
    late: bool
    rows: list[_Row]


_DECODER = msgspec.json.Decoder(_Batch)


class Count:
    """What came since it was last taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._late = 0
        self._live: list[float] = []

    def add(self, batch: _Batch) -> None:
        now = time.time()
        with self._lock:
            if batch.late:
                self._late += len(batch.rows)
            else:
                self._live += [now - row.payload.at for row in batch.rows]

    def take(self) -> dict[str, float]:
        with self._lock:
            late, live, self._late, self._live = self._late, sorted(self._live), 0, []
        found: dict[str, float] = {"late": late, "live": len(live)}
        if live:
            found["p50_ms"] = live[len(live) // 2] * 1000
            found["p99_ms"] = live[int(len(live) * 0.99)] * 1000
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    count = Count()

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.count.add(_DECODER.decode(gzip.decompress(content)))
        self._reply(b"")

    def do_GET(self) -> None:
        self._reply(msgspec.json.encode(self.count.take()))

    def _reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        print(server.server_address[1], flush=True)
        server.serve_forever()

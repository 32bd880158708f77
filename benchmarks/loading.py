"""Whether callers of one model notice that another is loaded: p99 at half of what the box can do, with and without.

Requests leave at fixed times, whether or not earlier ones are answered, and a latency counts from the time at which
its request was due: a box that stops for a while cannot hide it.
"""

from __future__ import annotations

import http.client
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import contenders, load
from benchmarks.contenders import Server, pictures
from benchmarks.inputs import PROBABILITY_OFF_MAX, Expected, Message
from benchmarks.lineup import Networks
from benchmarks.ratios import Measured

SHARE = 0.5
SECONDS = 6.0
_CALLERS = 16
_ANSWER_S = 30.0


def loading(made: Networks, expected: Expected) -> Measured:
    """p99 of MobileNetV2 in ms: with nothing else, while its twin is loaded again and again, while a load fails.

    loads: how often the twin was loaded meanwhile. Raises RuntimeError when a request or a load fails.
    """
    shutil.rmtree(made.scratch / "box-loading", ignore_errors=True)
    twins = [_twin(made, "twin"), _twin(made, "broken")]
    server, _, _ = contenders.appliance("box-loading", [made.folder("mobilenet"), *twins], made.scratch)
    try:
        message = pictures(server, made.bodies, expected, PROBABILITY_OFF_MAX, "mobilenet")["raw"]
        server.until_right(message)
        _post(server, "twin", 200)
        graph = made.scratch / "box-loading" / "repository" / "broken" / "1" / "openvino" / "model.bin"
        graph.write_bytes(graph.read_bytes()[:-1])
        rate = SHARE * load.measure(server.process, server.port, message, 8, 2, None)["per_s"]
        loads = [0]
        figures = {"quiet_p99_ms": _p99_ms(server, message, rate, lambda: time.sleep(0.1))}
        figures["loading_p99_ms"] = _p99_ms(server, message, rate, lambda: _counted(loads, server, "twin", 200))
        figures["failing_p99_ms"] = _p99_ms(server, message, rate, lambda: _post(server, "broken", 422))
        return figures | {"loads": float(loads[0]), "per_s": rate}
    finally:
        server.process.end()


def _twin(made: Networks, name: str) -> Path:
    """MobileNetV2 under another name."""
    folder = made.models / name / name
    if not folder.exists():
        shutil.copytree(made.folder("mobilenet"), folder)
        manifest = folder / "1" / "manifest.toml"
        manifest.write_text(manifest.read_text().replace('name = "mobilenet"', f'name = "{name}"'))
    return folder


def _counted(loads: list[int], server: Server, name: str, status: int) -> None:
    _post(server, name, status)
    loads[0] += 1


def _post(server: Server, name: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_ANSWER_S)
    try:
        connection.request("POST", f"/v2/repository/models/{name}/load")
        reply = connection.getresponse()
        text = reply.read().decode()
    finally:
        connection.close()
    if reply.status != status:
        raise RuntimeError(f"loading {name}: {reply.status} {text[:300]}")


def _p99_ms(server: Server, message: Message, rate: float, meanwhile: Callable[[], None]) -> float:
    """Of the requests that were due within SECONDS, `meanwhile` being done over and over."""
    count = int(rate * SECONDS)
    began = time.monotonic() + 0.1
    due = iter([began + number / rate for number in range(count)])
    taking = threading.Lock()
    latencies: list[float] = []
    failures: list[BaseException] = []

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_ANSWER_S)
        try:
            while not failures:
                with taking:
                    at = next(due, None)
                if at is None:
                    return
                time.sleep(max(0.0, at - time.monotonic()))
                message.send(connection)
                latencies.append(time.monotonic() - at)
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    callers = [threading.Thread(target=call) for _ in range(_CALLERS)]
    for caller in callers:
        caller.start()
    while any(caller.is_alive() for caller in callers) and not failures:
        meanwhile()
    for caller in callers:
        caller.join()
    if failures:
        raise RuntimeError(f"a request failed while models were loaded: {failures[0]!r}")
    latencies.sort()
    return latencies[int(len(latencies) * 0.99)] * 1000

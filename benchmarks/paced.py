"""Requests that leave at fixed times, whether or not earlier ones are answered.

A latency counts from the time at which its request was due: a box that stops for a while cannot hide it.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable

from benchmarks.inputs import Message

_CALLERS = 16
_ANSWER_S = 30.0


def paced_p99_ms(port: int, message: Message, rate: float, seconds: float, meanwhile: Callable[[], None]) -> float:
    """Of the requests that were due within `seconds`, `meanwhile` being done over and over.

    Raises RuntimeError when one fails.
    """
    count = int(rate * seconds)
    began = time.monotonic() + 0.1
    due = iter([began + number / rate for number in range(count)])
    taking = threading.Lock()
    latencies: list[float] = []
    failures: list[BaseException] = []

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
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
        raise RuntimeError(f"a request failed: {failures[0]!r}")
    latencies.sort()
    return latencies[int(len(latencies) * 0.99)] * 1000

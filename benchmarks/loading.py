"""Whether callers of one model notice that another is loaded: p99 at half of what the box can do, with and without."""

from __future__ import annotations

import http.client
import shutil
import time
from pathlib import Path

from benchmarks import contenders, load
from benchmarks.contenders import Server, pictures
from benchmarks.inputs import PROBABILITY_OFF_MAX, Expected
from benchmarks.lineup import Networks
from benchmarks.paced import paced_p99_ms
from benchmarks.ratios import Measured

SHARE = 0.5
SECONDS = 6.0
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
        figures = {"quiet_p99_ms": paced_p99_ms(server.port, message, rate, SECONDS, lambda: time.sleep(0.1))}
        figures["loading_p99_ms"] = paced_p99_ms(
            server.port, message, rate, SECONDS, lambda: _counted(loads, server, "twin", 200)
        )
        figures["failing_p99_ms"] = paced_p99_ms(
            server.port, message, rate, SECONDS, lambda: _post(server, "broken", 422)
        )
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

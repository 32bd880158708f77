"""From the start of a process to its first right answer, with compiled models kept from an earlier start."""

from __future__ import annotations

import time

from benchmarks import contenders
from benchmarks.contenders import APPLIANCE, pictures
from benchmarks.inputs import PROBABILITY_OFF_MAX, Expected
from benchmarks.lineup import Networks
from benchmarks.ratios import Measured


def start(name: str, made: Networks, expected: Expected) -> Measured:
    """Seconds, and memory (PSS, millions of bytes) right then, with one MobileNetV2. name: `appliance` or a peer."""
    began = time.monotonic()
    if name == APPLIANCE:
        server, _, _ = contenders.appliance("box-start", [made.folder("mobilenet")], made.scratch)
    else:
        server = contenders.peer(name, made.graph("mobilenet"), None, made.scratch)
    try:
        ways = pictures(server, made.bodies, expected, PROBABILITY_OFF_MAX, "mobilenet")
        server.until_right(next(iter(ways.values())))
        return {"start_s": time.monotonic() - began, "pss_mb": server.process.pss_mb()}
    finally:
        server.process.end()

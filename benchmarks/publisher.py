"""A publisher as fast as a socket: MQTT 5, QoS 1, at most WINDOW messages unacknowledged.

    python -m benchmarks.publisher HOST PORT TOPIC [--messages N | --seconds S] [--bytes N] [--rows N] [--window N]
        [--rate N] [--file PATH]

Prints one line of JSON: messages, seconds from the first message to the last PUBACK, and with a rate the time from
when a message was due to its PUBACK. The payloads are JSON readings with a sequence number, filled up to BYTES with
rows or, when ROWS says how many there are, with spaces; or the content of PATH. Packet ids and sequence numbers go
round, so that a run may be long.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mqtt5

_ROW = "[0.0123,-0.0045,0.0311]"
_STEADY_S = 36_000
_MADE = 20_000
"""Packets that are made before the first is sent; a longer run gives them new ids and numbers."""


class Published(NamedTuple):
    """p50_ms, p99_ms: from when a message was due to its PUBACK; 0 without a rate."""

    messages: int
    seconds: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def payload(number: int, size: int, rows: int | None = None) -> bytes:
    """{"seq": n, "values": [[x, y, z], ...]}, `size` bytes long when that is at least about 60."""
    head = f'{{"seq":{number:>10},"values":['
    rows = rows or max(1, (size - len(head) - 2 + 1) // (len(_ROW) + 1))
    body = head + ",".join([_ROW] * rows) + "]}"
    return (body[:-1] + " " * max(0, size - len(body)) + "}").encode()


class Packets:
    """The PUBLISH packets of a run, one after the other; with the same file or with readings that count up."""

    def __init__(self, topic: str, size: int, rows: int | None, file: Path | None) -> None:
        self._content = None if file is None else file.read_bytes()
        body = payload(0, size, rows) if self._content is None else self._content
        whole = mqtt5.PublishPacket(topic, body, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1).write()
        start = len(whole) - len(body)
        # The packet id stands before the empty properties; the number follows `{"seq":`.
        self._head, self._tail = whole[: start - 3], whole[start - 1 :]
        self._numbered = self._content is None

    def make(self, number: int) -> bytes:
        packet_id = struct.pack(">H", number % 65_535 + 1)
        if not self._numbered:
            return self._head + packet_id + self._tail
        return b"%b%b%b%10d%b" % (self._head, packet_id, self._tail[:8], number, self._tail[18:])


def run(
    host: str,
    port: int,
    packets: Packets,
    *,
    messages: int | None,
    seconds: float | None,
    window: int,
    rate: float | None,
) -> Published:
    """Until so many messages or seconds. Raises RuntimeError when a message is refused."""
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(mqtt5.ConnectPacket(f"bench-{port}-{time.monotonic_ns()}", clean_start=True).write())
    received = bytearray(connection.recv(4096))
    connack, used = mqtt5.read(memoryview(bytes(received)))
    assert isinstance(connack, mqtt5.ConnAckPacket)
    del received[:used]
    window = min(window, connack.receive_max)
    made = deque(packets.make(number) for number in range(min(_MADE, messages or _MADE)))
    following = itertools.count(len(made))
    last = messages
    sent = acknowledged = 0
    latencies: list[float] = []
    began = time.monotonic()
    while last is None or acknowledged < last:
        now = time.monotonic()
        if last is None and seconds is not None and now - began >= seconds:
            last = sent
        room = acknowledged + window if last is None else min(last, acknowledged + window)
        if rate is not None:
            room = min(room, int((now - began) * rate) + 1)
        if sent < room:
            while len(made) < room - sent:
                made.append(packets.make(next(following)))
            connection.sendall(b"".join([made.popleft() for _ in range(room - sent)]))
            sent = room
        if sent == acknowledged and rate is not None:
            time.sleep(0.0002)
            continue
        received += connection.recv(1 << 16)
        count = _take_acknowledgements(received)
        if rate is not None and count:
            now = time.monotonic()
            latencies += [now - began - number / rate for number in range(acknowledged, acknowledged + count)]
        acknowledged += count
    took = time.monotonic() - began
    connection.sendall(mqtt5.DisconnectPacket().write())
    connection.close()
    latencies.sort()
    if not latencies:
        return Published(acknowledged, took)
    return Published(
        acknowledged, took, latencies[len(latencies) // 2] * 1000, latencies[int(len(latencies) * 0.99)] * 1000
    )


def _take_acknowledgements(received: bytearray) -> int:
    """Count and drop whole PUBACK packets (MQTT 5, section 3.4): 0x40, length, packet id, perhaps a reason."""
    count = at = 0
    while at + 2 <= len(received) and at + 2 + received[at + 1] <= len(received):
        length = received[at + 1]
        if received[at] != 0x40 or (length > 2 and received[at + 4] >= 0x80):
            (head,) = struct.unpack_from(">H", received, at)
            raise RuntimeError(f"expected PUBACK, got a packet that begins with {head:#06x}")
        at += 2 + length
        count += 1
    del received[:at]
    return count


@contextlib.contextmanager
def steadily(port: int, topic: str, file: Path, per_s: int) -> Iterator[None]:
    """A publisher in a process of its own, for as long as this lasts. Raises RuntimeError when it ended before."""
    command = [sys.executable, "-m", "benchmarks.publisher", "127.0.0.1", str(port), topic]
    command += ["--file", str(file), "--rate", str(per_s), "--seconds", str(_STEADY_S)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the publisher to {topic} ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publisher")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("topic")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--messages", type=int)
    length.add_argument("--seconds", type=float)
    parser.add_argument("--bytes", type=int, default=200)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--window", type=int, default=1000)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--file", type=Path)
    asked = parser.parse_args()
    packets = Packets(asked.topic, asked.bytes, asked.rows, asked.file)
    found = run(
        asked.host,
        asked.port,
        packets,
        messages=asked.messages,
        seconds=asked.seconds,
        window=asked.window,
        rate=asked.rate,
    )
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()

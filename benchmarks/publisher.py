"""A publisher as fast as a socket: MQTT 5, QoS 1, at most WINDOW messages unacknowledged.

    python -m benchmarks.publisher HOST PORT TOPIC MESSAGES BYTES WINDOW

Prints one line of JSON: seconds from the first message to the last PUBACK. The payloads are JSON readings with a
sequence number, filled up to BYTES.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

import mqtt5

_AXES = 3


def payload(number: int, size: int) -> bytes:
    """{"seq": n, "values": [[x, y, z], ...]}, `size` bytes long when that is at least about 60."""
    head = f'{{"seq":{number},"values":['
    row = "[0.0123,-0.0045,0.0311]"
    rows = max(1, (size - len(head) - 2 + 1) // (len(row) + 1))
    body = head + ",".join([row] * rows) + "]}"
    return (body[:-1] + " " * max(0, size - len(body)) + "}").encode()


def run(host: str, port: int, topic: str, messages: int, size: int, window: int) -> float:
    """Seconds from the first message to the last PUBACK. Raises RuntimeError when a message is refused."""
    packets = [
        mqtt5.PublishPacket(
            topic, payload(number, size), qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=(number - 1) % 65_535 + 1
        ).write()
        for number in range(1, messages + 1)
    ]
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(mqtt5.ConnectPacket(f"bench-{port}", clean_start=True).write())
    received = bytearray(connection.recv(4096))
    connack, used = mqtt5.read(memoryview(bytes(received)))
    assert isinstance(connack, mqtt5.ConnAckPacket)
    del received[:used]
    window = min(window, connack.receive_max)
    started = time.monotonic()
    sent = acknowledged = 0
    while acknowledged < messages:
        room = min(messages, acknowledged + window)
        if sent < room:
            connection.sendall(b"".join(packets[sent:room]))
            sent = room
        received += connection.recv(1 << 16)
        acknowledged += _take_acknowledgements(received)
    seconds = time.monotonic() - started
    connection.sendall(mqtt5.DisconnectPacket().write())
    connection.close()
    return seconds


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


if __name__ == "__main__":
    host, port, topic, messages, size, window = sys.argv[1:]
    print(json.dumps({"seconds": run(host, int(port), topic, int(messages), int(size), int(window))}))

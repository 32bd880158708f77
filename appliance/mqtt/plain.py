"""PUBLISH packets of the plainest kind, many in a pass: what most of a factory's stream is made of.

Plain is: QoS 1, sent for the first time, not retained, no properties, under 16 KiB, on a topic that the full codec has
taken before. Its layout is fixed (MQTT 3.1.1, section 3.3; MQTT 5 adds one byte, the length 0 of no properties):

    0x32 | remaining length, 1 or 2 bytes | topic length, 2 | topic | packet id, 2 | 0 (MQTT 5) | payload

Whatever looks the least different ends the pass, and is for the codec to judge.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

BYTES_MAX = 0x4003
"""More than a plain packet can have."""

PLAIN = 0x32
"""First byte of a PUBLISH at QoS 1 without DUP and RETAIN."""

Plain = tuple[int, str, bytes]
"""Packet id, topic, payload."""


def take(
    data: bytes, at: int, topics: Mapping[bytes, str], open_ids: Container[int], version: int, most: int
) -> tuple[list[Plain], int]:
    """The plain packets that stand one after the other from `at` on, at most `most`, and the position after them.

    topics: those that may be taken this way, as they are on the wire -> as text. open_ids: packet ids that are not
    free. version: 4 (MQTT 3.1.1) or 5.
    """
    taken: list[Plain] = []
    ids: set[int] = set()
    end = len(data)
    five = version == 5
    while at + 4 < end and data[at] == PLAIN and len(taken) < most:
        length = data[at + 1]
        body = at + 2
        if length > 0x7F:
            more = data[body]
            if more > 0x7F:
                break
            length = length & 0x7F | more << 7
            body += 1
        following = body + length
        if following > end or length < 2:
            break
        ident = body + 2 + (data[body] << 8 | data[body + 1])
        start = ident + 2 + five
        topic = topics.get(data[body + 2 : ident])
        if topic is None or start > following or (five and data[start - 1]):
            break
        packet_id = data[ident] << 8 | data[ident + 1]
        if not packet_id or packet_id in open_ids or packet_id in ids:
            break
        ids.add(packet_id)
        taken.append((packet_id, topic, data[start:following]))
        at = following
    return taken, at

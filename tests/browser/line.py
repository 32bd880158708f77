"""A box with one route for pictures and one for windows, and the machines that publish to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from appliance.config import shipped_models_dir
from appliance.core.manifest import parse_manifest
from tests.support.box import Box, write_config


class Golden(NamedTuple):
    """A golden case of a shipped model: its input and what every variant says about it."""

    body: bytes
    media_type: str
    label: str
    verdict: str

    def rows(self) -> list[list[float]]:
        """Of a window: its readings."""
        rows: list[list[float]] = json.loads(self.body)["rows"]
        return rows


def golden_by_verdict(model: str) -> dict[str, Golden]:
    folder = shipped_models_dir() / model / "1"
    manifest = parse_manifest((folder / "manifest.toml").read_bytes(), model)
    return {
        case.verdict: Golden((folder / case.file).read_bytes(), case.media_type, case.label or "", case.verdict)
        for case in manifest.golden
    }


class Line(Box):
    """Each message is acknowledged, and so committed, before the next line of a test."""

    def picture(self, source: str, golden: Golden, **fields: str) -> None:
        """`fields` (part, lot, recipe) travel as user properties."""
        self.publish(f"in/surface/{source}", golden.body, **fields)

    def window(self, source: str, golden: Golden, **fields: str) -> None:
        """`fields` travel in the payload."""
        self.publish(f"in/bearing/{source}", json.dumps({"values": golden.rows(), **fields}).encode())

    def publish(self, topic: str, payload: bytes, **properties: str) -> None:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.connect("127.0.0.1", self.mqtt_port)
        client.loop_start()
        given: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if properties:
            given.UserProperty = list(properties.items())
        try:
            sent = client.publish(topic, payload, qos=1, properties=given)
            sent.wait_for_publish(30)
            assert sent.is_published(), f"the box has not acknowledged a message on {topic}"
        finally:
            client.disconnect()
            client.loop_stop()


@contextmanager
def running_line(folder: Path, **changes: Any) -> Iterator[Line]:
    """A ready box with the shipped models; `changes` as in `write_config`. Ended on leaving."""
    config = write_config(
        folder,
        shipped_models_dir(),
        device="line-4",
        ready_requires=["surface", "bearing"],
        routes=[
            {"name": "pictures", "topic": "in/surface/+", "model": "surface"},
            {"name": "windows", "topic": "in/bearing/+", "model": "bearing"},
        ],
        **changes,
    )
    line = Line(config)
    try:
        line.start()
        yield line
    finally:
        line.kill()

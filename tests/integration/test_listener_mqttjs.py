"""The listener with MQTT.js; `make` puts it below .venv/mqttjs, its Node below .venv/generated."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.listener import BOTH, Box

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ.get("GENERATED_TOOLS", ROOT / ".venv" / "generated"))
PACKAGES = Path(os.environ.get("MQTTJS", ROOT / ".venv" / "mqttjs"))


@BOTH
def test_mqtt_js_publishes_and_subscribes(box: Box, version: int) -> None:
    done = subprocess.run(
        [TOOLS / "bin" / "node", ROOT / "tests" / "clients" / "mqtt_js.cjs", str(box.port), str(version)],
        env={**os.environ, "NODE_PATH": str(PACKAGES / "node_modules")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    granted, *got = done.stdout.splitlines()
    assert granted == "1 1"
    assert got == sorted(f"line/{qos} message {qos} {min(qos, 1)}" for qos in (0, 1, 2) for _ in range(2))
    assert [box.next()[0].qos for _ in range(3)] == [0, 1, 2]

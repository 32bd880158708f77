"""A broker full of readings before a box that judges slowly and goes down again and again."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.box import Box, write_config
from tests.support.faults import tally, times
from tests.support.models import WINDOW_SIZE
from tests.support.mqtt import device, mosquitto
from tests.support.records import query, readings, window_ends
from tests.support.routes import ROUTES, write_models
from tests.support.wait import until

WAIT_S = 60.0
KILLS = times(2, 50)
BACKLOG = 200 * WINDOW_SIZE
RECEIVE_MAX = 100
QUIET_S = 0.5


def test_what_waits_for_its_window_does_not_grow_from_kill_to_kill(tmp_path: Path) -> None:
    """The model is not there: readings are committed, and acknowledged as far as their stream has room for them."""
    line = tally("box killed before a backlog", KILLS)
    with mosquitto(tmp_path / "broker") as broker:
        at = {"host": "127.0.0.1", "port": broker.port, "receive_max": RECEIVE_MAX, "reconnect_s_max": 0.2}
        box = Box(
            write_config(tmp_path / "box", write_models(tmp_path / "models"), broker=at, routes=ROUTES),
            module="tests.support.odd_box",
        )
        gate = tmp_path / "box" / "gate"
        gate.touch()
        try:
            box.start(ready=False)
            subscribed = "SELECT 1 FROM sessions WHERE client LIKE 'broker %'"
            until(lambda: query(box.data_dir, subscribed), WAIT_S, "the subscriptions")
            with device(broker.port, "plc", in_flight=500) as plc:
                for number in range(BACKLOG):
                    plc.publish("plc/far/wave", f"[{number}, 0, 0]")
                until(lambda: len(plc.acknowledged) == BACKLOG, WAIT_S, "the broker having all")
            held = when_quiet(box)
            assert held < BACKLOG / 2
            for _ in range(KILLS):
                box.kill()
                box.start(ready=False)
                assert when_quiet(box) <= held + RECEIVE_MAX
                line.step()
            gate.unlink()
            windows = BACKLOG // WINDOW_SIZE
            until(lambda: len(window_ends(box.data_dir, "far")) >= windows, WAIT_S, "every window")
        finally:
            box.kill()
        found = [int(each[0, 0]) for each in readings(box.data_dir, "far")]
        line.compare(range(BACKLOG), found)
        assert found == list(range(BACKLOG))
        assert len(window_ends(box.data_dir, "far")) == windows


def when_quiet(box: Box) -> int:
    """How many readings are committed, once no more are."""
    count, since = 0, time.monotonic()

    def quiet() -> bool:
        nonlocal count, since
        ((now,),) = query(box.data_dir, "SELECT count(*) FROM readings")
        if now != count:
            count, since = now, time.monotonic()
        connected = box.status()["mqtt"]["broker"]["state"] == "connected"
        return connected and count > 0 and time.monotonic() - since > QUIET_S

    until(quiet, WAIT_S, "nothing more being committed")
    return count

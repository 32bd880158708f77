"""kill -9 between what is sent to central and its acknowledgement: it is sent again, and central can tell."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

import mqtt5

from appliance.config import AnyUpstream, BrokerConfig, HttpsUpstream, MqttUpstream
from tests.support.central import CHILD_RESULTS, WAIT_S, Answer, Central, ScriptedBroker, child, site
from tests.support.faults import tally, times
from tests.support.records import query
from tests.support.wait import until

KILLS = times(2, 300)


def recorded(folder: Path) -> list[int]:
    return [number for (number,) in query(folder, "SELECT id FROM results ORDER BY id")]


class Killer:
    """Ends the box whose turn it is, once: at the first thing that it sends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._box: subprocess.Popen[bytes] | None = None

    def run(self, folder: Path, upstream: AnyUpstream) -> None:
        """A box from its start to its end."""
        box = child(folder, upstream)
        with self._lock:
            self._box = box
        try:
            until(lambda: box.poll() is not None, WAIT_S, "the box being killed")
        finally:
            box.kill()
            box.wait()

    def strike(self) -> bool:
        """Returns whether there was a box to end: of what comes at the same time the first is enough."""
        with self._lock:
            box, self._box = self._box, None
        if box is None:
            return False
        box.kill()
        box.wait()
        return True


def check(found: Iterable[tuple[int, str]], expected: list[int], what: str) -> None:
    """found: number and key of every row that came, as often as it came."""
    line = tally(what, KILLS)
    line.step(KILLS)
    came = list(found)
    keys = {key: number for number, key in came}
    # What central does: a key that it knows is no new row.
    line.compare(expected, list(keys.values()))
    assert (line.lost, line.doubled) == (0, 0)
    assert len(set(came)) == len(keys), "a row has the same key whenever it is sent"
    assert len(came) > len(keys), "some came twice, since their acknowledgement was lost"


def test_batch_whose_answer_a_killed_box_never_saw_comes_again_with_its_keys(tmp_path: Path) -> None:
    central, killer = Central(tmp_path / "central"), Killer()
    try:
        upstream = HttpsUpstream(url=central.url, ca_file=str(central.ca), retry_s_max=1.0)
        central.answer = lambda _: Answer() if killer.strike() else Answer(500)
        for _ in range(KILLS):
            killer.run(tmp_path / "box", upstream)
        central.answer = lambda _: Answer()
        with site(tmp_path / "box", upstream) as one:
            one.judge()
            one.until_empty()
        found = [(row["payload"]["id"], row["key"]) for row in central.taken]
        check(found, recorded(tmp_path / "box"), "kill -9 between a batch to central and its answer")
        assert len(set(found)) <= KILLS * CHILD_RESULTS + 1
    finally:
        central.close()


def test_message_whose_puback_a_killed_box_never_saw_comes_again_with_its_key(tmp_path: Path) -> None:
    killer = Killer()
    killing = True

    def on_publish(_: mqtt5.PublishPacket) -> bool:
        if killing:
            killer.strike()
        return not killing

    broker = ScriptedBroker(on_publish)
    try:
        upstream = MqttUpstream(broker=BrokerConfig(host="127.0.0.1", port=broker.port, reconnect_s_max=1.0))
        for _ in range(KILLS):
            killer.run(tmp_path / "box", upstream)
        killing = False
        with site(tmp_path / "box", upstream) as one:
            one.judge()
            one.until_empty()
    finally:
        broker.close()
    found = [(json.loads(payload)["id"], key) for _, payload, key in broker.messages]
    check(found, recorded(tmp_path / "box"), "kill -9 between a message to central and its PUBACK")

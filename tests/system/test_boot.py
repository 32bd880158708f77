"""The shipped units under a systemd of their own: who may do what, and a self-test in its sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.booted import boot
from tests.support.in_the_box import REPORT


@pytest.fixture(scope="module")
def found() -> Any:
    return boot(REPORT)


def test_the_updater_has_a_model_tested_in_the_sandbox(found: Any) -> None:
    updater = found["updater"]
    assert found["started"] == ""
    assert (updater["good"]["passed"], updater["good"]["reason"]) == (True, None)
    assert updater["good"]["cases"] > 0
    assert (updater["damaged"]["passed"], updater["damaged"]["code"]) == (False, "model_hash_mismatch")


def test_a_model_under_test_sees_the_models_and_nothing_else_of_the_box(found: Any) -> None:
    probe = found["updater"]["probe"]
    assert probe["user"] not in (0, found["updater"]["user"])
    assert (probe["staged"], probe["change staged"]) == ("done", "Permission denied")
    assert probe["beside models"] == ["models"]
    assert probe["configuration"] != "done"
    assert probe["write"] == "Read-only file system"
    assert probe["call the box"] != "done"
    assert probe["socket of the network"] != "done"
    assert probe["interfaces"] == ["lo"]


def test_the_updater_writes_what_is_its_own_and_where_both_meet(found: Any) -> None:
    updater = found["updater"]
    assert updater["user"] != 0
    assert (updater["state"], updater["tuf.time"]) == ("done", "done")
    assert updater["results"] == "Permission denied"
    assert updater["take results away"] == "Operation not permitted"
    assert updater["configuration"] == "Permission denied"


def test_the_updater_sees_whether_the_clock_is_led_and_cannot_set_it(found: Any) -> None:
    updater = found["updater"]
    assert updater["read who leads the clock"] is True
    assert updater["set the clock"] == "Operation not permitted"


def test_the_server_reads_the_models_and_writes_neither_them_nor_the_trust(found: Any) -> None:
    assert found["server reads"] == "schema"
    assert "Read-only file system" in found["server writes models"]
    assert "Read-only file system" in found["server writes tuf"]
    assert found["server writes data"] == ""


def test_a_touched_file_starts_the_updater(found: Any) -> None:
    assert found["state"] == ""
    assert found["polled"] is True

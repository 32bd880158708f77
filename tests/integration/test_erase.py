"""`DELETE /v1/results` on a box that runs: nothing of the source and the time is left, everything else is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.box import Box, free_port, run_appliance, running_box
from tests.support.models import picture, write_model
from tests.support.mqtt import device
from tests.support.records import query


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("box")
    write_model(folder / "models")
    away = {"kind": "https", "url": f"http://127.0.0.1:{free_port()}/in", "images": True}
    with running_box(folder, folder / "models", upstreams={"central": away}) as running:
        yield running


def judge(box: Box, source: str) -> dict[str, Any]:
    reply = box.http.post(
        "/v1/predict/tiny?durable=1",
        content=picture(10),
        headers={"Content-Type": "image/png", "X-Source": source},
    )
    assert reply.status_code == 200, reply.text
    result: dict[str, Any] = reply.json()
    return result


def erase(box: Box, **options: Any) -> Any:
    reply = box.http.delete("/v1/results", params={"from": "0", "to": "2100-01-01", **options})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stored(box: Box) -> bytes:
    """All that is on disk, what the database has overwritten in its log included."""
    with closing(sqlite3.connect(box.data_dir / "results.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return b"".join(path.read_bytes() for path in box.data_dir.rglob("*") if path.is_file() and path.name != "ballast")


def test_results_pictures_and_what_waits_for_central_are_gone_and_others_are_not(box: Box) -> None:
    kept = judge(box, "neighbour")
    erased = [judge(box, "person") for _ in range(3)]
    waiting = "SELECT count(*) FROM outbox WHERE topic LIKE '%/person'"
    assert query(box.data_dir, waiting) == [(6,)], "a result and a picture each"
    done = erase(box, source="person")
    assert done == {"results": 3, "images": 3, "readings": 0, "letters": 0, "unsent": 3}
    for result in erased:
        assert box.http.get(f"/v1/results/{result['id']}").status_code == 404
        assert box.http.get(f"/v1/results/{result['id']}/image").status_code == 404
    assert box.http.get("/v1/results", params={"source": "person"}).json()["results"] == []
    assert box.http.get(f"/v1/results/{kept['id']}/image").status_code == 200
    assert query(box.data_dir, "SELECT count(*) FROM outbox WHERE topic LIKE '%/results/tiny/person'") == [(0,)]
    assert query(box.data_dir, "SELECT count(*) FROM outbox WHERE topic LIKE '%/results/tiny/neighbour'") == [(1,)]
    assert query(box.data_dir, "SELECT source, results, images FROM erasures") == [("person", 3, 3)]
    assert stored(box).count(picture(10)) == 1
    assert box.status()["store"]["state"] == "ok"
    assert judge(box, "person")["verdict"] == "ng"


def test_range_ends_before_its_end(box: Box) -> None:
    first, second = judge(box, "clock"), judge(box, "clock")
    assert erase(box, source="clock", to=str(second["at"]))["results"] == 1
    (left,) = box.http.get("/v1/results", params={"source": "clock"}).json()["results"]
    assert left["id"] == second["id"]
    assert erase(box, source="clock", **{"from": str(first["at"])})["results"] == 1


def test_payload_of_an_unusable_message_goes_and_its_reason_stays(box: Box) -> None:
    with device(box.mqtt_port) as camera:
        camera.send("in/tiny/lost", b"a name that nobody may keep")
    assert b"a name that nobody may keep" in stored(box)
    assert erase(box, source="whoever")["letters"] >= 1
    assert b"a name that nobody may keep" not in stored(box)
    assert query(box.data_dir, "SELECT code FROM dead_letters WHERE topic = 'in/tiny/lost'") != []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"from": "0", "to": "1"}, "source"),
        ({"source": "a", "from": "0"}, "to"),
        ({"source": "a", "from": "5", "to": "5"}, "nothing lies between"),
        ({"source": "a", "from": "soon", "to": "5"}, "soon"),
        ({"source": "a", "from": "0", "to": "5", "model": "tiny"}, "model"),
    ],
)
def test_what_is_not_clear_erases_nothing(box: Box, options: dict[str, str], reason: str) -> None:
    before = query(box.data_dir, "SELECT count(*) FROM results")
    reply = box.http.delete("/v1/results", params=options)
    assert reply.status_code == 400
    assert reason in reply.json()["detail"]
    assert query(box.data_dir, "SELECT count(*) FROM results") == before


def test_command_asks_the_box_that_runs(box: Box) -> None:
    judge(box, "by-command")
    command = ("results", "erase", "--source", "by-command", "--from", "0", "--to", "2100-01-01", "--yes")
    done = run_appliance(*command, "--config", box.config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("erased: 1 results, 1 pictures")
    assert query(box.data_dir, "SELECT count(*) FROM results WHERE source = 'by-command'") == [(0,)]

"""From a publish on the built-in listener to what is on disk and what subscribers see."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.box import Box, running_box
from tests.support.models import WINDOW_SIZE, picture
from tests.support.mqtt import Device, RawClient, device, mosquitto_pub, mosquitto_sub
from tests.support.records import letters, query, readings, results, window_ends
from tests.support.routes import RECIPES, ROUTES, write_models
from tests.support.wait import until

WAIT_S = 20.0
BOTH = pytest.mark.parametrize("version", [4, 5])


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("intake")
    models = write_models(folder / "models")
    with running_box(folder, models, routes=ROUTES, recipes=RECIPES) as running:
        yield running


@pytest.fixture
def plc(box: Box) -> Iterator[Device]:
    with device(box.mqtt_port) as one:
        yield one


def wait_results(box: Box, source: str, count: int = 1) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]] | None:
        rows = results(box.data_dir, source)
        return rows if len(rows) >= count else None

    answer = until(found, WAIT_S, f"{count} result(s) of {source}")
    assert answer is not None
    return answer


def samples(count: int, start: int = 0) -> list[list[float]]:
    """Rows that count up, so that each sample is known again."""
    return [[float(number), 0.0, 0.0] for number in range(start, start + count)]


# -- pictures


@BOTH
@pytest.mark.parametrize("form", [".jpg", ".png"])
def test_picture_becomes_a_recorded_result_with_its_image(box: Box, version: int, form: str) -> None:
    source = f"cell-{version}-{form[1:]}"
    content = picture(230, form=form)
    with device(box.mqtt_port, version=version) as camera:
        camera.send(f"line/{source}/camera", content)
    (result,) = results(box.data_dir, source)
    assert result["verdict"] == "ok"
    assert result["route"] == "camera"
    assert result["door"] == "mqtt"
    assert result["model"] == "tiny"
    assert len(result["digest"]) == 64
    stored = httpx.get(f"{box.url}/v1/results/{result['id']}/image")
    assert stored.content == content


def test_picture_as_json_brings_part_lot_and_recipe_in_its_payload(box: Box, plc: Device) -> None:
    body = {"image": base64.b64encode(picture(10)).decode(), "part": 4711, "lot": "L-1", "recipe": "none"}
    plc.send("line/json/camera", body)
    (result,) = results(box.data_dir, "json")
    assert (result["verdict"], result["part"], result["lot"], result["recipe"]) == ("ng", "4711", "L-1", "none")
    assert result["has_image"]


def test_part_comes_from_user_properties(box: Box, plc: Device) -> None:
    plc.send("line/properties/camera", picture(), user={"part": "P-1", "lot": "L-2", "recipe": "fast"})
    (result,) = results(box.data_dir, "properties")
    assert (result["part"], result["lot"], result["recipe"]) == ("P-1", "L-2", "fast")


def test_payload_goes_before_user_properties(box: Box, plc: Device) -> None:
    body = {"image": base64.b64encode(picture()).decode(), "part": "inside"}
    plc.send("line/precedence/camera", body, user={"part": "outside", "lot": "L"})
    (result,) = results(box.data_dir, "precedence")
    assert (result["part"], result["lot"]) == ("inside", "L")


def test_route_overrides_the_verdict(box: Box, plc: Device) -> None:
    plc.send("strict/override", picture(230))
    plc.send("line/override-not/camera", picture(230))
    assert results(box.data_dir, "override")[0]["verdict"] == "ng"
    assert results(box.data_dir, "override-not")[0]["verdict"] == "ok"


def test_recipe_overrides_the_verdict(box: Box, plc: Device) -> None:
    plc.send("line/recipe/camera", picture(230), user={"recipe": "strict"})
    assert results(box.data_dir, "recipe")[0]["verdict"] == "ng"


def test_route_may_name_the_source_itself(box: Box, plc: Device) -> None:
    plc.send("fixed/deep/down/there", picture())
    assert results(box.data_dir, "the-camera")


def test_subscriber_gets_each_result_after_its_commit(box: Box, plc: Device) -> None:
    topic = "appliance/box/results/tiny/followed"
    plc.subscribe("appliance/box/results/#")
    for brightness in (230, 10):
        plc.send("line/followed/camera", picture(brightness))
    seen = plc.objects(topic, 2)
    assert [each["verdict"] for each in seen] == ["ok", "ng"]
    assert seen == results(box.data_dir, "followed")


def test_mosquittos_own_commands_publish_and_follow(box: Box) -> None:
    follower = mosquitto_sub(box.mqtt_port, "appliance/box/results/tiny/commands", "-C", "1", "-W", "20", "-i", "sub")
    until(lambda: box.status()["mqtt"]["listener"]["clients"] >= 1, WAIT_S, "the subscriber")
    # The first publish may come before the subscription; the follower takes the first result that it sees.
    for version in ("311", "5"):
        mosquitto_pub(box.mqtt_port, "-t", "line/commands/camera", "-V", version, payload=picture(10))
    mosquitto_pub(
        box.mqtt_port,
        *("-t", "line/commands/camera", "-V", "5", "-D", "PUBLISH", "user-property", "part", "P-7"),
        payload=picture(10),
    )
    output, _ = follower.communicate(timeout=WAIT_S)
    assert json.loads(output)["verdict"] == "ng"
    assert [each.get("part") for each in results(box.data_dir, "commands")] == [None, None, "P-7"]


def test_qos_0_is_judged_as_well(box: Box, plc: Device) -> None:
    plc.publish("line/qos0/camera", picture(), qos=0)
    assert wait_results(box, "qos0")[0]["verdict"] == "ok"


# -- readings


def test_rows_fill_windows(box: Box, plc: Device) -> None:
    plc.send("plc/rows/wave", {"values": [[0.9, 0.9, 0.9]] * 10})
    plc.send("plc/rows/wave", {"values": [[0.9, 0.9, 0.9]] * 10, "part": "P-9"})
    (result,) = wait_results(box, "rows")
    assert result["verdict"] == "ng"
    assert result["part"] == "P-9"
    assert result["prediction"]["score"] == pytest.approx(0.9, abs=0.01)


def test_bare_rows_and_one_bare_row_are_readings(box: Box, plc: Device) -> None:
    plc.send("plc/bare/wave", samples(15))
    plc.send("plc/bare/wave", [15.0, 0.0, 0.0])
    wait_results(box, "bare")
    assert np.concatenate(readings(box.data_dir, "bare")).tolist() == samples(16)


def test_values_lie_where_the_route_says(box: Box, plc: Device) -> None:
    plc.send("path/nested", {"data": {"accel": samples(16)}, "values": "something else"})
    wait_results(box, "nested")
    assert readings(box.data_dir, "nested")[0].tolist() == samples(16)


def test_channels_may_come_as_arrays_of_their_own(box: Box, plc: Device) -> None:
    plc.send("plc/channels/wave", {"z": [0.0] * 16, "x": list(range(16)), "y": [0] * 16})
    wait_results(box, "channels")
    assert readings(box.data_dir, "channels")[0].tolist() == samples(16)


def test_single_numbers_fill_a_window_of_one_channel(box: Box, plc: Device) -> None:
    for _ in range(8):
        plc.send("number/level", 0.2)
    plc.send("number/level", [0.2] * 8)
    (result,) = wait_results(box, "level")
    assert result["prediction"]["score"] == pytest.approx(0.2, abs=0.01)


def test_windows_overlap_by_the_hop(box: Box, plc: Device) -> None:
    for start in range(0, 32, 8):
        plc.send("hop/overlap", samples(8, start))
    found = wait_results(box, "overlap", 5)
    assert len(found) == 5
    # Readings of 8 samples: windows of 16 that begin at 0, 4, 8, 12, 16 end behind sample 16, 20, 24, 28, 32.
    first = window_ends(box.data_dir, "overlap")[0][0]
    assert [(last - first, end) for last, end in window_ends(box.data_dir, "overlap")] == [
        (0, 8),
        (1, 4),
        (1, 8),
        (2, 4),
        (2, 8),
    ]


def test_hop_above_the_size_skips_samples(box: Box, plc: Device) -> None:
    plc.send("skip/gaps", samples(24 + 16))
    wait_results(box, "gaps", 2)
    assert [end for _, end in window_ends(box.data_dir, "gaps")] == [16, 40]


def test_sources_do_not_mix(box: Box, plc: Device) -> None:
    for _ in range(16):
        plc.send("plc/quiet/wave", [0.1, 0.1, 0.1])
        plc.send("plc/loud/wave", [0.9, 0.9, 0.9])
    assert wait_results(box, "quiet")[0]["verdict"] == "ok"
    assert wait_results(box, "loud")[0]["verdict"] == "ng"


def test_equal_readings_are_all_kept(box: Box, plc: Device) -> None:
    for _ in range(32):
        plc.send("plc/equal/wave", [0.5, 0.5, 0.5])
    assert len(wait_results(box, "equal", 2)) == 2
    assert len(readings(box.data_dir, "equal")) == 32


def test_readings_at_qos_0_fill_windows(box: Box, plc: Device) -> None:
    for start in range(16):
        plc.publish("plc/qos0-wave/wave", json.dumps(samples(1, start)), qos=0)
    assert len(wait_results(box, "qos0-wave")) == 1


def test_topic_of_two_routes_is_acknowledged_once_and_recorded_twice(box: Box) -> None:
    client = RawClient(box.mqtt_port, "two-routes")
    client.publish(1, "both/twice", samples(16))
    client.publish(2, "both/twice", samples(16))
    assert [client.acknowledged(), client.acknowledged()] == [1, 2]
    client.vanish()
    for route in ("both-one", "both-two"):
        assert len(readings(box.data_dir, "twice", route)) == 2
    wait_results(box, "twice", 4)


# -- what cannot be used


def truncated() -> bytes:
    return picture(200, side=200, form=".jpg")[:-300]


BAD: list[tuple[str, bytes, str]] = [
    ("nobody/listens", b"1", "route_not_found"),
    ("line/not_json/camera", b"{not json", "input_undecodable"),
    ("line/text/camera", b"hello", "media_type_unsupported"),
    ("line/empty/camera", b"", "body_empty"),
    ("line/cut/camera", truncated(), "input_undecodable"),
    ("line/cut64/camera", json.dumps({"image": "%%%"}).encode(), "input_undecodable"),
    ("plc/not_json/wave", b"[1, 2", "input_undecodable"),
    ("plc/shape/wave", b"[1, 2]", "input_shape_wrong"),
    ("plc/ragged/wave", b"[[1, 2, 3], [1, 2]]", "input_shape_wrong"),
    ("plc/words/wave", b'{"values": ["a", "b", "c"]}', "input_shape_wrong"),
    ("plc/nan/wave", b"[NaN, 1, 2]", "input_undecodable"),
    ("plc/huge/wave", b"[1e39, 1, 2]", "input_not_finite"),
    ("plc/nothing/wave", b'{"temperature": 3}', "input_undecodable"),
    ("keyed/nokey/wave", b"[1, 2, 3]", "field_invalid"),
    ("keyed/nokey/camera", picture(), "field_invalid"),
    ("plc/badpart/wave", b'{"values": [1, 2, 3], "part": ["a"]}', "field_invalid"),
    ("line/bad source/camera", picture(), "field_invalid"),
    ("absent/model", b"[1, 2, 3]", "model_not_found"),
]


@pytest.mark.parametrize(("topic", "payload", "code"), BAD, ids=[f"{topic}-{code}" for topic, _, code in BAD])
def test_what_cannot_be_used_is_a_dead_letter_and_acknowledged(
    box: Box, plc: Device, topic: str, payload: bytes, code: str
) -> None:
    plc.subscribe("appliance/box/#")
    plc.send(topic, payload)
    ((found, reason),) = letters(box.data_dir, topic)
    assert found == code
    assert reason
    (announced,) = [each for each in plc.objects("appliance/box/deadletter") if each["topic"] == topic]
    assert (announced["code"], announced["reason"], announced["bytes"]) == (code, reason, len(payload))
    last = box.status()["dead_letters"]["last"]
    assert (last["topic"], last["code"]) == (topic, code)


def test_bad_input_of_a_known_route_is_answered_with_error(box: Box, plc: Device) -> None:
    plc.subscribe("appliance/box/results/#")
    plc.send("line/broken/camera", truncated(), user={"part": "P-3"})
    plc.send("plc/broken-too/wave", b"what", user={"part": "P-4"})
    for topic, source, part in (
        ("appliance/box/results/tiny/broken", "broken", "P-3"),
        ("appliance/box/results/wave/broken-too", "broken-too", "P-4"),
    ):
        (seen,) = plc.objects(topic)
        assert seen == results(box.data_dir, source)[0]
        assert (seen["verdict"], seen["part"]) == ("error", part)
        assert seen["error"]["code"] == "input_undecodable"


def test_bad_source_on_one_route_does_not_cost_the_other(box: Box, plc: Device) -> None:
    """`fixed` names its source; the levels are not looked at."""
    plc.send("fixed/deep/not a source", picture())
    assert not letters(box.data_dir, "fixed/deep/not a source")


def test_box_speaks_alone_on_its_own_topics(box: Box, plc: Device) -> None:
    mid = plc.publish("appliance/box/results/tiny/forged", b"{}")
    until(lambda: mid in plc.refused, WAIT_S, "the refusal")
    assert not letters(box.data_dir, "appliance/box/results/tiny/forged")


# -- once, and not twice


def test_keyed_readings_are_recorded_once(box: Box, plc: Device) -> None:
    for seq in (1, 2, 2, 1, 3):
        plc.send("keyed/counting/wave", {"seq": seq, "values": samples(1, seq)})
    assert [each[0, 0] for each in readings(box.data_dir, "counting")] == [1, 2, 3]


def test_keyed_pictures_are_recorded_once(box: Box, plc: Device) -> None:
    for seq in ("a", "b", "a"):
        plc.send("keyed/pictures/camera", picture(), user={"seq": seq})
    for number in (1, 1):
        body = {"image": base64.b64encode(picture()).decode(), "cycle": {"seq": number}}
        plc.send("keyed/pictures-json/json", body)
    assert len(results(box.data_dir, "pictures")) == 2
    assert len(results(box.data_dir, "pictures-json")) == 1


def test_keyed_picture_that_cannot_be_used_is_one_dead_letter(box: Box, plc: Device) -> None:
    for _ in range(2):
        plc.send("keyed/cut-twice/camera", truncated(), user={"seq": "1"})
    assert len(results(box.data_dir, "cut-twice")) == 1
    assert len(letters(box.data_dir, "keyed/cut-twice/camera")) == 1


Payload = Callable[[], object]


@pytest.mark.parametrize(
    ("topic", "payload", "count"),
    [
        ("plc/{}/wave", lambda: [1.0, 2.0, 3.0], lambda box, source: len(readings(box.data_dir, source))),
        ("line/{}/camera", picture, lambda box, source: len(results(box.data_dir, source))),
        ("line/{}/camera", truncated, lambda box, source: len(letters(box.data_dir, f"line/{source}/camera"))),
    ],
    ids=["reading", "picture", "dead-letter"],
)
def test_redelivery_in_a_resumed_session_is_recorded_once(
    box: Box, topic: str, payload: Payload, count: Callable[[Box, str], int], request: pytest.FixtureRequest
) -> None:
    source = f"again-{request.node.callspec.id}"
    first = RawClient(box.mqtt_port, source)
    first.publish(7, topic.format(source), payload())
    first.acknowledged()
    first.vanish()
    second = RawClient(box.mqtt_port, source)
    assert second.session_present
    second.publish(7, topic.format(source), payload(), duplicate=True)
    assert second.acknowledged() == 7
    second.vanish()
    assert count(box, source) == 1


def test_redelivery_before_the_first_commit_is_recorded_once(box: Box) -> None:
    for turn in range(20):
        first = RawClient(box.mqtt_port, "hasty")
        first.publish(turn + 1, "line/hasty/camera", picture(side=300))
        first.vanish()
        second = RawClient(box.mqtt_port, "hasty")
        second.publish(turn + 1, "line/hasty/camera", picture(side=300), duplicate=True)
        assert second.acknowledged() == turn + 1
        second.vanish()
    assert len(results(box.data_dir, "hasty")) == 20


def test_same_packet_id_with_other_content_is_a_new_message(box: Box) -> None:
    for value in (1.0, 2.0):
        client = RawClient(box.mqtt_port, "reused-id")
        client.publish(7, "plc/reused/wave", [value, 0.0, 0.0], duplicate=value == 2.0)
        client.acknowledged()
        client.vanish()
    assert [each[0, 0] for each in readings(box.data_dir, "reused")] == [1.0, 2.0]


def test_repeat_in_a_new_session_is_kept_and_flagged(box: Box) -> None:
    for turn in range(2):
        client = RawClient(box.mqtt_port, "doubtful", expiry_s=0, clean=True)
        client.publish(7, "line/doubtful/camera", picture(), duplicate=turn == 1)
        client.acknowledged()
        client.vanish()
    flags = [each.get("flags", []) for each in results(box.data_dir, "doubtful")]
    assert flags == [[], ["maybe_duplicate"]]


def test_window_with_a_doubtful_reading_is_flagged(box: Box, plc: Device) -> None:
    client = RawClient(box.mqtt_port, "doubtful-wave", expiry_s=0, clean=True)
    client.publish(7, "plc/doubtful-wave/wave", samples(4), duplicate=True)
    client.acknowledged()
    client.vanish()
    plc.send("plc/doubtful-wave/wave", samples(WINDOW_SIZE))
    assert wait_results(box, "doubtful-wave")[0]["flags"] == ["maybe_duplicate"]


def test_doubtful_repeat_with_a_key_is_no_repeat(box: Box) -> None:
    for turn in range(2):
        client = RawClient(box.mqtt_port, "sure", expiry_s=0, clean=True)
        client.publish(7, "keyed/sure/wave", {"seq": 1, "values": [1, 2, 3]}, duplicate=turn == 1)
        client.acknowledged()
        client.vanish()
    assert len(readings(box.data_dir, "sure")) == 1


def test_receipts_are_kept_only_for_sessions_that_last(box: Box, plc: Device) -> None:
    plc.send("plc/ephemeral/wave", [1, 2, 3])
    lasting = RawClient(box.mqtt_port, "lasting")
    lasting.publish(1, "plc/lasting/wave", [1, 2, 3])
    lasting.acknowledged()
    assert query(box.data_dir, "SELECT count(*) FROM receipt_rows WHERE client = 'lasting'") == [(1,)]
    lasting.vanish()
    RawClient(box.mqtt_port, "lasting", clean=True).vanish()
    known = "SELECT DISTINCT client FROM receipt_rows"
    until(lambda: ("lasting",) not in query(box.data_dir, known), WAIT_S, "the end of the session's receipts")
    sessions = {client for (client,) in query(box.data_dir, "SELECT client FROM sessions")}
    assert {client for (client,) in query(box.data_dir, known)} <= sessions


# -- status


def test_status_is_retained_and_beats(box: Box) -> None:
    with device(box.mqtt_port) as screen:
        screen.subscribe("appliance/box/status")
        first = screen.objects("appliance/box/status")[0]
        assert screen.received("appliance/box/status")[0].retain
        assert first["state"] == "online"
        second = screen.objects("appliance/box/status", 2)[1]
        assert second["beat"] == first["beat"] + 1


def test_status_counts_what_came_by_mqtt(box: Box, plc: Device) -> None:
    before = box.status()["mqtt"]["listener"]
    plc.send("plc/counted/wave", [1, 2, 3])
    after = box.status()["mqtt"]["listener"]
    assert after["received"] == before["received"] + 1
    assert after["acknowledged"] == before["acknowledged"] + 1

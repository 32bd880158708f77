"""Pictures by MQTT on their way to the lanes: what one model cannot take holds up no other."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from appliance.config import RouteConfig
from appliance.errors import ApplianceError, InferenceTimeout, LaneTimeout, ModelNotReady, Overloaded
from appliance.mqtt.intake import Intake
from appliance.mqtt.message import InboundMessage
from appliance.mqtt.poison import Suspicion
from appliance.mqtt.receipts import Receipts
from tests.support.by_hand import PipelineByHand, StoreByHand
from tests.support.models import picture

MODELS = ("slow", "other")
PICTURE = picture()
SOURCES = ("first", "second", "suspect", "third", "fourth")


class Watching:
    """Suspects what `suspicions` says, payload by payload."""

    watching = True

    def __init__(self, suspicions: list[Suspicion | None]) -> None:
        self._suspicions = iter(suspicions)

    def judge(self, _digest: bytes, *, repeated: bool) -> Suspicion | None:
        return next(self._suspicions)


class Door:
    """An intake with a route per model and priority, `<model>/<priority>/<source>`, and two pictures at once."""

    def __init__(self, *, expires_ms: int | None = None, suspicions: list[Suspicion | None] | None = None) -> None:
        self.pipeline = PipelineByHand()
        self.store = StoreByHand()
        slots: Any = SimpleNamespace(manifest=lambda name: SimpleNamespace(preprocess=None, kind="image"))
        suspects: Any = SimpleNamespace(watching=False) if suspicions is None else Watching(suspicions)
        priorities: tuple[Literal["live"], Literal["backlog"]] = ("live", "backlog")
        routes = [
            RouteConfig(
                name=f"{model}-{priority}",
                topic=f"{model}/{priority}/+",
                model=model,
                priority=priority,
                expires_ms=expires_ms,
            )
            for model in MODELS
            for priority in priorities
        ]
        streams: Any = None
        self.acknowledged: list[str] = []
        self.intake = Intake(
            routes,
            slots,
            cast(Any, self.pipeline),
            cast(Any, self.store),
            streams,
            Receipts(100, []),
            suspects,
            at_once=2,
            announce_letter=lambda letter: None,
        )

    def send(self, topic: str, qos: int = 1) -> None:
        message = InboundMessage(client="client", topic=topic, payload=PICTURE, qos=qos)
        self.intake.deliver(message, lambda: self.acknowledged.append(topic.rpartition("/")[2]))

    def tick(self) -> None:
        self.intake.tick(time.monotonic())


def test_endpoint_that_is_slow_holds_up_no_other_model() -> None:
    door = Door()
    for number in range(20):
        door.send(f"slow/live/s{number}")
    door.send("other/live/o")
    assert door.pipeline.started() == ["s0", "s1", "o"]
    door.pipeline.runs[2].end()
    assert door.acknowledged == ["o"]


def test_model_without_room_holds_up_no_other_and_is_tried_again() -> None:
    door = Door()
    door.pipeline.refuses["slow"] = Overloaded("full")
    for number in range(3):
        door.send(f"slow/live/s{number}")
        door.send(f"other/live/o{number}")
    assert door.pipeline.started() == ["o0", "o1"]
    door.pipeline.runs[0].end()
    assert door.pipeline.started() == ["o0", "o1", "o2"]
    door.pipeline.refuses.clear()
    door.tick()
    assert door.pipeline.started()[3:] == ["s0", "s1"]


def test_live_picture_passes_the_backlog() -> None:
    door = Door()
    for number in range(1000):
        door.send(f"slow/backlog/b{number}")
    door.send("slow/live/l")
    door.pipeline.runs[0].end()
    assert door.pipeline.started() == ["b0", "b1", "l"]


def test_answers_that_are_there_at_once_do_not_nest() -> None:
    door = Door()
    for number in range(3000):
        door.send(f"slow/live/s{number}")
    door.pipeline.at_once.add("slow")
    door.pipeline.runs[0].end()
    assert len(door.pipeline.runs) == 3000
    assert len(door.acknowledged) == 2999


def test_what_need_not_be_kept_is_dropped_when_its_own_line_is_long() -> None:
    door = Door()
    for number in range(20):
        door.send(f"slow/live/s{number}", qos=0)
    door.send("other/live/o", qos=0)
    door.send("slow/backlog/b", qos=0)
    # Two under way, eight that wait.
    assert door.intake.status().dropped == 10
    assert door.intake.status().waiting == 12
    assert door.pipeline.started()[-1] == "o"


def test_line_stays_bounded_while_the_model_is_loading() -> None:
    door = Door()
    door.pipeline.refuses["slow"] = ModelNotReady("loading")
    for number in range(20):
        door.send(f"slow/live/s{number}", qos=0)
        door.tick()
    assert door.intake.status().waiting == 8


def test_every_picture_that_waits_for_a_loading_model_expires() -> None:
    door = Door(expires_ms=60_000)
    door.pipeline.refuses["slow"] = ModelNotReady("loading")
    for number in range(5):
        door.send(f"slow/live/s{number}")
    door.tick()
    assert door.acknowledged == []
    door.intake.tick(time.monotonic() + 61)
    assert door.acknowledged == [f"s{number}" for number in range(5)]
    assert {(error.code, letter) for _, error, letter, _ in door.pipeline.rejected} == {("expired", None)}
    assert door.intake.status().waiting == 0


@pytest.mark.parametrize("error", [ModelNotReady("it hung, with others"), LaneTimeout("never ran"), Overloaded("full")])
def test_picture_that_never_ran_is_tried_again(error: ApplianceError) -> None:
    """So is one that shared a hung call with others: its model is loaded afresh and takes each alone."""
    door = Door()
    door.send("slow/live/culprit")
    door.send("slow/live/innocent")
    for run in list(door.pipeline.runs):
        run.end(error)
    assert door.acknowledged == []
    door.tick()
    culprit, innocent = door.pipeline.runs[2:]
    assert [culprit.request.source, innocent.request.source] == ["culprit", "innocent"]
    innocent.end()
    culprit.end(InferenceTimeout("it hung alone"))
    assert door.acknowledged == ["innocent", "culprit"]
    ((request, told, letter, _),) = door.pipeline.rejected
    assert (request.source, told.code, letter is None) == ("culprit", "inference_timeout", False)


def test_suspect_runs_alone_and_marked_on_the_whole_box() -> None:
    door = Door(suspicions=[Suspicion(b"mark") if source == "suspect" else None for source in SOURCES])
    for source in SOURCES:
        door.send(f"{'slow' if source == 'suspect' else 'other'}/live/{source}")
    door.pipeline.runs[0].end()
    # From now on it is the suspect's turn, and what runs ends first.
    assert door.pipeline.started() == ["first", "second", "third"]
    door.pipeline.runs[1].end()
    assert (len(door.pipeline.runs), door.store.writes) == (3, [])
    door.pipeline.runs[2].end()
    assert [write.suspect for write in door.store.writes] == [b"mark"]
    assert door.pipeline.started() == ["first", "second", "third", "suspect"]
    door.pipeline.runs[3].end()
    assert door.pipeline.started() == ["first", "second", "third", "suspect", "fourth"]


def test_suspect_whose_model_is_loading_is_not_marked_and_holds_up_nobody() -> None:
    door = Door(suspicions=[Suspicion(b"mark"), None])
    door.pipeline.refuses["slow"] = ModelNotReady("loading")
    door.send("slow/live/suspect")
    door.send("other/live/other")
    assert door.pipeline.started() == ["other"]
    assert door.store.writes == []
    door.pipeline.refuses.clear()
    door.pipeline.runs[0].end()
    door.tick()
    assert door.pipeline.started() == ["other", "suspect"]

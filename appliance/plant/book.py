"""The table `triggers`: what was asked, what was answered, and whether the answer was handed over."""

from __future__ import annotations

import sqlite3

import msgspec

from appliance.core.protocol import Part
from appliance.plant.answer import TriggerAnswer
from appliance.plant.asked import Asked, ReplyTo

Statement = tuple[str, tuple[object, ...]]

_ANSWER = msgspec.json.Decoder(TriggerAnswer)
_UNSENT_MAX = 1000
"""Answers of the last run that are still told; of more, the newest."""

_STEP = 5000


class Entry(msgspec.Struct, frozen=True):
    """A trigger of an earlier run. reply: None when it came over HTTP."""

    number: int
    at: float
    name: str
    part: Part
    key: str | None
    reply: ReplyTo | None
    answer: TriggerAnswer | None


def opened(number: int, asked: Asked) -> Statement:
    reply = asked.reply
    return (
        "INSERT OR IGNORE INTO triggers (id, at, name, door, part, lot, recipe, key, topic, correlation) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            asked.at,
            asked.trigger,
            "http" if reply is None else reply.via,
            asked.part.part,
            asked.part.lot,
            asked.part.recipe,
            asked.key,
            None if reply is None else reply.topic,
            None if reply is None else reply.correlation,
        ),
    )


def answered(number: int, answer: TriggerAnswer, *, sent: bool) -> Statement:
    """sent: whether there is nobody to hand it to over MQTT."""
    return "UPDATE triggers SET answer = ?, sent = ? WHERE id = ?", (msgspec.json.encode(answer), sent, number)


def handed_over(number: int) -> Statement:
    return "UPDATE triggers SET sent = 1 WHERE id = ?", (number,)


def older_dropped(before: float) -> Statement:
    """Before a wall time, a step at a time."""
    return (
        "DELETE FROM triggers WHERE id IN "
        f"(SELECT id FROM triggers WHERE at < ? AND sent = 1 ORDER BY at LIMIT {_STEP})",
        (before,),
    )


def last_number(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(id), 0) FROM triggers").fetchone()[0])


def unsent(db: sqlite3.Connection) -> list[Entry]:
    """What the last run took and did not answer, or answered and did not hand over, oldest first."""
    rows = db.execute(
        "SELECT id, at, name, door, part, lot, recipe, key, topic, correlation, answer FROM triggers WHERE sent = 0 "
        f"ORDER BY id DESC LIMIT {_UNSENT_MAX}"
    ).fetchall()
    return [
        Entry(
            number,
            at,
            name,
            Part(part, lot, recipe),
            key,
            None if door == "http" else ReplyTo(door, topic, correlation),
            None if body is None else _ANSWER.decode(body),
        )
        for number, at, name, door, part, lot, recipe, key, topic, correlation, body in reversed(rows)
    ]


def answer_to(db: sqlite3.Connection, name: str, key: str) -> TriggerAnswer | None:
    row = db.execute("SELECT answer FROM triggers WHERE name = ? AND key = ?", (name, key)).fetchone()
    return None if row is None or row[0] is None else _ANSWER.decode(row[0])


def given_up(before: int) -> Statement:
    """What is older than the oldest that `unsent` told of."""
    return "UPDATE triggers SET sent = 1 WHERE sent = 0 AND id < ?", (before,)

"""Updates as people see them, and what they may ask for: look now, hold, promote, reject, roll back.

All of it is read from `state.db`, beside what is counted in memory while a trial runs.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Annotated, Any, Literal

import msgspec

from appliance import orders, standing
from appliance.config import UpdatesConfig
from appliance.core.release import Rollout, bucket
from appliance.errors import OrderRefused, RolloutNotFound, StoreUnavailable
from appliance.rollouts import records
from appliance.rollouts.evidence import ModelEvidence
from appliance.rollouts.records import Hold, Record
from appliance.rollouts.rollouts import Rollouts
from appliance.state import POLL_NOW, State
from appliance.versions import VersionReport

ORDER_S_MAX = 60.0
_INSTALLS = 20
_ID_MAX = (1 << 63) - 1

OrderKind = Literal["promote", "reject", "roll_back"]
Person = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]


class PollWarning(msgspec.Struct, frozen=True):
    """Something that somebody should see, and that stops nothing."""

    code: str
    reason: str


class PollReport(msgspec.Struct, frozen=True, kw_only=True):
    """The last look for updates; times in seconds since 1970. answered_at: when a registry last gave anything.

    fresh_at: when it last had signed something new. next_at: not before, as it asked. expires_at: of what it signed.
    code, reason: what was wrong.
    """

    at: float
    origin: str | None
    answered_at: float | None
    fresh_at: float | None
    failures: int
    next_at: float | None
    expires_at: float | None
    code: str | None
    reason: str | None
    warnings: tuple[PollWarning, ...]


class InstallReport(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was looked at. status: checking, downloading, testing, ready, failed, superseded.

    bytes_done, bytes_total: of the download. self_test: by model. rollout: its id, null before it begins.
    """

    id: int
    at: float
    ring: str
    number: int
    status: str
    models: dict[str, str]
    origin: str
    bytes_done: int
    bytes_total: int
    code: str | None
    reason: str | None
    self_test: Any
    rollout: int | None


class VersionList(msgspec.Struct, frozen=True):
    """By name, then by number."""

    versions: list[VersionReport]


class BlockedReport(msgspec.Struct, frozen=True):
    """A version that this box does not take again."""

    name: str
    version: str
    at: float
    reason: str


class UpdatesReport(msgspec.Struct, frozen=True, kw_only=True):
    """provisioned: whether only signed models run here. bucket: where this box stands in its ring, 0 <= bucket < 100.

    poll: null before the first look. waits: why an update that is ready is not begun or not switched. rollout: the id
    of the one that goes on. installs: the newest first.
    """

    provisioned: bool
    ring: str
    bucket: float
    poll: PollReport | None
    hold: Hold | None
    waits: str | None
    rollout: int | None
    installs: list[InstallReport]
    blocked: list[BlockedReport]


class RolledModel(msgspec.Struct, frozen=True):
    """before: the version that served, null for a new model."""

    name: str
    version: str
    before: str | None


class Policy(Rollout, frozen=True, kw_only=True, omit_defaults=False):
    """As the release has it, and what it leaves to the box."""


class RolloutReport(msgspec.Struct, frozen=True, kw_only=True):
    """state: loading, running, probation, done, rejected, rolled_back. mode: canary, shadow, blue_green.

    waits: why a ruling is not carried out yet. elapsed_s: of the trial, probation_s: of the probation; the policy says
    how long they last. serves: whether what it brought serves, so that it can be taken back. configuration: whether
    routes, verdict rules or recipes of a release serve with its models. evidence: live while it runs.
    """

    id: int
    install: int
    ring: str | None
    number: int | None
    at: float
    state: str
    mode: str
    models: list[RolledModel]
    policy: Policy
    waits: str | None
    elapsed_s: float
    probation_s: float
    ruled_at: float | None
    reason: str | None
    serves: bool
    configuration: bool
    evidence: tuple[ModelEvidence, ...]


class RolloutList(msgspec.Struct, frozen=True):
    """The newest first."""

    rollouts: list[RolloutReport]


class HoldOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """by, reason: for whoever wonders. for_s: null: until it is released."""

    by: Person
    reason: Person
    for_s: Annotated[float, msgspec.Meta(gt=0, le=31_536_000)] | None = None


class Who(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """by: who gives the order, as they say."""

    by: Person | None = None


class OrderReport(msgspec.Struct, frozen=True):
    """outcome: what was done, in words."""

    order: int
    outcome: str


class PollAsked(msgspec.Struct, frozen=True):
    """The updater was told; what it finds `/v1/updates` shows."""

    asked: bool = True


class Released(msgspec.Struct, frozen=True):
    """How many holds were ended."""

    released: int


class Board:
    """Any thread may call it; it reads and writes the disk. versions: those on this box, read anew each time."""

    def __init__(
        self,
        device: str,
        config: UpdatesConfig,
        state: State,
        rollouts: Rollouts,
        versions: Callable[[], list[VersionReport]],
    ) -> None:
        self._device = device
        self._config = config
        self._state = state
        self._rollouts = rollouts
        self._versions = versions

    def updates(self) -> UpdatesReport:
        going = self._rollouts.going
        holds = records.holds(self._state, time.time())
        blocked = self._state.rows("SELECT name, version, at, reason FROM blocked ORDER BY at DESC")
        return UpdatesReport(
            provisioned=self._config.root is not None,
            ring=self._config.ring,
            bucket=bucket(self._device, self._config.ring),
            poll=self._poll(),
            hold=holds[0] if holds else None,
            waits=self._rollouts.waits,
            rollout=None if going is None else going.id,
            installs=self._installs(),
            blocked=[BlockedReport(*row) for row in blocked],
        )

    def versions(self) -> VersionList:
        """Raises ConfigError, DataDirError."""
        return VersionList(self._versions())

    def rollouts(self, limit: int) -> RolloutList:
        return RolloutList([self._report(record) for record in records.rollouts(self._state, limit)])

    def rollout(self, number: int) -> RolloutReport:
        """Raises RolloutNotFound."""
        return self._report(self._record(number))

    def order(self, kind: OrderKind, number: int, by: str) -> OrderReport:
        """Give an order about a rollout and wait until it is carried out.

        Raises RolloutNotFound, and OrderRefused with what is in the way.
        """
        record = self._record(number)
        model = None
        if kind == "roll_back":
            served = self._served(record)
            if not served and not self._has_configured(record):
                raise OrderRefused(f"nothing of rollout {number} serves, so there is nothing to take back")
            # Without a model it is the last one, and `roll_back` means that when it is told of none.
            model = served[0] if served else None
        elif record.state not in ("loading", "running"):
            raise OrderRefused(f"rollout {number} is not on trial, it is {record.state}")
        with self._state.transaction() as db:
            order = db.execute(
                "INSERT INTO orders (at, kind, model, by) VALUES (?, ?, ?, ?)", (time.time(), kind, model, by)
            ).lastrowid
        assert order is not None
        self._rollouts.wake()
        return OrderReport(order, self._outcome(order))

    def hold(self, asked: HoldOrder) -> Hold:
        """No update is begun or switched until it ends."""
        hold = records.hold(self._state, asked.by, asked.reason, asked.for_s, round(time.time(), 3))
        self._rollouts.wake()
        return hold

    def release(self) -> Released:
        """End every hold."""
        ended = records.release_holds(self._state, time.time())
        self._rollouts.wake()
        return Released(ended)

    def poll_now(self) -> PollAsked:
        """Raises StoreUnavailable."""
        path = self._state.path.with_name(POLL_NOW)
        try:
            path.touch()
        except OSError as error:
            raise StoreUnavailable(f"{path}: {error.strerror}; let this user write there") from error
        return PollAsked()

    def command(self, payload: bytes, client: str) -> Future[PollAsked]:
        """`cmd/update`: look now, whatever the message says. Raises StoreUnavailable."""
        done: Future[PollAsked] = Future()
        done.set_result(self.poll_now())
        return done

    def _record(self, number: int) -> Record:
        record = records.rollout(self._state, number) if 0 <= number <= _ID_MAX else None
        if record is None:
            raise RolloutNotFound(f"there is no rollout {number}; GET /v1/rollouts lists them")
        return record

    def _served(self, record: Record) -> list[str]:
        """The models that serve in the version that this rollout brought."""
        return [each.name for each in standing.standings(self._state).values() if each.rollout == record.id]

    def _has_configured(self, record: Record) -> bool:
        """Whether what it changed in the configuration serves."""
        return standing.brought_by(self._state) == record.id

    def _outcome(self, order: int) -> str:
        ends_at = time.monotonic() + ORDER_S_MAX
        while time.monotonic() < ends_at:
            (row,) = self._state.rows("SELECT done_at, outcome FROM orders WHERE id = ?", (order,))
            if row["done_at"] is not None:
                text = str(row["outcome"])
                if text.startswith(orders.REFUSED):
                    raise OrderRefused(text.removeprefix(orders.REFUSED))
                return text
            time.sleep(0.02)
        raise OrderRefused(f"the box has not carried it out within {ORDER_S_MAX:g} s; order {order} stays")

    def _report(self, record: Record) -> RolloutReport:
        install = records.install(self._state, record.install)
        going, now = self._rollouts.going, time.monotonic()
        live = going if going is not None and going.id == record.id else None
        elapsed_s = 0.0 if live is None else max(0.0, now - live.began_at)
        is_watched = record.state == "probation"
        ruled_after_s = 0.0 if record.ruled_at is None else max(0.0, record.ruled_at - record.at)
        return RolloutReport(
            id=record.id,
            install=record.install,
            ring=None if install is None else install.ring,
            number=None if install is None else install.number,
            at=record.at,
            state=record.state,
            mode=record.mode,
            models=[
                RolledModel(name, version, record.before.get(name)) for name, version in sorted(record.models.items())
            ],
            policy=Policy() if install is None else Policy(**msgspec.structs.asdict(install.policy)),
            waits=None if live is None else live.waits,
            elapsed_s=round(ruled_after_s if record.ruled_at is not None else elapsed_s, 3),
            probation_s=round(elapsed_s if is_watched else 0.0, 3),
            ruled_at=record.ruled_at,
            reason=record.reason,
            serves=bool(self._served(record)) or self._has_configured(record),
            configuration=record.configuration is not None,
            evidence=record.evidence if live is None else live.evidence(),
        )

    def _poll(self) -> PollReport | None:
        rows = self._state.rows("SELECT * FROM polls")
        return None if not rows else _poll_report(rows[0])

    def _installs(self) -> list[InstallReport]:
        rows = self._state.rows(
            """SELECT installs.*, (SELECT max(id) FROM rollouts WHERE install = installs.id) AS rollout FROM installs
            ORDER BY id DESC LIMIT ?""",
            (_INSTALLS,),
        )
        return [_install_report(row) for row in rows]


def _poll_report(row: sqlite3.Row) -> PollReport:
    values: dict[str, Any] = {name: row[name] for name in PollReport.__struct_fields__ if name != "warnings"}
    return PollReport(**values, warnings=msgspec.json.decode(row["warnings"], type=tuple[PollWarning, ...]))


def _install_report(row: sqlite3.Row) -> InstallReport:
    names: Sequence[str] = [name for name in InstallReport.__struct_fields__ if name not in ("models", "self_test")]
    values: dict[str, Any] = {name: row[name] for name in names}
    self_test = None if row["evidence"] is None else msgspec.json.decode(row["evidence"])
    return InstallReport(**values, models=records.versions_of(row["models"]), self_test=self_test)

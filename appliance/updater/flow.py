"""One look for updates, from CHECK to READY. Every step can be cut off anywhere: the next run goes on or begins anew.

CHECK (`check.py`) -> SPACE -> DOWNLOAD -> STAGE -> SELFTEST -> the folders are shown in `models/` -> one transaction
says that the install is ready, and the server takes over. Until that transaction nothing that serves has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from appliance import standing, unused
from appliance.clock import Clocks, read_clocks
from appliance.config import Config
from appliance.core.polling import RETRY_AFTER_S_MAX, until_windows_s
from appliance.core.release import ModelRef, Release, format_time, models_for, parse_time
from appliance.core.suitable import lacks
from appliance.errors import (
    ApplianceError,
    RegistryUnavailable,
    ReleaseInvalid,
    SelfTestFailed,
    Unsuitable,
    Untrusted,
    UpdateError,
    VersionBlocked,
)
from appliance.repository import MANIFEST, model_roots
from appliance.rollouts import records
from appliance.state import State
from appliance.updater import check, equipment, installs, local, polls, selftest, staging, trusted_time
from appliance.updater.check import Found, Version
from appliance.updater.fetch import Source
from appliance.updater.lock import only_one
from appliance.updater.plan import Plan
from appliance.updater.polls import Warn
from appliance.updater.selftest import SelfTest
from appliance.updater.space import make_room, mb, refusals

log = structlog.get_logger("updates")

Outcome = Literal[
    "ready", "up_to_date", "no_release", "on_hold", "paused", "not_asked", "failed_before", "would_install"
]
"""not_asked: the registry wanted to be left alone. failed_before: this release was refused here before."""

Prove = Callable[[Path, Config], SelfTest]

_FINAL = (SelfTestFailed, ReleaseInvalid, VersionBlocked)
"""The release is at fault: it is not tried again. What came wrong (Untrusted) is, once: the way may be at fault."""

_WRITE_EVERY_S = 1.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """now: outside of windows, before a registry wants to be asked, and once more what failed. dry_run: only look.

    is_local: the source is no registry that may want to be left alone.
    """

    now: bool = False
    dry_run: bool = False
    is_local: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. models: name -> version that this box is to serve. bytes: that came, or would have to."""

    outcome: Outcome
    reason: str
    origin: str
    ring: str
    number: int | None = None
    models: dict[str, str] = {}
    bytes: int = 0
    warnings: tuple[Warn, ...] = ()
    seconds: float = 0.0


class Progress(msgspec.Struct, frozen=True):
    """step: `download`, `stage`, `test`. done, total: bytes of the download."""

    step: str
    done: int
    total: int


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What a look is done with; a test brings some of its own."""

    clocks: Clocks = read_clocks
    prove: Prove = selftest.run
    sleep: Callable[[float], None] = time.sleep
    on_progress: Callable[[Progress], None] = lambda progress: None


def update(
    config: Config, sources: Sequence[Source], options: Options | None = None, means: Means | None = None
) -> Report:
    """Look for a release and install it, as far as it may be now.

    Raises ConfigError, and UpdateError with what was refused or is missing; nothing that serves is touched then.
    """
    began = time.monotonic()
    data_dir = Path(config.data_dir).absolute()
    with refusals(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        with only_one(data_dir):
            state = State(data_dir)
            try:
                report = _Run(config, data_dir, state, sources, options or Options(), means or Means()).run()
            finally:
                state.close()
    return msgspec.structs.replace(report, seconds=round(time.monotonic() - began, 3))


class _Run:
    def __init__(
        self, config: Config, data_dir: Path, state: State, sources: Sequence[Source], options: Options, means: Means
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._models = data_dir / "models"
        self._state = state
        self._sources = sources
        self._options = options
        self._means = means
        self._tick = means.clocks()
        self._tests: dict[str, SelfTest] = {}
        self._came = 0

    def run(self) -> Report:
        next_at = polls.last(self._state).next_at
        # A clock that was set back must not keep the box from asking for longer than a registry may want.
        asks = self._options.now or self._options.is_local
        if next_at is not None and not asks and 0 < next_at - self._tick.wall <= RETRY_AFTER_S_MAX:
            return Report(
                outcome="not_asked",
                reason=f"the registry wants not to be asked before {format_time(next_at)}; use --now to "
                "ask all the same",
                origin=self._sources[0].origin,
                ring=self._config.updates.ring,
            )
        found, warnings = self._look()
        try:
            report = self._take(found)
        except RegistryUnavailable as error:
            self._not_answered(error, warnings)
            raise
        return msgspec.structs.replace(report, warnings=warnings)

    def _look(self) -> tuple[Found, tuple[Warn, ...]]:
        """CHECK, with what is remembered of it whatever comes out."""
        floor = trusted_time.read_floor(self._data_dir)
        try:
            with refusals(self._data_dir):
                found = check.find(self._sources, self._config.updates, self._data_dir, self._state, floor, self._tick)
        except UpdateError as error:
            self._not_answered(error, self._clock_warnings(floor))
            raise
        issued = parse_time(found.release.issued) if found.release is not None else 0.0
        floor = trusted_time.raised(floor, issued, self._tick)
        trusted_time.write_floor(self._data_dir, floor)
        warnings = polls.succeeded(
            self._state,
            at=self._tick.wall,
            now=trusted_time.trusted_now(floor, self._tick),
            origin=found.source.origin,
            fresh=found.trusted.fresh,
            expires_at=found.trusted.expires_at,
            clock=self._clock_warnings(floor),
        )
        return found, warnings

    def _not_answered(self, error: UpdateError, clock: tuple[Warn, ...]) -> None:
        now = trusted_time.trusted_now(trusted_time.read_floor(self._data_dir), self._tick)
        clock = tuple(each for each in clock if each.code == "clock_untrusted")
        polls.failed(self._state, error, at=self._tick.wall, now=now, clock=clock)

    def _clock_warnings(self, floor: trusted_time.Floor) -> tuple[Warn, ...]:
        if not trusted_time.is_behind(floor, self._tick):
            return ()
        return (
            Warn(
                "clock_untrusted",
                f"this box's clock shows {format_time(self._tick.wall)}, but it is {format_time(floor.at(self._tick))} "
                "at least, which was signed; set the clock, or signatures that have expired meanwhile look good",
            ),
        )

    def _take(self, found: Found) -> Report:
        """What the release means for this box."""
        release = found.release
        if release is None:
            return self._report(
                found, "no_release", f"nobody has released anything for ring {self._config.updates.ring}"
            )
        if not self._options.dry_run and self._serves_withdrawn(release):
            installs.withdraw(self._state, release, found.source.origin, self._tick.wall)
        refs = models_for(release, self._config.device)
        known = installs.of_release(self._state, release, refs)
        if known is not None and known.status in ("ready", "superseded") and not self._is_lost(refs):
            if self._options.now and not self._options.dry_run:
                installs.want_at_once(self._state, known.id)
            return self._report(found, "up_to_date", "this release was installed before", refs)
        if known is not None and known.status == "failed" and not self._options.now:
            return self._report(found, "failed_before", f"{known.code}: {known.reason}", refs)
        holds = records.holds(self._state, self._tick.wall)
        if holds:
            reason = f"on hold by {holds[0].by}: {holds[0].reason}; `appliance update --release` ends it"
            return self._report(found, "on_hold", reason, refs)
        if release.paused:
            return self._report(found, "paused", "central ops have paused this release", refs)
        if self._options.dry_run:
            return self._foresee(found, release, refs)
        row = installs.begin(
            self._state, release, refs, found.source.origin, self._tick.wall, at_once=self._options.now
        )
        try:
            with refusals(self._data_dir):
                return self._install(found, release, refs, row)
        except ApplianceError as error:
            came_wrong_before = known is not None and known.code == Untrusted.code
            if isinstance(error, _FINAL) or (isinstance(error, Untrusted) and came_wrong_before):
                installs.fail(self._state, row, error.code, str(error), self._tests)
                staging.clear(self._models / staging.STAGED)
                staging.clear(self._models / staging.INCOMING)
                log.error("update_refused", release=release.number, code=error.code, reason=str(error))
            else:
                installs.note(self._state, row, error.code, str(error))
            raise

    def _foresee(self, found: Found, release: Release, refs: Mapping[str, ModelRef]) -> Report:
        """What an install would be refused for, or would cost. Raises UpdateError."""
        self._refuse_unfit(release, refs)
        plan = Plan(self._models, self._missing(found, refs), model_roots(self._config))
        self._data_dir.mkdir(exist_ok=True)
        make_room(self._data_dir, plan.needed, lambda: 0)
        return self._report(found, "would_install", f"{mb(plan.left)} to download", refs, plan.left)

    def _install(self, found: Found, release: Release, refs: Mapping[str, ModelRef], row: int) -> Report:
        """Raises UpdateError, OSError."""
        if self._serves_all(release, refs):
            installs.nothing_new(self._state, row)
            return self._report(found, "up_to_date", "all of it serves already", refs)
        self._refuse_unfit(release, refs)
        missing = self._missing(found, refs)
        plan = Plan(self._models, missing, model_roots(self._config))
        plan.begin()
        make_room(self._models, plan.needed, self._remove_unused)
        self._download(plan, found.source, row)
        self._show("stage", row, plan.total, plan.total)
        staged = {name: plan.stage(name) for name in missing}
        self._self_test(staged, row, plan.total)
        for name, folder in staged.items():
            self._put_in_place(folder, missing[name])
        proofs = {name: version.proof for name, version in missing.items()}
        installs.ready(self._state, row, proofs, found.source.origin, self._tick.wall, self._tests)
        staging.clear(self._models / staging.INCOMING)
        staging.clear(self._models / staging.STAGED)
        with suppress(ApplianceError):
            self._remove_unused()
        versions = {name: ref.version for name, ref in refs.items()}
        log.info("update_ready", release=release.number, models=versions, bytes=self._came)
        return self._report(found, "ready", f"installed; the server {self._when(release)}", refs, self._came)

    def _when(self, release: Release) -> str:
        """When the server switches, which looks at the same windows."""
        wait_s = until_windows_s((release.window, self._config.updates.window), self._tick.wall)
        if self._options.now or wait_s == 0:
            return "takes over"
        return f"switches in its window, which opens at {format_time(self._tick.wall + wait_s)}"

    def _serves_withdrawn(self, release: Release) -> bool:
        return any(release.blocks(each.name, each.current) for each in standing.standings(self._state).values())

    def _serves_all(self, release: Release, refs: Mapping[str, ModelRef]) -> bool:
        """Whether the server has nothing to do."""
        if release.configuration is not None or standing.configuration(self._state) is not None:
            return False
        if self._serves_withdrawn(release):
            return False
        rows = standing.standings(self._state)
        return all(
            name in rows and rows[name].current == ref.version and self._is_installed(name, ref)
            for name, ref in refs.items()
        )

    def _is_lost(self, refs: Mapping[str, ModelRef]) -> bool:
        """Whether something that serves is damaged on the disk, as far as somebody asks for it."""
        rows = standing.standings(self._state)
        return self._options.now and any(
            name in rows and rows[name].current == ref.version and not self._is_installed(name, ref)
            for name, ref in refs.items()
        )

    def _refuse_unfit(self, release: Release, refs: Mapping[str, ModelRef]) -> None:
        """Raises Unsuitable, VersionBlocked, SelfTestFailed."""
        lacking = lacks(release.requires, equipment.look(self._data_dir))
        if lacking:
            raise Unsuitable(
                f"release {release.number} of ring {release.ring} needs {' and '.join(lacking)}; it stays as it is"
            )
        for name, ref in refs.items():
            before = installs.refused(self._state, name, ref)
            if before is None:
                continue
            code, reason = before
            if code == "version_blocked":
                raise VersionBlocked(f"model {name} version {ref.version} is blocked on this box: {reason}")
            if not self._options.now:
                raise SelfTestFailed(f"model {name} version {ref.version} failed its self-test here before: {reason}")

    def _missing(self, found: Found, refs: Mapping[str, ModelRef]) -> dict[str, Version]:
        """What is not installed, its manifest verified. Raises UpdateError."""
        wanted = {name: ref for name, ref in refs.items() if not self._is_installed(name, ref)}
        return {name: check.manifest_of(found, name, ref) for name, ref in wanted.items()}

    def _is_installed(self, name: str, ref: ModelRef) -> bool:
        if not installs.is_trusted(self._state, ref.manifest):
            return False
        return local.is_whole(self._models / name / ref.version, ref.manifest)

    def _download(self, plan: Plan, first: Source, row: int) -> None:
        self._show("download", row, plan.total - plan.left, plan.total)
        shown_at = time.monotonic()

        def on_bytes(count: int) -> None:
            nonlocal shown_at
            self._came += count
            done = min(plan.total, plan.total - plan.left + self._came)
            self._means.on_progress(Progress("download", done, plan.total))
            if time.monotonic() - shown_at >= _WRITE_EVERY_S:
                shown_at = time.monotonic()
                installs.progress(self._state, row, "downloading", done, plan.total)

        sources = [first, *(each for each in self._sources if each is not first)]
        plan.get(sources, self._config.updates.rate_bytes_s, on_bytes, self._means.sleep)

    def _self_test(self, staged: Mapping[str, Path], row: int, total: int) -> None:
        """Raises SelfTestFailed, UpdateError."""
        for name, folder in staged.items():
            self._show("test", row, total, total)
            outcome = self._tests[name] = self._means.prove(folder, self._config)
            log.info("self_test", model=name, version=folder.name, **msgspec.to_builtins(outcome))
            if not outcome.passed:
                raise SelfTestFailed(f"model {name} version {folder.name}: {outcome.code}: {outcome.reason}")

    def _put_in_place(self, staged: Path, version: Version) -> None:
        """Raises ReleaseInvalid, OSError."""
        target = self._models / staged.parent.name / staged.name
        if target.exists():
            if local.is_whole(target, version.ref.manifest):
                # Put there by a run that was cut off before it could say so.
                return
            manifest = target / MANIFEST
            if manifest.is_file() and staging.sha256_of(manifest) != version.ref.manifest:
                raise ReleaseInvalid(
                    f"{target} is there already, with another manifest; publish model {staged.parent.name} under a new "
                    "number, or remove that folder"
                )
            unused.set_aside(target)
        staging.show(self._models, staged)

    def _remove_unused(self) -> int:
        """Returns the bytes that it frees. Raises DataDirError."""
        unused.remove_left_over(self._state)
        going = unused.find_unused(self._state)
        unused.remove(going)
        if going:
            log.info("versions_removed", versions=[f"{each.name}/{each.version}" for each in going])
        return sum(each.bytes for each in going)

    def _show(self, step: str, row: int, done: int, total: int) -> None:
        installs.progress(self._state, row, "testing" if step == "test" else "downloading", done, total)
        self._means.on_progress(Progress(step, done, total))

    def _report(
        self, found: Found, outcome: Outcome, reason: str, refs: Mapping[str, ModelRef] | None = None, count: int = 0
    ) -> Report:
        return Report(
            outcome=outcome,
            reason=reason,
            origin=found.source.origin,
            ring=self._config.updates.ring,
            number=None if found.release is None else found.release.number,
            models={name: ref.version for name, ref in (refs or {}).items()},
            bytes=count,
        )

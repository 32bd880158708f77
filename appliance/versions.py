"""Every version on this box: where it came from, who signed it, how its tests and trials ended, which slot it has.

All of it is read from the disk and from `state.db`, so it is told whether the box runs or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance import standing
from appliance.config import shipped_models_dir
from appliance.errors import ModelError
from appliance.repository import ModelVersion, check_files, scan
from appliance.state import State
from appliance.trust import Trust


class Trial(msgspec.Struct, frozen=True):
    """The last rollout of a version. state: loading, running, probation, done, rejected, rolled_back.

    evidence: the counts that its ruling was made from.
    """

    rollout: int
    state: str
    mode: str
    reason: str | None
    evidence: Any


class VersionReport(msgspec.Struct, frozen=True, kw_only=True):
    """slot: current, candidate, previous, or None. state: `ok`, or the code of what is wrong with its files.

    origin: the registry or folder it was verified from, `import`, `shipped`, or `folder`. signed_by: the role and its
    keys, None for what nobody signed. self_test: its outcome before it was first loaded. blocked: why it is not to
    serve on this box.
    """

    name: str
    version: str
    title: str
    folder: str
    variants: tuple[str, ...]
    signed: bool
    state: str
    reason: str | None
    slot: str | None
    digest: str | None
    origin: str
    signed_by: Any
    self_test: Any
    trial: Trial | None
    blocked: str | None


def versions(
    roots: Sequence[Path], state: State | None, trust: Trust | None = None, *, check: bool = True
) -> list[VersionReport]:
    """By name, then by number.

    state: None before the first start. trust: what may run here, None: everything. check: read every file and compare
    its SHA-256.
    """
    good: list[ModelVersion] = []
    reports: list[VersionReport] = []
    for root in roots:
        found, broken = scan([root], trust)
        good += found
        for each in broken:
            folder = root / each.name / each.version
            reports.append(_report(each.name, each.version, folder, str(each.error), each.error.code))
    slots = _slots(good, state)
    for version in good:
        name, number = version.manifest.name, version.manifest.version
        known = _Known(state, name, number, version.digest)
        reports.append(
            msgspec.structs.replace(
                _checked(version) if check else _found(version),
                slot=slots.get(str(version.folder)),
                origin=known.origin or version.origin,
                signed_by=known.signed_by,
                self_test=known.self_test,
                trial=known.trial,
                blocked=known.blocked,
            )
        )
    return sorted(reports, key=lambda each: (each.name, int(each.version) if each.version.isdecimal() else 0))


class _Known:
    """What `state.db` knows of one version."""

    def __init__(self, state: State | None, name: str, version: str, digest: str) -> None:
        self.origin: str | None = None
        self.signed_by: Any = None
        self.self_test: Any = None
        self.trial: Trial | None = None
        self.blocked: str | None = None
        if state is None:
            return
        for row in state.rows("SELECT origin, signed_by FROM trusted WHERE manifest = ?", (digest,)):
            self.origin, self.signed_by = row["origin"], _json(row["signed_by"])
        for row in state.rows("SELECT models, evidence FROM installs WHERE evidence IS NOT NULL ORDER BY id"):
            asked = _json(row["models"]).get(name)
            if (asked.get("version") if isinstance(asked, dict) else asked) == version:
                told = _json(row["evidence"])
                self.self_test = told[name] if isinstance(told, dict) and isinstance(told.get(name), dict) else told
        for row in state.rows("SELECT id, state, mode, models, reason, evidence FROM rollouts ORDER BY id"):
            if _json(row["models"]).get(name) == version:
                self.trial = Trial(row["id"], row["state"], row["mode"], row["reason"], _json(row["evidence"]))
        for row in state.rows("SELECT reason FROM blocked WHERE name = ? AND version = ?", (name, version)):
            self.blocked = row["reason"]


def _slots(good: Sequence[ModelVersion], state: State | None) -> dict[str, str]:
    """Folder -> slot."""
    rows = {} if state is None else standing.standings(state)
    by_update = frozenset() if state is None else standing.came_by_update(state)
    installed = Path() if state is None else standing.installed_root(state)
    tried = {} if state is None else _on_trial(state)
    found: dict[str, str] = {}
    for name in {each.manifest.name for each in good}:
        known = {each.manifest.version: each for each in good if each.manifest.name == name}
        row = rows.get(name)
        for slot, number in (("candidate", tried.get(name)), ("previous", None if row is None else row.previous)):
            if number in known:
                found[str(known[number].folder)] = slot
        serves = standing.serving([each for each in good if each.manifest.name == name], row, by_update, installed)
        if serves is not None:
            found[str(serves.folder)] = "current"
    return found


def _on_trial(state: State) -> dict[str, str]:
    return {
        name: version
        for each in standing.undecided(state)
        if each.state != "probation"
        for name, version in each.models.items()
    }


def _checked(version: ModelVersion) -> VersionReport:
    report = _found(version)
    try:
        check_files(version)
    except ModelError as error:
        return msgspec.structs.replace(report, state="damaged", reason=str(error))
    return report


def _found(version: ModelVersion) -> VersionReport:
    manifest = version.manifest
    return VersionReport(
        name=manifest.name,
        version=manifest.version,
        title=manifest.title,
        folder=str(version.folder),
        variants=tuple(variant.name for variant in manifest.variants),
        signed=version.signed,
        state="ok",
        reason=None,
        slot=None,
        digest=version.digest,
        origin=version.origin,
        signed_by=None,
        self_test=None,
        trial=None,
        blocked=None,
    )


def _report(name: str, version: str, folder: Path, reason: str, code: str) -> VersionReport:
    """Of a folder that is no version."""
    return VersionReport(
        name=name,
        version=version,
        title="",
        folder=str(folder),
        variants=(),
        signed=False,
        state=code,
        reason=reason,
        slot=None,
        digest=None,
        origin=_origin(folder),
        signed_by=None,
        self_test=None,
        trial=None,
        blocked=None,
    )


def _origin(folder: Path) -> str:
    return "shipped" if folder.parent.parent == shipped_models_dir() else "folder"


def _json(text: bytes | str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)

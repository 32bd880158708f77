"""The versions that are on this box's disk, and which of them are to serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from appliance import standing
from appliance.errors import ModelLoadError, ModelNotFound
from appliance.repository import Broken, ModelVersion, scan
from appliance.slot import Place, Slot
from appliance.state import State
from appliance.trust import Trust

log = structlog.get_logger("slots")


class Installed:
    """roots: where models are, asked each time, since the folder of the installed ones may come later.

    trust: what may run here, asked each time, since updates come. broken: folders that the last look found and that
    cannot be used.
    """

    def __init__(self, roots: Callable[[], list[Path]], state: State, trust: Callable[[], Trust | None]) -> None:
        self._roots = roots
        self._state = state
        self._trust = trust
        self.broken: list[Broken] = []

    def slots(self) -> dict[str, Slot]:
        """Every model in the version that is to serve, none of them loaded. Raises ConfigError."""
        versions = self._scan()
        rows = standing.standings(self._state)
        on_probation = _on_probation(self._state)
        table: dict[str, Slot] = {}
        for name, known in versions.items():
            serves = self._serving(name, known)
            if serves is None:
                continue
            row, previous, together = rows.get(name), None, on_probation.get(name, ())
            if row is not None and row.current != serves.manifest.version:
                log.error("model_missing", model=name, version=row.current, serves=serves.manifest.version)
                together = ()
            elif row is not None and row.previous is not None:
                previous = Place(version=row.previous, on_disk=None, state="unloaded")
            current = Place(version=serves.manifest.version, on_disk=serves)
            table[name] = Slot(name=name, current=current, previous=previous, together=together)
        for each in self.broken:
            log.error(
                "model_failed", model=each.name, version=each.version, code=each.error.code, reason=str(each.error)
            )
            if each.name not in table:
                failed = Place(version=each.version, on_disk=None, state="failed", reason=str(each.error))
                table[each.name] = Slot(name=each.name, current=failed)
        return table

    def to_serve(self, name: str) -> ModelVersion:
        """The version of a model that is to serve. Raises ModelNotFound, ManifestError, Unsigned."""
        versions = self._scan()
        found = self._serving(name, versions.get(name, []))
        if found is not None:
            return found
        error = next((each.error for each in self.broken if each.name == name), None)
        if error is not None:
            raise error
        raise ModelNotFound(f"no model {name!r} on disk; this box has {sorted(versions)}")

    def named(self, name: str, version: str) -> ModelVersion:
        """Raises ModelLoadError, ManifestError, Unsigned."""
        for each in reversed(self._scan().get(name, [])):
            if each.manifest.version == version:
                return each
        for broken in self.broken:
            if (broken.name, broken.version) == (name, version):
                raise broken.error
        raise ModelLoadError(f"model {name} version {version} is not on this box; install it first")

    def _scan(self) -> dict[str, list[ModelVersion]]:
        """What can be used, by name, later roots last; two roots may hold the same version. Notes what cannot."""
        versions: dict[str, list[ModelVersion]] = {}
        broken: list[Broken] = []
        trust = self._trust()
        for root in self._roots():
            good, bad = scan([root], trust)
            broken += bad
            for each in good:
                versions.setdefault(each.manifest.name, []).append(each)
        self.broken = broken
        return versions

    def _serving(self, name: str, known: list[ModelVersion]) -> ModelVersion | None:
        return standing.serving(
            known,
            standing.standings(self._state).get(name),
            standing.came_by_update(self._state),
            standing.installed_root(self._state),
        )


def _on_probation(state: State) -> dict[str, tuple[str, ...]]:
    """Name -> what was promoted together with it, and may have to go back together."""
    return {
        name: tuple(sorted(each.models))
        for each in standing.undecided(state)
        if each.state == "probation"
        for name in each.models
    }

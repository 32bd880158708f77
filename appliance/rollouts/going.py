"""The rollout that is going on: its row, its policy, and the trials of its models."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

import msgspec

from appliance.core.manifest import TensorPreprocess, WindowPreprocess
from appliance.core.polling import until_windows_s
from appliance.core.release import Rollout, Window
from appliance.core.rollout import Ruling, rule, rule_probation, rule_together
from appliance.rollouts.evidence import ModelEvidence
from appliance.rollouts.records import Install, Record
from appliance.rollouts.replay import Replay
from appliance.rollouts.trial import Trial
from appliance.served import ServedModel


class Going:
    """Owned by the thread of the rollouts; others read `evidence` and the plain values.

    began_at, until: monotonic. until: when its trial or its probation is over.
    """

    def __init__(self, record: Record, install: Install | None, own_window: Window | None) -> None:
        self.record = record
        self.policy = Rollout() if install is None else install.policy
        self.staged: Future[None] | None = None
        self.trials: Mapping[str, Trial] = {}
        self.replays: list[Replay] | None = None
        self.is_due = False
        self.waits: str | None = None
        self.began_at = 0.0
        self.until = 0.0
        self._windows: tuple[Window | None, ...] = ()
        if install is not None:
            self._windows = (None if install.release is None else install.release.window, own_window)

    @property
    def id(self) -> int:
        return self.record.id

    @property
    def names(self) -> list[str]:
        return sorted(self.record.models)

    def last(self, seconds: float, since: float, now: float, wall: float) -> None:
        """A trial or a probation of so many seconds since `since` (wall clock, which may have been set meanwhile)."""
        elapsed_s = min(max(0.0, wall - since), seconds)
        self.began_at = now - elapsed_s
        self.until = self.began_at + seconds

    def moved(self, state: str) -> None:
        self.record = msgspec.structs.replace(self.record, state=state)

    def evidence(self) -> tuple[ModelEvidence, ...]:
        """Of every model, by name."""
        kept = {each.name: each for each in self.record.evidence}
        return tuple(
            self.trials[name].evidence() if name in self.trials else kept.get(name) or self.blank(name)
            for name in self.names
        )

    def blank(self, name: str) -> ModelEvidence:
        return ModelEvidence(name=name, version=self.record.models[name], before=self.record.before.get(name))

    def rulings(self) -> list[tuple[str, Ruling]]:
        return [(each.name, rule(each.counts(), self.policy, is_due=self.is_due)) for each in self.evidence()]

    def ruling(self) -> Ruling:
        if not self.record.models:
            return Ruling("promote", "it brings a configuration alone")
        if self.record.mode == "blue_green":
            return Ruling("promote", "its golden cases hold, and the release asks for no trial")
        return rule_together(self.rulings())

    def blamed(self) -> list[str]:
        """The models for which it is rejected now."""
        return [name for name, ruling in self.rulings() if ruling.decision == "reject"]

    def fault(self) -> tuple[str, str] | None:
        """The first model that has to go back, and why. On probation."""
        for each in self.evidence():
            reason = rule_probation(each.probation_inputs, each.probation_errors, self.policy)
            if reason is not None:
                return each.name, reason
        return None

    def closed_s(self, wall: float) -> float:
        """Until the windows are open, 0: now."""
        return until_windows_s(self._windows, wall)


def unlike(new: ServedModel, before: ServedModel) -> str | None:
    """Why inputs for one cannot be given to the other, None: they can."""
    one, other = new.manifest, before.manifest
    if one.kind != other.kind:
        return f"it takes {one.kind}, version {other.version} takes {other.kind}"
    if type(one.postprocess) is not type(other.postprocess):
        return f"its answers are of another kind than those of version {other.version}"
    if isinstance(one.preprocess, TensorPreprocess) and one.inputs != other.inputs:
        return f"its inputs are not those of version {other.version}"
    if isinstance(one.preprocess, WindowPreprocess) and isinstance(other.preprocess, WindowPreprocess):
        mine, its = one.preprocess, other.preprocess
        if (mine.size, mine.channels, mine.rate_hz) != (its.size, its.channels, its.rate_hz):
            return f"its windows are not those of version {other.version}"
    return None

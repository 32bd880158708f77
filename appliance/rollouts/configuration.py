"""The configuration of this box: its own file, and over it what the release brought that serves.

Which one serves `state.db` says, in the same rows as the models that it came with: it is promoted and taken back in
their transactions, and every start finds it there.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from appliance import standing
from appliance.config import Config
from appliance.core.release import bucket
from appliance.errors import ReleaseInvalid
from appliance.release_config import with_release
from appliance.rollouts.records import Install
from appliance.standing import Brought
from appliance.state import State

log = structlog.get_logger("rollouts")


class ConfigurationReport(msgspec.Struct, frozen=True):
    """The release whose configuration serves. problem: why the file of the box serves alone all the same."""

    ring: str
    number: int
    problem: str | None


class SiteConfiguration:
    """file: the box's own. `look` is for one thread; any other may read what it found.

    serves: what a release brought, None: the file alone. fault: why that cannot be used, so that the file alone serves.
    on_change: told of a configuration that serves from now on.
    """

    def __init__(self, file: Config, state: State) -> None:
        self._file = file
        self._state = state
        self.on_change: Callable[[Config], None] = lambda _: None
        self.serves: Brought | None = None
        self.fault: str | None = None
        self.config = file
        self.look()

    def look(self) -> None:
        """At what was promoted or taken back, by whomever."""
        serves = standing.configuration(self._state)
        if serves == self.serves:
            return
        is_same, self.serves = standing.is_same(serves, self.serves), serves
        if is_same:
            return
        self.fault = None
        try:
            self.config = self.of(serves)
        except ReleaseInvalid as error:
            # It was good when it came: the file of the box, or the appliance, is another one now.
            self.config = self._file
            self.fault = f"What release {serves and serves.number} brought cannot be used, so it is left out: {error}"
            log.error("configuration_left_out", reason=str(error))
        log.info("configuration_serves", release=None if serves is None else serves.number)
        self.on_change(self.config)

    def report(self) -> ConfigurationReport | None:
        """None: the file of the box serves alone."""
        serves = self.serves
        return None if serves is None else ConfigurationReport(serves.ring, serves.number, self.fault)

    def brought(self, install: Install) -> Brought | None:
        """What is to serve with its models: a box that they are not for yet keeps what it has."""
        release = install.release
        if release is None or bucket(self._file.device, release.ring) >= release.percent:
            return self.serves
        if not release.configuration:
            return None
        return Brought(release.ring, release.number, release.configuration)

    def of(self, brought: Brought | None) -> Config:
        """Raises ReleaseInvalid with the key and the reason."""
        return self._file if brought is None else with_release(self._file, brought.content)

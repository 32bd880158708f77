"""What an install needs, and from where: each file once, by its hash, from this box itself wherever it has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from appliance.updater import local, staging
from appliance.updater.check import Version
from appliance.updater.download import Downloader, Wanted
from appliance.updater.fetch import Source
from appliance.updater.local import Local


class Plan:
    """missing: name -> version to install. roots: repositories that may hold some of its files. Writes nothing yet."""

    def __init__(self, models: Path, missing: Mapping[str, Version], roots: Iterable[Path]) -> None:
        self._models = models
        self._incoming = models / staging.INCOMING
        self._missing = missing
        wanted = [
            Wanted(file.sha256, file.bytes or 0)
            for version in missing.values()
            for file in version.manifest.files().values()
        ]
        here = Local(roots) if wanted else Local(())
        self._copies: dict[str, Path] = {}
        self._to_come: list[Wanted] = []
        for each in {each.sha256: each for each in wanted}.values():
            found = None if self._came(each.sha256) else here.find(each.sha256)
            if found is None:
                self._to_come.append(each)
            else:
                self._copies[each.sha256] = found
        downloader = Downloader(self._incoming, ())
        self.total = sum(each.bytes for each in self._to_come)
        """Bytes that come from a registry, those that came in an earlier run included."""
        self.left = self.total - sum(downloader.has(each) for each in self._to_come)
        """Of them, bytes that are still to come."""
        self.needed = self.left + sum(each.stat().st_size for each in self._copies.values())
        """Bytes that are still to be written."""

    def begin(self) -> None:
        """Make the folders, without what is left of something else or is damaged. Raises OSError."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        staging.clear(self._models / staging.STAGED)
        names = {each.sha256 for each in self._to_come}
        staging.clear(self._incoming, keep=names | {f"{name}.part" for name in names})
        for name in names:
            if self._came(name) and staging.sha256_of(self._incoming / name) != name:
                (self._incoming / name).unlink()

    def get(
        self,
        sources: Sequence[Source],
        rate_bytes_s: int | None,
        on_bytes: Callable[[int], None],
        sleep: Callable[[float], None],
    ) -> None:
        """Every file is in `.incoming/`, checked, when it returns. Raises RegistryUnavailable, Untrusted, OSError."""
        for sha256, path in self._copies.items():
            local.copy(path, self._incoming / sha256)
        downloader = Downloader(self._incoming, sources, rate_bytes_s=rate_bytes_s, on_bytes=on_bytes, sleep=sleep)
        for each in self._to_come:
            downloader.get(each)

    def stage(self, name: str) -> Path:
        """The version's own folder, whole and on the disk, not yet in the repository. Raises OSError."""
        version = self._missing[name]
        files = {path: self._incoming / file.sha256 for path, file in version.manifest.files().items()}
        return staging.stage(self._models, name, version.ref.version, version.content, files)

    def _came(self, sha256: str) -> bool:
        return (self._incoming / sha256).is_file()

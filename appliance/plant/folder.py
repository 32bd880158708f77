"""Pictures that a camera writes into a folder: the newest complete one, and none twice.

A file counts as complete when it ends as its format ends, so one that is still being written is left alone until it
does. What was there at the start is nobody's part. Which file is the newest is told by their change times among each
other; how old it is, by the monotonic clock from when it was seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from appliance.config import FolderCamera

GIVEN_UP_S = 5.0
"""A file that has not changed for so long and is not complete will not be."""

_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_UNFINISHED = (".tmp", ".part", ".filepart", ".crdownload")

_Identity = tuple[int, int, int]
"""Change time in ns, size, inode."""


class FolderWatch:
    """`look` is called again and again, by one thread. put: takes a picture that is complete."""

    def __init__(self, name: str, config: FolderCamera, put: Callable[[bytes], None]) -> None:
        self.name = name
        self.fault: str | None = None
        self._config = config
        self._put = put
        self._known: dict[str, _Identity] | None = None
        self._unfinished: dict[str, tuple[_Identity, float]] = {}
        self._folder_changed = 0
        self._newest: str | None = None
        self._again = True

    def look(self, now: float) -> None:
        """now: monotonic. A folder that cannot be read is told by `fault`."""
        try:
            changed = os.stat(self._config.path).st_mtime_ns
            # The time stamp of a folder is coarse: after each change one more look.
            if changed != self._folder_changed or self._again or self._unfinished or self._newest_changed():
                self._again = changed != self._folder_changed
                self._folder_changed = changed
                self._scan(now)
            self.fault = None
        except OSError as error:
            self.fault = f"{self._config.path}: {error.strerror}; give a folder that this user may read"

    def _scan(self, now: float) -> None:
        found: dict[str, _Identity] = {}
        with os.scandir(self._config.path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.endswith(_UNFINISHED):
                    continue
                try:
                    if entry.is_file():
                        found[entry.name] = _identity(entry.stat())
                except FileNotFoundError:
                    continue  # it was moved away just now
        known, self._known = self._known, found
        if known is None:
            self._newest = max(found, key=found.__getitem__, default=None)
            return
        fresh = [name for name, identity in found.items() if known.get(name) != identity]
        self._unfinished = {name: self._unfinished[name] for name in fresh if name in self._unfinished}
        taken = False
        for name in sorted(fresh, key=found.__getitem__, reverse=True):
            identity = found[name]
            if not taken and self._take(name, identity):
                taken = True
                self._newest = name
                self._unfinished.pop(name, None)
            elif not taken and not self._is_given_up(name, identity, now):
                # It is not known until it is complete.
                found.pop(name)

    def _take(self, name: str, identity: _Identity) -> bool:
        before = self._unfinished.get(name)
        if identity[1] > self._config.bytes_max or (before is not None and before[0] == identity):
            return False
        path = os.path.join(self._config.path, name)
        try:
            with open(path, "rb") as file:
                body = file.read(self._config.bytes_max + 1)
                same = _identity(os.fstat(file.fileno())) == identity
        except FileNotFoundError:
            return False
        if not same or not is_complete(body):
            return False
        self._put(body)
        return True

    def _is_given_up(self, name: str, identity: _Identity, now: float) -> bool:
        before = self._unfinished.get(name)
        if before is None or before[0] != identity:
            self._unfinished[name] = identity, now
            return False
        if now - before[1] < GIVEN_UP_S:
            return False
        del self._unfinished[name]
        return True

    def _newest_changed(self) -> bool:
        """Some cameras write the same file again and again, which does not change the folder."""
        if self._newest is None or self._known is None:
            return False
        try:
            found = os.stat(os.path.join(self._config.path, self._newest))
        except FileNotFoundError:
            return False
        return _identity(found) != self._known.get(self._newest)


def is_complete(body: bytes) -> bool:
    """Whether it begins and ends as a JPEG or PNG; NULs behind it do not count."""
    end = body[-1024:].rstrip(b"\0")
    return (body.startswith(_JPEG) and end.endswith(_JPEG_END)) or (body.startswith(_PNG) and end.endswith(_PNG_END))


def _identity(found: os.stat_result) -> _Identity:
    return found.st_ctime_ns, found.st_size, found.st_ino

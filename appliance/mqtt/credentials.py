"""Who may come, as it is on disk: the users file and the certificates, read again when they change.

A file is read again when it has changed and then stayed the same for one look, so that none is read half written.
What cannot be used changes nothing: the listener goes on with what it had, and says why.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import msgspec

from appliance.config import ListenerConfig
from appliance.mqtt.access import Users
from appliance.mqtt.tls import make_context

_Marks = tuple[tuple[int, int, int] | None, ...]


class Credentials(msgspec.Struct, frozen=True):
    """users: None where nobody has to log in. context: None where the listener speaks plainly."""

    users: Users | None
    context: ssl.SSLContext | None


class CredentialFiles:
    """`changed` is for one thread; `read` may be called from any, and takes about 50 ms."""

    def __init__(self, config: ListenerConfig) -> None:
        self._config = config
        named = (config.users_file, config.cert_file, config.key_file, config.client_ca_file)
        self._paths = tuple(each for each in named if each is not None)
        self._read = self._seen = self._marks()

    def read(self) -> Credentials:
        """Raises ConfigError with the file, and what is wrong with it."""
        config = self._config
        users = None if config.users_file is None else Users.read(Path(config.users_file))
        return Credentials(users, make_context(config))

    def changed(self) -> bool:
        """Whether there is something new to read; says so once for each change."""
        marks = self._marks()
        steady, self._seen = marks == self._seen, marks
        if not steady or marks == self._read:
            return False
        self._read = marks
        return True

    def _marks(self) -> _Marks:
        return tuple(_mark(each) for each in self._paths)


def _mark(path: str) -> tuple[int, int, int] | None:
    """None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

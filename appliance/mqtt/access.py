"""Who may connect to the listener, and on which topics: users, client certificates, the access list.

A line of the users file is `name:scrypt:N:r:p:salt:hash`, salt and hash in base64 (scrypt: RFC 7914); empty lines and
lines that begin with `#` are skipped. `appliance keys listener-user` makes such a line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from appliance.config import AccessConfig, ListenerConfig
from appliance.errors import AddressRefused, ConfigError
from appliance.mqtt.topics import covers, matches, shared_filter

NAME_CHARS_MAX = 256
PASSWORD_BYTES_MAX = 1024

_N, _R, _P = 1 << 14, 8, 1
"""16 MiB and about 50 ms for one password."""
_SCRYPT_BYTES_MAX = 64 << 20
_HASH_BYTES = 32
_PROVEN_MAX = 10_000


class Secret(msgspec.Struct, frozen=True):
    """What is kept of a password: `n`, `r` and `p` are the costs of scrypt."""

    n: int
    r: int
    p: int
    salt: bytes
    hash: bytes

    def fits(self, password: bytes) -> bool:
        """Slow on purpose."""
        return hmac.compare_digest(_scrypt(password, self.salt, self.n, self.r, self.p), self.hash)


class Users:
    """Names and their passwords' hashes. `check` may be called from any thread, `proven` is for the listener's own."""

    def __init__(self, secrets_of: Mapping[str, Secret]) -> None:
        self._secrets = dict(secrets_of)
        self._nobody = make_secret("")
        # A device comes back many times a day: what was right once is known by a digest that this process alone makes.
        self._key = secrets.token_bytes(32)
        self._proven: set[bytes] = set()

    @classmethod
    def read(cls, path: Path) -> Users:
        """Raises ConfigError with file and line."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"listener.users_file {path}: {error}; give the path of a readable file") from error
        found: dict[str, Secret] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, rest = line.strip().partition(":")
            secret = _secret(rest)
            if secret is None or not valid_name(name) or name in found:
                raise ConfigError(
                    f"listener.users_file {path}, line {number}: expected name:scrypt:N:r:p:salt:hash, each name once;"
                    " make a line with: appliance keys listener-user NAME"
                )
            found[name] = secret
        return cls(found)

    def proven(self, name: str, password: bytes) -> bool:
        """Whether `check` has found them right before."""
        return self._digest(name, password) in self._proven

    def check(self, name: str, password: bytes) -> bool:
        """An unknown name takes as long as a wrong password."""
        secret = self._secrets.get(name)
        right = (secret or self._nobody).fits(password[:PASSWORD_BYTES_MAX]) and secret is not None
        if right:
            if len(self._proven) >= _PROVEN_MAX:
                self._proven = set()
            self._proven.add(self._digest(name, password))
        return right

    def agrees(self, other: Users, name: str) -> bool:
        """Whether both know `name`, with the same password."""
        secret = self._secrets.get(name)
        return secret is not None and secret == other._secrets.get(name)

    def _digest(self, name: str, password: bytes) -> bytes:
        text = name.encode()
        return hashlib.blake2b(len(text).to_bytes(4, "big") + text + password, key=self._key, digest_size=16).digest()


class Rules:
    """What one client may do: topic filters, its own name filled in."""

    def __init__(self, publish: tuple[str, ...], subscribe: tuple[str, ...]) -> None:
        self._publish = publish
        self._subscribe = subscribe

    def may_publish(self, topic: str) -> bool:
        return any(matches(allowed, topic) for allowed in self._publish)

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether all that `topic_filter` matches is allowed; of a shared subscription the filter in it counts."""
        shared = shared_filter(topic_filter)
        wanted = topic_filter if shared is None else shared[1]
        return any(covers(allowed, wanted) for allowed in self._subscribe)


def rules_for(entries: Iterable[AccessConfig], client: str, user: str | None) -> Rules | None:
    """The entries that name the client or its user, and those for everybody; None: there is no list, all is allowed."""
    publish: list[str] = []
    subscribe: list[str] = []
    listed = False
    for entry in entries:
        listed = True
        if entry.client not in (None, client) or entry.user not in (None, user):
            continue
        publish += _filled(entry.publish, client, user)
        subscribe += _filled(entry.subscribe, client, user)
    return Rules(tuple(publish), tuple(subscribe)) if listed else None


def valid_name(name: str) -> bool:
    return 0 < len(name) <= NAME_CHARS_MAX and ":" not in name and not name.startswith("#") and name.isprintable()


def make_secret(password: str) -> Secret:
    salt = secrets.token_bytes(16)
    return Secret(_N, _R, _P, salt, _scrypt(password.encode(), salt, _N, _R, _P))


def user_line(name: str, password: str) -> str:
    """A line of the users file. Raises ConfigError for a name or a password that cannot be used."""
    if not valid_name(name):
        raise ConfigError(f"{name!r} is no name for a user: 1 to {NAME_CHARS_MAX} characters, no colon, no # in front")
    if not 0 < len(password.encode()) <= PASSWORD_BYTES_MAX:
        raise ConfigError(f"a password has 1 to {PASSWORD_BYTES_MAX} bytes")
    secret = make_secret(password)
    salt, digest = (base64.b64encode(each).decode() for each in (secret.salt, secret.hash))
    return f"{name}:scrypt:{secret.n}:{secret.r}:{secret.p}:{salt}:{digest}"


def check_exposed(config: ListenerConfig) -> None:
    """For a listener that other machines can reach. Raises AddressRefused without users and TLS."""
    if config.users_file is None and config.client_ca_file is None:
        raise AddressRefused(
            f"listener.host is {config.host!r}: other machines reach it only with users;"
            " set listener.users_file (appliance keys listener-user makes its lines), or use 127.0.0.1"
        )
    if config.cert_file is None and not config.plain:
        raise AddressRefused(
            f"listener.host is {config.host!r}: passwords would cross the network in the open;"
            " set listener.cert_file and listener.key_file, or listener.plain = true if you accept that"
        )


def _filled(filters: Iterable[str], client: str, user: str | None) -> list[str]:
    """`%c` and `%u` replaced; a name that would widen the filter fills none, so that nobody is let in by its name."""
    found = []
    for each in filters:
        for mark, name in (("%c", client), ("%u", user)):
            if mark not in each:
                continue
            if not name or {"+", "#", "/"} & set(name):
                break
            each = each.replace(mark, name)
        else:
            found.append(each)
    return found


def _secret(text: str) -> Secret | None:
    try:
        kind, n, r, p, salt, digest = text.split(":")
        secret = Secret(
            int(n), int(r), int(p), base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
        )
    except (ValueError, binascii.Error):
        return None
    sound = (
        kind == "scrypt"
        and secret.n > 1
        and secret.n & (secret.n - 1) == 0
        and 0 < secret.r <= 32
        and 0 < secret.p <= 16
        and 128 * secret.n * secret.r <= _SCRYPT_BYTES_MAX
        and len(secret.salt) >= 8
        and len(secret.hash) == _HASH_BYTES
    )
    return secret if sound else None


def _scrypt(password: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    # OpenSSL counts a little more than the blocks themselves.
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, dklen=_HASH_BYTES, maxmem=2 * _SCRYPT_BYTES_MAX)

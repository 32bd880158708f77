"""The one configuration file, `appliance.toml`, and the options of `appliance serve` that overrule it.

`load` is the only reader of the file and of the environment. Every part of the appliance receives its own section,
already valid: unknown keys, wrong types and out-of-range values are refused with file, key and reason.
"""

from __future__ import annotations

import os
import re
import socket
import sysconfig
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from appliance.core.manifest import Name, Precision
from appliance.core.verdict import VerdictRule
from appliance.errors import ConfigError

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Identifier = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class HttpConfig(_Section, frozen=True, kw_only=True):
    """Port 0 takes a free one. `body_bytes_max` bounds an upload, `pixels_max` the picture inside it."""

    host: str = "127.0.0.1"
    port: Port = 8080
    body_bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 16 << 20
    sse_clients_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 64
    body_s_max: Seconds = 30.0
    """How long a caller may take to send its body."""
    cache_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 32)] = 0
    """Memory for answers to inputs that were judged before; 0: none is kept."""


class ListenerConfig(_Section, frozen=True, kw_only=True):
    """The built-in MQTT listener. Limits are per listener unless they say otherwise."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 1883
    clients_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    packet_bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=256 << 20)] = 16 << 20
    receive_max: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 100
    """Messages of one client that may be unacknowledged at once."""
    session_expiry_s_max: Annotated[int, msgspec.Meta(ge=0, le=31_536_000)] = 7 * 86_400
    queue_messages_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    """Messages that may wait for one subscriber; the oldest go first."""
    retained_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    keep_alive_s_max: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 3600


class BrokerConfig(_Section, frozen=True, kw_only=True):
    """A site broker that the appliance connects to; leave the section out to have none."""

    host: str
    port: Port = 1883
    client_id: Identifier | None = None
    """Fixed, so that the session survives restarts; the device name unless given."""
    username: str | None = None
    password_file: str | None = None
    receive_max: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1000
    session_expiry_s: Annotated[int, msgspec.Meta(ge=0)] = 7 * 86_400
    keep_alive_s: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 30
    reconnect_s_max: Seconds = 30.0


class LanesConfig(_Section, frozen=True, kw_only=True):
    """lanes: inferences that run at once on a device, 0: as many as its cores can feed. waiting_max: requests of one
    model that may wait. timeout_s: waiting and running together.
    memory_bytes_max: what all models together may take, 0: three quarters of the memory that this process may have.
    """

    lanes: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    waiting_max: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64
    timeout_s: Seconds = 5.0
    memory_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 0


class CompiledConfig(_Section, frozen=True, kw_only=True):
    """Compiled models kept on disk, so that the next start is fast; `bytes_max` 0 keeps none."""

    bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 512 << 20


class DelegateConfig(_Section, frozen=True, kw_only=True):
    """A TFLite delegate: a shared library that runs (parts of) a network elsewhere. Only this file can name one."""

    path: str
    options: dict[str, str] = {}


class TfliteConfig(_Section, frozen=True, kw_only=True):
    """threads: of one inference, 0: one. delegates: tried in this order; without any, XNNPACK on the CPU."""

    threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    delegates: tuple[DelegateConfig, ...] = ()


class EndpointConfig(_Section, frozen=True, kw_only=True):
    """A server that speaks the Open Inference Protocol over HTTP. lanes: requests that are with it at once.

    token_file: its content is sent as a bearer token. ca_file: trust this authority instead of the system's.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/]+")]
    lanes: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    timeout_s: Seconds = 5.0
    token_file: str | None = None
    ca_file: str | None = None


class StoreConfig(_Section, frozen=True, kw_only=True):
    """Retention by age; the disk keeps `free_bytes_min` for everybody else."""

    results_days: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    readings_hours: Annotated[float, msgspec.Meta(gt=0)] = 24.0
    images_days: Annotated[float, msgspec.Meta(gt=0)] = 7.0
    dead_letters_days: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    outbox_rows_max: Annotated[int, msgspec.Meta(ge=1000)] = 200_000
    """Results that may wait for a site broker that is away; the oldest go first, as they are still in the store."""
    free_bytes_min: Annotated[int, msgspec.Meta(ge=0)] = 64 << 20
    linger_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """How long a group commit waits for company: spares flash, costs latency."""
    segment_bytes: Annotated[int, msgspec.Meta(ge=1 << 16, le=1 << 30)] = 64 << 20


class ModelConfig(_Section, frozen=True, kw_only=True):
    """What the site decides about one model.

    variant, precision, performance: overrule what was measured on this box; `latency` and `throughput` name the one
    gear to use. device: `CPU`, `GPU`, `NPU` or `AUTO`, for OpenVINO; one that does not work falls back to the CPU.
    batch_max: requests that may share one call, 0: as measured. weight: its share of the lanes when models compete.
    durable: answer an upload only after its result is committed.
    """

    variant: Name | None = None
    performance: Literal["auto", "latency", "throughput"] = "auto"
    precision: Literal["auto"] | Precision = "auto"
    device: Annotated[str, msgspec.Meta(pattern=r"^(CPU|GPU(\.[0-9])?|NPU|AUTO)$")] = "CPU"
    batch_max: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    durable: bool = False


class RouteConfig(_Section, frozen=True, kw_only=True):
    """A topic filter and the model its messages are for.

    source: name of the source; left out, the topic levels that `+` and `#` matched, joined by `-`.
    key_field, key_property: where a publisher's key of the message is: a dotted path in a JSON payload, or an MQTT 5
    user property. With a key a message is never recorded twice.
    values: dotted path of the readings in a JSON object. hop: samples between the starts of two windows (left out:
    the window's size). retain_as_reading: take a retained message that is sent on subscribe as a new one.
    expires_ms: a picture that is not judged so long after it came, or a window so long after its last reading came, is
    not judged any more; its result says `expired`. priority: `backlog` lets live streams pass.
    """

    name: Identifier
    topic: str
    model: Name
    source: Identifier | None = None
    key_field: str | None = None
    key_property: str | None = None
    values: str = "values"
    hop: Annotated[int, msgspec.Meta(ge=1)] | None = None
    retain_as_reading: bool = False
    expires_ms: Annotated[int, msgspec.Meta(ge=1, le=86_400_000)] | None = None
    priority: Literal["live", "backlog"] = "live"
    verdict: VerdictRule | None = None

    def __post_init__(self) -> None:
        if not valid_filter(self.topic):
            raise ValueError(f"topic {self.topic!r} is not an MQTT topic filter ('+' and '#' stand alone, '#' last)")
        if self.key_field is not None and self.key_property is not None:
            raise ValueError("give key_field or key_property, not both")


class Config(_Section, frozen=True, kw_only=True):
    """The whole file. `recipes` maps recipe -> model -> what it changes in the verdict rule.

    device, data_dir: `load` fills in the host's name, and systemd's StateDirectory or ./appliance-data.
    """

    device: Identifier = ""
    data_dir: str = ""
    models_dir: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    http: HttpConfig = HttpConfig()
    listener: ListenerConfig = ListenerConfig()
    broker: BrokerConfig | None = None
    lanes: LanesConfig = LanesConfig()
    store: StoreConfig = StoreConfig()
    compiled: CompiledConfig = CompiledConfig()
    tflite: TfliteConfig = TfliteConfig()
    endpoints: dict[Identifier, EndpointConfig] = {}
    pixels_max: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)] = 50_000_000
    ready_requires: tuple[Name, ...] = ()
    tune: bool = True
    """Measure a model that this box has not seen before, and run it the way that is best here."""
    models: dict[Name, ModelConfig] = {}
    recipes: dict[Identifier, dict[Name, VerdictRule]] = {}
    routes: tuple[RouteConfig, ...] = ()

    def __post_init__(self) -> None:
        names = [route.name for route in self.routes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two entries of `routes` have the name {name!r}; each needs its own")


def named_models(config: Config) -> list[tuple[str, str]]:
    """Where the configuration names a model, and the name: a model may be installed later, so none is refused here."""
    return [
        *(("ready_requires", name) for name in config.ready_requires),
        *((f"route {route.name}", route.model) for route in config.routes),
        *((f"[models.{name}]", name) for name in config.models),
        *((f"recipe {recipe}", name) for recipe, models in config.recipes.items() for name in models),
    ]


def load(
    path: Path | None = None,
    *,
    data_dir: str | None = None,
    models_dir: str | None = None,
    host: str | None = None,
    port: int | None = None,
) -> Config:
    """Read `path` (none: all defaults), then apply the options that are given.

    Raises ConfigError with file, key and reason.
    """
    config = Config() if path is None else _read(path)
    http = config.http
    if host is not None:
        http = msgspec.structs.replace(http, host=host)
    if port is not None:
        http = msgspec.structs.replace(http, port=port)
    return msgspec.structs.replace(
        config,
        http=http,
        device=config.device or _device_name(),
        data_dir=data_dir or config.data_dir or os.environ.get("STATE_DIRECTORY") or "appliance-data",
        models_dir=models_dir or config.models_dir,
    )


def _read(path: Path) -> Config:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Config)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give --config the path of a readable file") from error
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def shipped_models_dir() -> Path:
    """The models that travel with the appliance: beside the source tree, or in the installed data folder."""
    beside = Path(__file__).resolve().parent.parent / "models"
    if beside.is_dir():
        return beside
    return Path(sysconfig.get_path("data")) / "share" / "edge-inference-appliance" / "models"


def valid_filter(topic: str) -> bool:
    """Whether `topic` is an MQTT topic filter (MQTT 5, section 4.7.1)."""
    levels = topic.split("/")
    return (
        0 < len(topic.encode()) <= 65_535
        and "\0" not in topic
        and all(level in ("+", "#") or not ({"+", "#"} & set(level)) for level in levels)
        and "#" not in levels[:-1]
    )


def _device_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-.")[:64]
    return name or "appliance"

"""The one configuration file, `appliance.toml`, and the options of `appliance serve` that overrule it.

`load` is the only reader of the file and of the environment. Every part of the appliance receives its own section,
already valid: unknown keys, wrong types and out-of-range values are refused with file, key and reason.
"""

from __future__ import annotations

import os
import re
import socket
import sysconfig
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from appliance.core.area import Mask
from appliance.core.manifest import Name, Precision
from appliance.core.privacy import Images
from appliance.core.recipe import Recipe
from appliance.core.release import Ring, Window
from appliance.core.verdict import Verdict, VerdictRule
from appliance.errors import ConfigError
from appliance.readings_config import ReadingsConfig

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Identifier = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
EventKind = Literal["alarm", "dead_letter", "recipe", "trigger", "update"]

DATABASE_BYTES_LEAST = 1 << 20


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class HttpConfig(_Section, frozen=True, kw_only=True):
    """Port 0 takes a free one. `body_bytes_max` bounds an upload, `pixels_max` the picture inside it."""

    host: str = "127.0.0.1"
    port: Port = 8080
    body_bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 16 << 20
    bodies_bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=1 << 34)] = 256 << 20
    """Of all uploads together that are not answered yet: what is beyond answers 503 `overloaded`."""
    sse_clients_max: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 64
    body_s_max: Seconds = 30.0
    """How long a caller may take to send its body."""
    cache_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 32)] = 0
    """Memory for answers to inputs that were judged before; 0: none is kept."""

    def __post_init__(self) -> None:
        if self.bodies_bytes_max < self.body_bytes_max:
            raise ValueError(
                f"bodies_bytes_max is {self.bodies_bytes_max}, less than the {self.body_bytes_max} of one upload "
                "(body_bytes_max)"
            )


class AccessConfig(_Section, frozen=True, kw_only=True):
    """What clients of the listener may do. user, client: a user's name, a client id; without either, everybody.

    publish, subscribe: topic filters, in which `%c` stands for the client id and `%u` for the user. As soon as there is
    one entry, only what entries allow is allowed.
    """

    user: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    client: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for topic in (*self.publish, *self.subscribe):
            if not valid_filter(topic):
                raise ValueError(f"{topic!r} is not an MQTT topic filter ('+' and '#' stand alone, '#' last)")


class ListenerConfig(_Section, frozen=True, kw_only=True):
    """The built-in MQTT listener. Limits are per listener unless they say otherwise.

    cert_file, key_file: TLS, both PEM. client_ca_file: clients must show a certificate of this authority; the common
    name in it is their user. users_file: clients must log in; `appliance keys listener-user` makes its lines. These
    files are read again when they change. plain: other machines may log in without TLS.
    """

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
    queue_bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=1 << 32)] = 32 << 20
    """What may wait for one subscriber; a single message that is larger still waits."""
    queues_bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=1 << 36)] = 256 << 20
    """What may wait for all subscribers together."""
    subscriptions_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    """Of one client."""
    retained_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    retained_bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=1 << 32)] = 64 << 20
    keep_alive_s_max: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 3600
    connections_per_s_max: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 200.0
    """New connections, of all clients; twice as many as there may be clients can come at once, as after a power cut."""
    connections_per_s_per_address_max: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 50.0
    cert_file: str | None = None
    key_file: str | None = None
    client_ca_file: str | None = None
    users_file: str | None = None
    plain: bool = False
    access: tuple[AccessConfig, ...] = ()

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both or none")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("client_ca_file needs TLS; give cert_file and key_file as well")


class BrokerConfig(_Section, frozen=True, kw_only=True):
    """A site broker that the appliance connects to; leave the section out to have none.

    MQTT 5; with a broker that knows only 3.1.1, that. tls: encrypted, commonly on port 8883. ca_file: trust this
    authority instead of the system's. cert_file, key_file: what this box shows of itself, where the broker asks for it;
    PEM, key_file may be left out when cert_file holds both.
    """

    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    client_id: Identifier | None = None
    """Fixed, so that the session survives restarts; the device name unless given."""
    username: str | None = None
    password_file: str | None = None
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    receive_max: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1000
    """Messages that the broker may send before the first of them is acknowledged (MQTT 5)."""
    session_expiry_s: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)] = 7 * 86_400
    """How long the broker keeps messages for a box that is away; 4294967295: for ever."""
    keep_alive_s: Annotated[int, msgspec.Meta(ge=2, le=3600)] = 30
    """A connection that is silent for twice as long is given up."""
    reconnect_s_max: Seconds = 30.0

    def __post_init__(self) -> None:
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file without username; give both")
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("ca_file, cert_file and key_file are for TLS; add tls = true")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file without cert_file; give both")


class UpstreamConfig(_Section, frozen=True, kw_only=True):
    """What goes to central, and how it waits while central is away.

    verdicts, models: the results that go; left out, all. events: beside them. images: pictures of the results that go
    and are `ng` or `review`. late_after_s: what waited longer is marked late, and lets newer rows pass.
    backlog_per_s: late rows a second. bytes_max, age_days_max: of what may wait. policy: what happens past bytes_max:
    the oldest go, or what is new is not queued; both are counted. retry_s_max: between two tries.
    image_bytes_max: a larger picture is left out. images_bytes_max: of the pictures that may wait.
    """

    verdicts: tuple[Verdict, ...] = ()
    models: tuple[Name, ...] = ()
    events: tuple[EventKind, ...] = ("alarm", "dead_letter", "recipe", "trigger", "update")
    images: bool = False
    late_after_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 30.0
    backlog_per_s: Annotated[float, msgspec.Meta(ge=1, le=100_000)] = 1000.0
    bytes_max: Annotated[int, msgspec.Meta(ge=1 << 16)] = 1 << 30
    age_days_max: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 90.0
    policy: Literal["drop_oldest", "reject_new"] = "drop_oldest"
    retry_s_max: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60.0
    image_bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=64 << 20)] = 4 << 20
    images_bytes_max: Annotated[int, msgspec.Meta(ge=1 << 16)] = 512 << 20
    images_bytes_per_s: Annotated[float, msgspec.Meta(ge=1024)] = 1 << 20


class MqttUpstream(UpstreamConfig, frozen=True, kw_only=True, tag_field="kind", tag="mqtt"):
    """Central's broker, QoS 1. broker: a connection of its own; left out, the one to the site broker, `[broker]`."""

    broker: BrokerConfig | None = None


class HttpsUpstream(UpstreamConfig, frozen=True, kw_only=True, tag_field="kind", tag="https"):
    """Batches are posted to `url`, pictures put to `<url>/images/<device>/<result>`. Redirects are not followed.

    plain `http:` is for loopback only. token_file: its content is sent as a bearer token. ca_file: trust this authority
    instead of the system's. cert_file, key_file: the box's own certificate. timeout_s: of one request.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/@]+(/|$)")]
    token_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0
    batch_rows: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    batch_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 << 20)] = 1 << 20

    def __post_init__(self) -> None:
        host = urlsplit(self.url).hostname or ""
        if self.url.startswith("http:") and host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"url {self.url!r} would send results and token in the clear; use https")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file without cert_file; give both")


AnyUpstream = MqttUpstream | HttpsUpstream


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
    """Retention by age and by bytes; the disk keeps `free_bytes_min` for everybody else.

    database_bytes_max, images_bytes_max: what results and readings, and what pictures may take; 0: half, and a quarter,
    of the disk. From 90% of it on the oldest go before their time. check_s_max: how long a start may examine the
    database after an unclean stop; 0: not at all. network_disk: use the data folder although it is on a network file
    system, where an acknowledged message may be lost.
    """

    database_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 0
    images_bytes_max: Annotated[int, msgspec.Meta(ge=0)] = 0
    check_s_max: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0
    network_disk: bool = False
    results_days: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    readings_hours: Annotated[float, msgspec.Meta(gt=0)] = 24.0
    images_days: Annotated[float, msgspec.Meta(gt=0)] = 7.0
    dead_letters_days: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    free_bytes_min: Annotated[int, msgspec.Meta(ge=0)] = 64 << 20
    linger_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """How long a group commit waits for company: spares flash, costs latency. Every commit writes some 30 KB, whether
    it holds one row or a hundred; `/v1/status` says what is written in a day."""
    segment_bytes: Annotated[int, msgspec.Meta(ge=1 << 16, le=1 << 30)] = 64 << 20

    def __post_init__(self) -> None:
        if 0 < self.database_bytes_max < DATABASE_BYTES_LEAST:
            raise ValueError(
                f"database_bytes_max is {self.database_bytes_max}; give at least {DATABASE_BYTES_LEAST} bytes, or 0 "
                "for half the disk"
            )


class ModelConfig(_Section, frozen=True, kw_only=True):
    """What the site decides about one model.

    variant, precision, performance: overrule what was measured on this box; `latency` and `throughput` name the one
    gear to use. device: `CPU`, `GPU`, `NPU` or `AUTO`, for OpenVINO; one that does not work falls back to the CPU.
    batch_max: requests that may share one call, 0: as measured. weight: its share of the lanes when models compete.
    durable: answer an upload only after its result is committed. verdict: changes the rule of its manifest.
    """

    variant: Name | None = None
    performance: Literal["auto", "latency", "throughput"] = "auto"
    precision: Literal["auto"] | Precision = "auto"
    device: Annotated[str, msgspec.Meta(pattern=r"^(CPU|GPU(\.[0-9])?|NPU|AUTO)$")] = "CPU"
    batch_max: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    durable: bool = False
    verdict: VerdictRule | None = None


class RouteConfig(ReadingsConfig, frozen=True, kw_only=True):
    """A topic filter and the model its messages are for.

    source: name of the source. source_level: the level of the topic that names it, counted from 1. Without both, the
    topic levels that `+` and `#` matched, joined by `-`.
    key_field, key_property: where a publisher's key of the message is: a dotted path in a JSON payload, or an MQTT 5
    user property. With a key a message is never recorded twice.
    retain_as_reading: take a retained message that is sent on subscribe as a new one.
    share_group: at the site broker, boxes with the same group share the messages, each of which goes to one of them.
    expires_ms: a picture that is not judged so long after it came, or a window so long after its last reading came, is
    not judged any more; its result says `expired`. priority: `backlog` lets live streams pass.
    """

    name: Identifier
    topic: str
    model: Name
    source: Identifier | None = None
    source_level: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    key_field: str | None = None
    key_property: str | None = None
    retain_as_reading: bool = False
    share_group: Identifier | None = None
    expires_ms: Annotated[int, msgspec.Meta(ge=1, le=86_400_000)] | None = None
    priority: Literal["live", "backlog"] = "live"
    verdict: VerdictRule | None = None
    also: tuple[Literal["flat", "packed"], ...] = ()
    """Forms in which its results are published beside JSON, for PLCs."""

    def __post_init__(self) -> None:
        ReadingsConfig.__post_init__(self)
        if not valid_filter(self.topic):
            raise ValueError(f"topic {self.topic!r} is not an MQTT topic filter ('+' and '#' stand alone, '#' last)")
        if self.key_field is not None and self.key_property is not None:
            raise ValueError("give key_field or key_property, not both")
        if self.source_level is not None:
            if self.source is not None:
                raise ValueError("give source or source_level, not both")
            levels = self.topic.split("/")
            if self.source_level > len(levels) and levels[-1] != "#":
                raise ValueError(f"source_level {self.source_level}: topic {self.topic!r} has {len(levels)} levels")

    @property
    def subscription(self) -> str:
        """The filter that the site broker is asked for (MQTT 5, section 4.8.2)."""
        return self.topic if self.share_group is None else f"$share/{self.share_group}/{self.topic}"


class SourceConfig(_Section, frozen=True, kw_only=True):
    """What holds for one source, whatever its route.

    images: whose pictures are kept: all, those judged `ng` or `review`, or none. images_days: for how long, where that
    is shorter than `store.images_days`. masks: painted black before a picture is judged, kept or sent anywhere.
    expected_every_s: an alarm when nothing came for so long. dark_below: of the mean brightness, 0 to 1.
    blurred_below: of the sharpness that `/v1/status` shows. An alarm is raised after three such pictures in a row.
    """

    images: Images = "all"
    images_days: Annotated[float, msgspec.Meta(gt=0)] | None = None
    masks: tuple[Mask, ...] = ()
    expected_every_s: Annotated[float, msgspec.Meta(gt=0, le=31_536_000)] | None = None
    dark_below: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    blurred_below: Annotated[float, msgspec.Meta(gt=0)] | None = None


class HttpCamera(_Section, frozen=True, kw_only=True, tag_field="kind", tag="http"):
    """A camera that gives a picture at a URL. Only URLs that stand here are asked, and no redirect is followed.

    username, password_file: HTTP basic authentication. ca_file: trust this authority instead of the system's.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^/@]+(/|$)")]
    timeout_ms: Annotated[int, msgspec.Meta(ge=10, le=30_000)] = 2000
    bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=256 << 20)] = 16 << 20
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None


class FolderCamera(_Section, frozen=True, kw_only=True, tag_field="kind", tag="folder"):
    """A camera that writes its pictures into a folder; the newest complete one counts. Nothing is deleted there."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    bytes_max: Annotated[int, msgspec.Meta(ge=1024, le=256 << 20)] = 16 << 20


class MqttCamera(_Section, frozen=True, kw_only=True, tag_field="kind", tag="mqtt"):
    """A camera that publishes its pictures; the last one is held in memory."""

    topic: str

    def __post_init__(self) -> None:
        _check_topic(self.topic)


CameraConfig = HttpCamera | FolderCamera | MqttCamera


class TriggerConfig(_Section, frozen=True, kw_only=True):
    """A signal that asks for the verdict of one part.

    topic: of MQTT, without wildcards; `appliance/<device>/cmd/trigger/<name>` and `POST /v1/triggers/<name>` work
    always. cameras: one picture of each, judged by `model`; the worst verdict is the answer's. frame_age_ms_max: no
    picture that came earlier than so long before the trigger is used. answer_within_ms: from the trigger to its answer.
    """

    name: Identifier
    cameras: Annotated[tuple[Identifier, ...], msgspec.Meta(min_length=1, max_length=16)]
    model: Name
    topic: str | None = None
    answer_within_ms: Annotated[int, msgspec.Meta(ge=20, le=60_000)] = 1000
    frame_age_ms_max: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 200
    answer_format: Literal["json", "flat", "packed"] = "json"

    def __post_init__(self) -> None:
        if self.topic is not None:
            _check_topic(self.topic)
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"trigger {self.name} names a camera twice; each gives one picture")


def _check_registry(url: str | None) -> None:
    """Raises ValueError unless an update may come from there."""
    if url is None:
        return
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if (parts.scheme != "https" and not (parts.scheme == "http" and local)) or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a registry; give https://..., or http://127.0.0.1... on this box")


class UpdatesConfig(_Section, frozen=True, kw_only=True):
    """Where signed model updates come from, and how a box takes them.

    url, mirrors: addresses of registries, asked in this order; https, or http on loopback. root: the file of the root
    metadata that this box trusts first; with it the box is provisioned. ca: a file of certificates, in place of the
    system's. ring: which releases are for this box.
    """

    url: str | None = None
    mirrors: tuple[str, ...] = ()
    root: str | None = None
    ca: str | None = None
    ring: Ring = "stable"
    every_s: Annotated[float, msgspec.Meta(ge=10, le=604_800)] = 3_600.0
    """Between two polls of the timer."""
    spread_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 1_800.0
    """Over which the boxes that were switched on together spread their polls."""
    rate_bytes_s: Annotated[int, msgspec.Meta(ge=1024)] | None = None
    """Of the download; None: as fast as it comes."""
    window: Window | None = None
    """When this box may switch, beside the window of the release."""
    import_key: str | None = None
    """A file with the public key (PEM, ed25519) that a provisioned box takes `models import` from."""
    selftest_s: Seconds = 60.0
    selftest_mb: Annotated[int, msgspec.Meta(ge=64, le=1 << 20)] = 1024
    """Millions of bytes that a self-test may take."""

    def __post_init__(self) -> None:
        for url in (self.url, *self.mirrors):
            _check_registry(url)
        if self.url is not None and self.root is None:
            raise ValueError("url needs `root`, the file of the root metadata that came with the box")


class Config(_Section, frozen=True, kw_only=True):
    """The whole file. In it `[recipes.<recipe>.<model>]` changes the verdict rule; beside the models there are `routes`
    and `sources`, which may change the model and the part of the picture as well. `sources`: rules of each source.

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
    recipes: dict[Identifier, Recipe] = {}
    sources: dict[Identifier, SourceConfig] = {}
    routes: tuple[RouteConfig, ...] = ()
    cameras: dict[Identifier, CameraConfig] = {}
    upstreams: dict[Identifier, AnyUpstream] = {}
    triggers: tuple[TriggerConfig, ...] = ()
    updates: UpdatesConfig = UpdatesConfig()

    def __post_init__(self) -> None:
        _check_triggers(self)
        _check_upstreams(self)
        names = [route.name for route in self.routes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two entries of `routes` have the name {name!r}; each needs its own")


def named_models(config: Config) -> list[tuple[str, str]]:
    """Where the configuration names a model, and the name: a model may be installed later, so none is refused here."""
    return [
        *(("ready_requires", name) for name in config.ready_requires),
        *((f"route {route.name}", route.model) for route in config.routes),
        *((f"trigger {trigger.name}", trigger.model) for trigger in config.triggers),
        *((f"[models.{name}]", name) for name in config.models),
        *((f"recipe {recipe}", name) for recipe, what in config.recipes.items() for name in what.named_models()),
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
        return msgspec.convert(_with_recipes(tomllib.loads(path.read_bytes().decode())), Config)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give --config the path of a readable file") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _with_recipes(content: dict[str, Any]) -> dict[str, Any]:
    """The file's content with the models of each recipe, which stand beside `routes` and `sources`, put together."""
    recipes = content.get("recipes")
    if not isinstance(recipes, dict):
        return content
    return {**content, "recipes": {name: recipe_of(table) for name, table in recipes.items()}}


def recipe_of(table: Any) -> Any:
    """A recipe as the file has it -> as `Recipe` has it. Anything that is no table is left as it is."""
    if not isinstance(table, dict):
        return table
    places = {name: table[name] for name in ("routes", "sources") if name in table}
    return {**places, "models": {name: rule for name, rule in table.items() if name not in places}}


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


def _check_topic(topic: str) -> None:
    """Raises ValueError unless it is a topic that can be published to."""
    if not valid_filter(topic) or {"+", "#"} & set(topic):
        raise ValueError(f"topic {topic!r} is not an MQTT topic without wildcards; name the one topic")


def _check_triggers(config: Config) -> None:
    """Raises ValueError: names and topics that clash, cameras that are not there."""
    names = [route.name for route in config.routes] + [trigger.name for trigger in config.triggers]
    topics = [each.topic for each in config.triggers if each.topic is not None]
    for trigger in config.triggers:
        if names.count(trigger.name) > 1:
            raise ValueError(f"trigger {trigger.name!r}: a route or another trigger has this name; each needs its own")
        if trigger.topic is not None and topics.count(trigger.topic) > 1:
            raise ValueError(f"two triggers have the topic {trigger.topic!r}; each needs its own")
        for camera in trigger.cameras:
            if camera not in config.cameras:
                there = ", ".join(config.cameras) or "none"
                raise ValueError(f"trigger {trigger.name} names camera {camera!r}; the cameras are {there}")


def _check_upstreams(config: Config) -> None:
    """Raises ValueError: a connection that is not there, or that two would share."""
    shared = [name for name, each in config.upstreams.items() if isinstance(each, MqttUpstream) and each.broker is None]
    if shared and config.broker is None:
        raise ValueError(f"upstream {shared[0]} has no broker, and there is no [broker] to share; add one of them")
    if len(shared) > 1:
        raise ValueError(
            f"upstreams {' and '.join(shared)} share the site broker; give all but one a broker of its own"
        )


def _device_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-.")[:64]
    return name or "appliance"

"""Whether this box can do its work, proven where it can be: by an inference, a write, a connection, a hash."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from appliance import hardware
from appliance.config import Config, DelegateConfig
from appliance.core.manifest import WindowPreprocess
from appliance.errors import ApplianceError, ConfigError, ModelError, ModelLoadError
from appliance.repository import check_files, model_roots, scan
from appliance.trust import trust_of

_EARLIEST_S = 1_767_225_600.0
"""2026-01-01: a clock that shows less was not set since the box got its power."""
_LATEST_S = 4_102_444_800.0
"""2100-01-01."""
_CONNECT_S = 3.0
_ENDPOINT_S = 2.0
_MEMORY_BYTES_MIN = 512 << 20
_VOLATILE = frozenset({"tmpfs", "ramfs"})
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})


class Check(msgspec.Struct, frozen=True):
    """One thing looked at. needed: the box cannot work without it. todo: what to do, empty when all is well."""

    name: str
    ok: bool
    found: str
    todo: str = ""
    needed: bool = True


class Report(msgspec.Struct, frozen=True):
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that the box needs is there."""
        return all(check.ok for check in self.checks if check.needed)


def examine(
    config: Config,
    *,
    runtime: Any = None,
    now: Callable[[], float] = time.time,
    cgroup: Path = hardware.CGROUP,
    proc: Path = hardware.PROC,
) -> Report:
    """Look at everything that `config` relies on. Takes seconds, most of them to read the models; raises nothing.

    runtime: another OpenVINO than the process's. now: seconds since 1970. cgroup, proc: as in `hardware`.
    Ports are tried as the box would take them, so that a box which is running holds its own. Models are read, not
    loaded.
    """
    return Report(
        (
            *_openvino(config, runtime),
            *_tflite(config.tflite.delegates),
            _cores(cgroup, proc),
            _memory(cgroup, proc),
            *_data_folder(config, proc),
            *_models(config),
            _clock(now()),
            *_ports(config),
            *_broker(config),
            *_endpoints(config),
        )
    )


def _openvino(config: Config, runtime: Any) -> Iterable[Check]:
    from appliance.runtimes.openvino import core, devices, prove, reason

    runtime = runtime or core()
    there = devices(runtime)
    for device in there:
        name = f"OpenVINO on {device}"
        try:
            prove(runtime, device)
        except RuntimeError as error:
            todo = "install openvino again" if device == "CPU" else f"check the driver of {device}; models use the CPU"
            yield Check(name, False, reason(error), todo, needed=device == "CPU")
        else:
            yield Check(name, True, "a small network gave the right answer")
    if "CPU" not in there:
        yield Check("OpenVINO on CPU", False, f"OpenVINO found {list(there)}", "install openvino again")
    known = {*there, *(device.partition(".")[0] for device in there), "AUTO"}
    for name, model in config.models.items():
        if model.device not in known:
            yield Check(
                f"device of model {name}",
                False,
                f"{model.device} is not on this box, which has {', '.join(there)}",
                "it runs on the CPU; correct `device`, or install the driver",
                needed=False,
            )


def _tflite(delegates: Iterable[DelegateConfig]) -> Iterable[Check]:
    from appliance.runtimes.tflite import prove

    try:
        yield Check("TFLite", True, f"{prove()}: a small network gave the right answer")
    except ModelLoadError as error:
        yield Check("TFLite", False, str(error), "pip install ai-edge-litert")
        return
    for delegate in delegates:
        name = f"TFLite delegate {Path(delegate.path).name}"
        try:
            prove(delegate)
        except ModelLoadError as error:
            yield Check(name, False, str(error), "check path, options and hardware; models use the CPU", needed=False)
        else:
            yield Check(name, True, "a small network gave the right answer")


def _cores(cgroup: Path, proc: Path) -> Check:
    count = hardware.cores(cgroup, proc)
    return Check("cores", True, f"{count} of {os.cpu_count()}")


def _memory(cgroup: Path, proc: Path) -> Check:
    limit = hardware.memory_bytes(cgroup, proc)
    todo = "" if limit >= _MEMORY_BYTES_MIN else f"give the box at least {_mib(_MEMORY_BYTES_MIN)}"
    return Check(
        "memory", not todo, f"{_mib(limit)}, of which this process has {_mib(hardware.memory_used_bytes(proc))}", todo
    )


def _data_folder(config: Config, proc: Path) -> Iterable[Check]:
    folder = Path(config.data_dir or "appliance-data")
    place = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
            file.write(b"written")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        todo = f"let the user of the appliance write to {place}, or give --data-dir another folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            todo = f"make room on the disk of {place}"
        yield Check("data folder", False, f"{place}: {error.strerror}", todo)
    else:
        yield Check("data folder", True, f"{folder} can be written" + ("" if place == folder else "; it will be made"))
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    least = config.store.free_bytes_min
    todo = "" if free > least else f"`store.free_bytes_min` is {_mib(least)}: nothing is recorded; make room"
    yield Check("disk", not todo, f"{_mib(free)} free", todo)
    kind = _file_system(place, proc)
    todo = f"{kind} loses what was written at a power cut; put the data folder on a disk" if kind in _VOLATILE else ""
    if kind in _REMOTE:
        todo = f"SQLite is not safe on {kind}; put the data folder on a local disk"
    yield Check("file system", not todo, kind, todo)


def _models(config: Config) -> Iterable[Check]:
    """A model that cannot be used stops no other, so that none is needed."""
    try:
        good, broken = scan(model_roots(config), trust_of(config))
    except ConfigError as error:
        yield Check("models", False, str(error), "correct it in appliance.toml, or give --models another folder")
        return
    todo = "correct its manifest or install it again; it is not served"
    for each in broken:
        yield Check(f"model {each.name} {each.version}", False, str(each.error), todo, needed=False)
    for version in good:
        name = f"model {version.manifest.name} {version.manifest.version}"
        try:
            count = check_files(version)
        except ModelError as error:
            yield Check(name, False, str(error), todo, needed=False)
        else:
            yield Check(name, True, f"{count} files with the hashes of its manifest", needed=False)
    windowed = {each.manifest.name for each in good if isinstance(each.manifest.preprocess, WindowPreprocess)}
    for route in config.routes:
        if route.share_group is not None and route.model in windowed:
            found = "share_group splits the readings of a source among boxes, so that no box has whole windows"
            todo = "remove share_group, and give each box sources of its own by topic"
            yield Check(f"route {route.name}", False, found, todo, needed=False)


def _clock(now: float) -> Check:
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    ok = _EARLIEST_S <= now <= _LATEST_S
    return Check("clock", ok, shown, "" if ok else "set the clock, or let a time server do it", needed=False)


def _ports(config: Config) -> Iterable[Check]:
    yield _port("HTTP port", config.http.host, config.http.port)
    if config.listener.enabled:
        yield _port("MQTT port", config.listener.host, config.listener.port)


def _port(name: str, host: str, port: int) -> Check:
    if port == 0:
        return Check(name, True, "a free one is taken")
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as server:
            # As the servers do: a port whose last connections are still fading away is free.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            todo = "if it does not run, end the program that has the port, or take another in appliance.toml"
            return Check(name, False, f"{host}:{port} is taken; by this appliance if it runs", todo, needed=False)
        return Check(name, False, f"{host}:{port}: {error.strerror}", "correct host and port in appliance.toml")
    return Check(name, True, f"{host}:{port} is free")


def _broker(config: Config) -> Iterable[Check]:
    from appliance.mqtt.probe import in_words, visit

    if config.broker is None:
        return
    place = f"{config.broker.host}:{config.broker.port}"
    found = visit(config.broker, config.device, [route.subscription for route in config.routes], _CONNECT_S)
    if found.terms is None:
        todo = "check address, network and firewall, user and certificates; results wait in the outbox"
        yield Check("site broker", False, f"{place}: {found.reason}", todo, needed=False)
        return
    yield Check("site broker", True, f"{place} lets the box in")
    todo = "; ".join(found.concerns)
    yield Check("terms of the site broker", not todo, in_words(found.terms), todo, needed=False)


def _endpoints(config: Config) -> Iterable[Check]:
    from appliance.runtimes.remote import prove

    for name, endpoint in config.endpoints.items():
        try:
            prove(name, msgspec.structs.replace(endpoint, timeout_s=min(_ENDPOINT_S, endpoint.timeout_s)))
        except ApplianceError as error:
            todo = f"check the server, or correct [endpoints.{name}]; its models answer when it does"
            yield Check(f"endpoint {name}", False, str(error), todo, needed=False)
        else:
            yield Check(f"endpoint {name}", True, f"{endpoint.url} is ready", needed=False)


def _file_system(folder: Path, proc: Path) -> str:
    """Type of the file system that `folder` is on, as /proc/self/mounts names it."""
    at = str(folder.resolve())
    best, kind = "", "unknown"
    for line in (proc / "self" / "mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        point = point.replace("\\040", " ")
        inside = point == "/" or at == point or at.startswith(point + "/")
        # Of two mounts at one place the later one is seen.
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"

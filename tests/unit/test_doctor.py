"""What the doctor finds, and what it says is to be done."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config import (
    BrokerConfig,
    Config,
    DelegateConfig,
    EndpointConfig,
    HttpConfig,
    ListenerConfig,
    ModelConfig,
    RouteConfig,
    StoreConfig,
    TfliteConfig,
)
from appliance.doctor import Check, examine
from appliance.runtimes.openvino import core
from tests.support.disk import small_disk
from tests.support.models import write_model

NOW = 1_795_000_000.0


def examined(
    folder: Path, *, now: float = NOW, runtime: Any = None, proc: Path = Path("/proc"), **changes: Any
) -> dict[str, Check]:
    free: dict[str, Any] = {"http": HttpConfig(port=0), "listener": ListenerConfig(port=0), "data_dir": str(folder)}
    report = examine(Config(**(free | changes)), now=lambda: now, runtime=runtime, proc=proc)
    found = {check.name: check for check in report.checks}
    assert len(found) == len(report.checks)
    assert all(bool(check.todo) != check.ok and check.found for check in report.checks)
    assert report.ok == all(check.ok for check in report.checks if check.needed)
    return found


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class Accelerated:
    """The real OpenVINO, with a plugin that raises beside the CPU's."""

    available_devices = ("CPU", "GPU.0")

    def compile_model(self, model: Any, device: str) -> Any:
        if device == "GPU.0":
            raise RuntimeError("Exception from plugin.cpp\n[GPU] clGetPlatformIDs error -1001\n")
        return core().compile_model(model, device)


class WithoutCpu:
    """An OpenVINO whose plugins are gone."""

    available_devices = ()


def test_healthy_box_passes(tmp_path: Path) -> None:
    found = examined(tmp_path)
    assert [name for name, check in found.items() if not check.ok and check.needed] == []
    for name in ("OpenVINO on CPU", "TFLite"):
        assert "right answer" in found[name].found
    assert set(found) >= {"cores", "memory", "data folder", "disk", "file system", "clock", "HTTP port", "MQTT port"}
    assert "site broker" not in found


def test_report_can_be_written_as_json(tmp_path: Path) -> None:
    report = examine(Config(data_dir=str(tmp_path), http=HttpConfig(port=0), listener=ListenerConfig(enabled=False)))
    checks = msgspec.json.decode(msgspec.json.encode(report))["checks"]
    assert [check["name"] for check in checks] == [check.name for check in report.checks]


def test_plugin_that_raises_is_told_and_costs_no_more_than_the_device(tmp_path: Path) -> None:
    found = examined(tmp_path, runtime=Accelerated())
    assert found["OpenVINO on CPU"].ok
    failed = found["OpenVINO on GPU.0"]
    assert (failed.ok, failed.needed) == (False, False)
    assert failed.found == "[GPU] clGetPlatformIDs error -1001"
    assert "driver" in failed.todo


def test_openvino_without_a_cpu_is_told(tmp_path: Path) -> None:
    check = examined(tmp_path, runtime=WithoutCpu())["OpenVINO on CPU"]
    assert (check.ok, check.needed) == (False, True)


def test_model_configured_for_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    models = {"far": ModelConfig(device="NPU"), "near": ModelConfig(device="GPU"), "any": ModelConfig(device="AUTO")}
    found = examined(tmp_path, runtime=Accelerated(), models=models)
    assert "NPU is not on this box" in found["device of model far"].found
    assert not {"device of model near", "device of model any"} & set(found)


def test_delegate_that_does_not_load_is_named(tmp_path: Path) -> None:
    delegates = (DelegateConfig(path=str(tmp_path / "libnone.so")),)
    check = examined(tmp_path, tflite=TfliteConfig(delegates=delegates))["TFLite delegate libnone.so"]
    assert (check.ok, check.needed) == (False, False)
    assert "cannot open shared object file" in check.found


def test_ports_in_use_are_told(tmp_path: Path, taken: int) -> None:
    found = examined(tmp_path, http=HttpConfig(port=taken), listener=ListenerConfig(port=taken))
    for name in ("HTTP port", "MQTT port"):
        assert (found[name].ok, found[name].needed) == (False, False)
        assert found[name].found == f"127.0.0.1:{taken} is taken; by this appliance if it runs"


def test_address_that_is_not_this_machines_is_told(tmp_path: Path) -> None:
    check = examined(tmp_path, http=HttpConfig(host="192.0.2.1", port=8080))["HTTP port"]
    assert (check.ok, check.needed) == (False, True)
    assert "host" in check.todo


def test_listener_that_is_off_needs_no_port(tmp_path: Path, taken: int) -> None:
    assert "MQTT port" not in examined(tmp_path, listener=ListenerConfig(enabled=False, port=taken))


def test_broker_that_is_away_is_told(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = examined(tmp_path, broker=BrokerConfig(host="127.0.0.1", port=nobody.getsockname()[1]))["site broker"]
    assert (away.ok, away.needed) == (False, False)
    assert "refused" in away.found


def test_what_is_no_broker_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close()).start()
        found = examined(tmp_path, broker=BrokerConfig(host="127.0.0.1", port=server.getsockname()[1]))
    assert "does not answer as a broker does" in found["site broker"].found
    assert "terms of the site broker" not in found


def test_route_that_shares_readings_among_boxes_is_told(tmp_path: Path) -> None:
    routes = (
        RouteConfig(name="vibration", topic="v/+", model="bearing", share_group="line"),
        RouteConfig(name="alone", topic="w/+", model="bearing"),
        RouteConfig(name="camera", topic="c/+", model="surface", share_group="line"),
    )
    found = examined(tmp_path, routes=routes)
    assert {name for name in found if name.startswith("route ")} == {"route vibration"}
    check = found["route vibration"]
    assert (check.ok, check.needed) == (False, False)
    assert "no box has whole windows" in check.found


def test_models_are_read_and_their_files_proven(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("whole", "damaged", "incomplete", "worded"):
        write_model(models, name)
    for path in models.glob("damaged/1/*/model.bin"):
        path.write_bytes(path.read_bytes() + b"more")
    (models / "incomplete" / "1" / "golden" / "bad.png").unlink()
    (models / "worded" / "1" / "manifest.toml").write_text("schema = 2\n")
    found = examined(tmp_path, models_dir=str(models))
    checks = {name: check for name, check in found.items() if name.startswith("model ")}
    assert not any(check.needed for check in checks.values())
    assert [name for name, check in checks.items() if check.ok] == ["model whole 1"]
    assert checks["model whole 1"].found == "4 files with the hashes of its manifest"
    for name, why in (("damaged", "SHA-256"), ("incomplete", "bad.png"), ("worded", "schema")):
        assert why in checks[f"model {name} 1"].found


def test_folder_of_models_that_is_none_is_told(tmp_path: Path) -> None:
    check = examined(tmp_path, models_dir=str(tmp_path / "none"))["models"]
    assert (check.ok, check.needed) == (False, True)
    assert "is not a folder" in check.found


@pytest.mark.parametrize(("status", "ok"), [(200, True), (503, False), (404, False)])
def test_endpoint_is_asked_whether_it_is_ready(tmp_path: Path, status: int, ok: bool) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        endpoints = {"site": EndpointConfig(url=f"http://127.0.0.1:{server.server_port}/serving")}
        check = examined(tmp_path, endpoints=endpoints)["endpoint site"]
        thread.join()
    assert (check.ok, check.needed) == (ok, False)
    assert asked == ["/serving/v2/health/ready"]


def test_endpoint_that_is_away_or_silent_is_told(tmp_path: Path, taken: int) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        endpoints = {
            "away": EndpointConfig(url=away),
            "silent": EndpointConfig(url=f"http://127.0.0.1:{taken}", timeout_s=0.1),
            "strange": EndpointConfig(url="https://127.0.0.1", ca_file=str(tmp_path / "none.pem")),
        }
        found = examined(tmp_path, endpoints=endpoints)
    for name, why in (("away", "refused"), ("silent", "did not answer within 0.1 s"), ("strange", "none.pem")):
        check = found[f"endpoint {name}"]
        assert (check.ok, check.needed) == (False, False)
        assert why in check.found


@pytest.mark.parametrize(("now", "ok"), [(0.0, False), (60.0, False), (NOW, True), (9e9, False)])
def test_clock_that_was_never_set_is_told(tmp_path: Path, now: float, ok: bool) -> None:
    assert examined(tmp_path, now=now)["clock"].ok is ok


def test_data_folder_that_is_yet_to_be_made_is_fine_and_not_made(tmp_path: Path) -> None:
    check = examined(tmp_path / "new" / "data")["data folder"]
    assert check.ok
    assert "will be made" in check.found
    assert os.listdir(tmp_path) == []


def test_full_disk_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        disk.fill()
        found = examined(disk.path, store=StoreConfig(free_bytes_min=0))
        assert not found["data folder"].ok
        assert "make room" in found["data folder"].todo
        assert not found["disk"].ok
        assert not found["file system"].ok
        assert "tmpfs" in found["file system"].found


@pytest.mark.parametrize(("kind", "ok"), [("ext4", True), ("nfs4", False), ("tmpfs", False), ("overlay", True)])
def test_file_system_is_the_one_of_the_data_folder(tmp_path: Path, kind: str, ok: bool) -> None:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    data = tmp_path / "with space"
    data.mkdir()
    at = str(data).replace(" ", "\\040")
    (proc / "self" / "mounts").write_text(f"a / xfs rw 0 0\nb {at} {kind} rw 0 0\nc {at}er nfs rw 0 0\n")
    (proc / "self" / "statm").write_text("100 50 0 0 0 0 0\n")
    (proc / "meminfo").write_text("MemTotal: 4000000 kB\n")
    check = examined(data, proc=proc)["file system"]
    assert (check.found, check.ok) == (kind, ok)


def test_little_memory_is_told(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "mounts").write_text("a / ext4 rw 0 0\n")
    (proc / "self" / "statm").write_text("100 50 0 0 0 0 0\n")
    (proc / "meminfo").write_text("MemTotal: 100000 kB\n")
    assert not examined(tmp_path, proc=proc)["memory"].ok

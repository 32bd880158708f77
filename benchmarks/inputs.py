"""What is sent, in the wire form of each server, and the answer that has to come back."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from appliance.core.tensors import Array
from benchmarks.networks import FEATURES, SIDE, TINY_INPUT, label

PROBABILITY_OFF_MAX = 0.002
"""At equal precision; pictures may be prepared in another order of operations."""
DEFAULT_OFF_MAX = 0.1
"""Where each server has the precision that it has by default."""

_BOUNDARY = "benchmark-boundary"


class Expected(NamedTuple):
    """The row of probabilities that the runtime alone gives."""

    row: Array

    @property
    def best(self) -> int:
        return int(self.row.argmax())


Check = Callable[[http.client.HTTPResponse, bytes, Expected, float], None]
"""Raises ValueError when an answer is not the expected one within the given difference."""


class NotAnswered(ValueError):
    """A status other than 200: perhaps not ready yet."""


class Message(NamedTuple):
    """A request to be repeated, and how its answer is checked."""

    path: str
    body: Path
    headers: dict[str, str]
    check: Check
    expected: Expected
    off_max: float = PROBABILITY_OFF_MAX

    def send(self, connection: http.client.HTTPConnection) -> None:
        """One request. Raises NotAnswered, and ValueError for a wrong answer."""
        connection.request("POST", self.path, self.body.read_bytes(), self.headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise NotAnswered(f"{self.path} answered {response.status}: {content[:300]!r}")
        self.check(response, content, self.expected, self.off_max)


def judged(_response: http.client.HTTPResponse, content: bytes, _expected: Expected, _off_max: float) -> None:
    """For a model of the appliance's own, which nobody else serves: that there is a verdict."""
    if "verdict" not in json.loads(content):
        raise ValueError(f"expected a verdict, got {content[:200]!r}")


class Bodies:
    """The bodies as files in `folder`, for the load generator."""

    def __init__(self, folder: Path, picture: bytes, tensor: Array) -> None:
        self.jpeg = folder / "picture.jpg"
        self.form = folder / "picture.form"
        self.base64 = folder / "picture.json"
        self.tensor_json = folder / "tensor.json"
        self.tensor_binary = folder / "tensor.bin"
        self.tiny = folder / "tiny.json"
        self.jpeg.write_bytes(picture)
        self.form.write_bytes(_form(picture))
        self.base64.write_text(json.dumps(_oip("image", [1], "BYTES", [base64.b64encode(picture).decode()])))
        shape = [1, SIDE, SIDE, 3]
        # The shortest decimals that give the same float32, as a client's encoder writes them.
        numbers = [float(str(value)) for value in tensor.astype(np.float32).reshape(-1)]
        self.tensor_json.write_text(json.dumps(_oip("image", shape, "FP32", numbers), separators=(",", ":")))
        content = tensor.astype("<f4").tobytes()
        head = {
            "inputs": [
                {
                    "name": "image",
                    "shape": shape,
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(content)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
        self.header = json.dumps(head, separators=(",", ":")).encode()
        self.tensor_binary.write_bytes(self.header + content)
        self.tiny.write_text(json.dumps(_oip("features", [1, FEATURES], "FP32", list(TINY_INPUT))))

    def form_headers(self) -> dict[str, str]:
        return {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

    def binary_headers(self) -> dict[str, str]:
        return {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(self.header)),
        }


JPEG = {"Content-Type": "image/jpeg"}
JSON = {"Content-Type": "application/json"}


def classes(response: http.client.HTTPResponse, content: bytes, expected: Expected, off_max: float) -> None:
    """{"classes": [{"label", "score"}, ...]}, or the appliance's {"prediction": {"classes": ...}}."""
    answer: dict[str, Any] = json.loads(content)
    found = (answer.get("prediction") or answer)["classes"][0]
    wanted = float(expected.row[expected.best])
    if found["label"] != label(expected.best) or abs(found["score"] - wanted) > off_max:
        raise ValueError(f"expected {label(expected.best)} with {wanted:.4f}, got {found}")


def numbers(response: http.client.HTTPResponse, content: bytes, expected: Expected, off_max: float) -> None:
    """{"outputs": [{"data": [...]}]}, flat or nested."""
    _compare(np.array(json.loads(content)["outputs"][0]["data"], np.float32), expected, off_max)


def binary(response: http.client.HTTPResponse, content: bytes, expected: Expected, off_max: float) -> None:
    """The row as little-endian float32 after a header of JSON."""
    length = int(response.headers["Inference-Header-Content-Length"])
    output = json.loads(content[:length])["outputs"][0]
    if output["parameters"]["binary_data_size"] != len(content) - length:
        raise ValueError(f"{len(content) - length} bytes follow the header {content[:length]!r}")
    _compare(np.frombuffer(content[length:], "<f4"), expected, off_max)


def _compare(found: Array, expected: Expected, off_max: float) -> None:
    row = found.reshape(-1)
    if row.shape != expected.row.shape:
        raise ValueError(f"expected {expected.row.size} probabilities, got {row.size}")
    off = float(np.abs(row - expected.row).max())
    if not off <= off_max:
        raise ValueError(f"probabilities differ by {off:.4f}, at most {off_max} expected")


def _oip(name: str, shape: list[int], datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}


def _form(picture: bytes) -> bytes:
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="file"; filename="part.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()

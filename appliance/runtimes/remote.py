"""A model that runs on another server, behind the `LoadedModel` seam: Open Inference Protocol v2 over HTTP.

Tensors go as binary data, to servers that cannot read that as JSON. Each session keeps one connection. A server that is
away stops nothing here: the model loads, its calls fail at once, and a call a second tries again. A call with all that
it asks the server, a second attempt included, ends within `timeout_s` of the endpoint.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from appliance import __version__
from appliance.config import EndpointConfig
from appliance.core import oip
from appliance.core.manifest import ModelManifest, Variant
from appliance.core.schedule import Gear
from appliance.core.tensors import Array, TensorSpec
from appliance.errors import DTypeError, InferenceError, InputError, ModelLoadError, RemoteUnavailable
from appliance.runtimes import Infer
from appliance.runtimes.row_by_row import free_rows, row_by_row
from appliance.timed import CallTime, connect

RETRY_S = 1.0
"""How long nobody tries again after a server was found to be away."""

_ANSWER_BYTES_MAX = 256 << 20
_CHUNK = 1 << 20
_TEXT_MAX = 300
_BINARY_DATA = "binary_tensor_data"
_BUSY = (429, 502, 503, 504)


class RemoteLoaded:
    """One model on an endpoint. Its sessions share what is known of the server."""

    def __init__(self, manifest: ModelManifest, variant: Variant, endpoint: _Endpoint) -> None:
        assert variant.remote is not None
        place = variant.remote
        self._manifest = manifest
        self._inside = {
            spec.name: variant.tensors.get(spec.name, spec.name) for spec in (*manifest.inputs, *manifest.outputs)
        }
        self._asked = [self._inside[spec.name] for spec in manifest.outputs]
        self._endpoint = endpoint
        self._path = f"/v2/models/{quote(place.model, safe='')}"
        if place.version is not None:
            self._path += f"/versions/{quote(place.version, safe='')}"
        self._server = "server unknown"
        self._compared = False
        # None: not known yet, whether it reads binary tensors.
        self._binary: bool | None = None
        self._note: str | None = None

    @property
    def runtime(self) -> str:
        return f"remote {self._server}"

    @property
    def device(self) -> str:
        return f"endpoint:{self._endpoint.name}"

    @property
    def note(self) -> str | None:
        """What is wrong with the server, or with the model there, now."""
        return self._endpoint.away or self._note

    @property
    def gears(self) -> tuple[Gear, ...]:
        return ("throughput",)

    @property
    def batches(self) -> bool:
        return all(spec.shape[0] == -1 for spec in (*self._manifest.inputs, *self._manifest.outputs))

    def session(self, gear: Gear) -> Infer:
        """Calls raise RemoteUnavailable while the server is away or has no room, InferenceError when it refuses."""
        connection = _Connection(self._endpoint)

        def infer(tensors: Mapping[str, Array]) -> dict[str, Array]:
            connection.start()
            if not self._compared:
                try:
                    self._greet(connection)
                except ModelLoadError as error:
                    raise InferenceError(str(error)) from error
            inputs = {self._inside[name]: array for name, array in tensors.items()}
            outputs = self._infer(connection, inputs)
            self._note = None
            return outputs

        return infer if self.batches else row_by_row(infer, free_rows(self._manifest.inputs))

    def greet(self) -> None:
        """Ask the server who it is and compare the model; a server that is away is noted.

        Raises ModelLoadError when the model there is another one.
        """
        connection = _Connection(self._endpoint)
        connection.start()
        try:
            self._greet(connection)
        except RemoteUnavailable as error:
            self._note = str(error)
        except InferenceError as error:
            self._note = f"{error}; load the model there"
        finally:
            connection.close()

    def _greet(self, connection: _Connection) -> None:
        # Not every server tells about itself.
        with suppress(InferenceError):
            server = _object(connection.ask("GET", "/v2"))
            self._server = " ".join(str(server.get(key, "")) for key in ("name", "version")).strip()[:80] or "unnamed"
            extensions = server.get("extensions")
            if isinstance(extensions, list) and _BINARY_DATA in extensions:
                self._binary = True
        connection.ask("GET", f"{self._path}/ready")
        metadata = _object(connection.ask("GET", self._path))
        self._compare("inputs", self._manifest.inputs, metadata.get("inputs"))
        self._compare("outputs", self._manifest.outputs, metadata.get("outputs"))
        self._compared = True

    def _infer(self, connection: _Connection, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._binary is not None:
            return self._ask(connection, inputs, self._binary)
        binary = True
        try:
            outputs = self._ask(connection, inputs, binary)
        except InferenceError:
            # Perhaps it cannot read binary tensors. If it refuses JSON too, the input is to blame.
            binary = False
            outputs = self._ask(connection, inputs, binary)
        self._binary = binary
        return outputs

    def _ask(self, connection: _Connection, inputs: Mapping[str, Array], binary: bool) -> dict[str, Array]:
        try:
            body, json_bytes = oip.encode_request(inputs, self._asked, binary=binary)
        except DTypeError as error:
            raise InferenceError(f"endpoint {self._endpoint.name} takes JSON only: {error}") from error
        headers = {"Content-Type": "application/json"}
        if json_bytes is not None:
            headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(json_bytes)}
        content, length = connection.ask("POST", f"{self._path}/infer", body, headers)
        try:
            tensors = oip.parse_response(content, oip.header_length(length, len(content)))
        except InputError as error:
            raise InferenceError(f"endpoint {self._endpoint.name} answered what is no inference: {error}") from error
        found = {tensor.name: tensor.array for tensor in tensors}
        return {spec.name: self._checked(spec, found.get(self._inside[spec.name])) for spec in self._manifest.outputs}

    def _checked(self, spec: TensorSpec, array: Array | None) -> Array:
        name = self._inside[spec.name]
        if array is None:
            raise InferenceError(f"endpoint {self._endpoint.name} answered without the output {name!r}")
        if array.dtype == object or not _agrees(spec.shape, array.shape):
            raise InferenceError(
                f"endpoint {self._endpoint.name} answered {name!r} as {array.dtype} of shape {list(array.shape)}, the "
                f"manifest says {spec.dtype} of {list(spec.shape)}"
            )
        return array.astype(spec.dtype, copy=False)

    def _compare(self, side: str, specs: tuple[TensorSpec, ...], told: Any) -> None:
        """Servers that know nothing of their tensors tell none."""
        tensors = {each.get("name"): each for each in told if isinstance(each, dict)} if isinstance(told, list) else {}
        if not tensors:
            return
        for spec in specs:
            name, datatype = self._inside[spec.name], oip.datatype_of(spec.dtype)
            there = tensors.get(name, {})
            shape = there.get("shape")
            if there.get("datatype") != datatype or not isinstance(shape, list) or not _agrees(spec.shape, shape):
                told_of_it = (
                    f"{there.get('datatype')} of {shape}" if there else f"not among {sorted(map(str, tensors))}"
                )
                raise ModelLoadError(
                    f"endpoint {self._endpoint.name}: of the {side} there {name!r} is {told_of_it[:_TEXT_MAX]}, the "
                    f"manifest says {datatype} of {list(spec.shape)}; correct the manifest or the endpoint"
                )


class _Endpoint:
    """A server, and whether it is away. away: what happened, None while it answers."""

    def __init__(self, name: str, config: EndpointConfig) -> None:
        self.name = name
        self.config = config
        self.tls = _tls(name, config)
        self.away: str | None = None
        self._retry_at = 0.0

    def check(self) -> None:
        """Raises RemoteUnavailable while nobody shall try; when the time is over, one caller may."""
        if self.away is None:
            return
        now = time.monotonic()
        if now < self._retry_at:
            raise RemoteUnavailable(self.away)
        self._retry_at = now + RETRY_S

    def lost(self, what: str) -> RemoteUnavailable:
        """Note what happened; returns the error to raise."""
        self.away = (
            f"endpoint {self.name} ({self.config.url}) {what}; check the network and the server, or correct "
            f"[endpoints.{self.name}]"
        )
        self._retry_at = time.monotonic() + RETRY_S
        return RemoteUnavailable(self.away)


class _Connection:
    """One kept connection, used by one thread at a time."""

    def __init__(self, endpoint: _Endpoint) -> None:
        url = urlsplit(endpoint.config.url)
        self._endpoint = endpoint
        self._host, self._base = url.hostname or "", url.path.rstrip("/")
        self._port = url.port or (80 if endpoint.tls is None else 443)
        self._time = CallTime(endpoint.config.timeout_s)
        self._http: http.client.HTTPConnection | None = None
        self._headers: dict[str, str] = {}

    def start(self) -> None:
        """A call: from now on its time runs."""
        self._time.start()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, str]:
        """The body of a good answer, and its Inference-Header-Content-Length.

        Raises RemoteUnavailable, InferenceError with the server's own words.
        """
        self._endpoint.check()
        try:
            answer, content = self._exchange(method, path, body, headers or {})
        except TimeoutError as error:
            self.close()
            raise self._endpoint.lost(f"did not answer within {self._time.whole_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._endpoint.lost(f"does not answer: {str(error) or type(error).__name__}") from error
        self._endpoint.away = None
        name, status = self._endpoint.name, answer.status
        if status in _BUSY:
            raise RemoteUnavailable(
                f"endpoint {name} cannot answer now (status {status}): {_words(content)}; try again, or give the "
                f"server more room"
            )
        if status in (401, 403):
            raise RemoteUnavailable(
                f"endpoint {name} refuses this box (status {status}): {_words(content)}; correct token_file in "
                f"[endpoints.{name}]"
            )
        if status != 200:
            raise InferenceError(f"endpoint {name} refused (status {status}): {_words(content)}")
        return content, answer.headers.get(oip.HEADER_LENGTH, "")

    def __del__(self) -> None:
        # Nobody tells a session that its model was unloaded.
        self.close()

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        if self._http is not None:
            # A server may have closed a connection that was idle; an inference can be asked twice.
            try:
                return self._once(self._http, method, path, body, headers)
            except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
                self.close()
        self._http = self._connect()
        return self._once(self._http, method, path, body, headers)

    def _once(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection.request(method, self._base + path, body, {**self._headers, **headers})
        answer = connection.getresponse()
        content = bytearray()
        left = answer.length  # None: in chunks, or up to the end of the connection
        while left != 0:
            chunk = answer.read1(_CHUNK if left is None else min(left, _CHUNK))
            if not chunk:
                break
            content += chunk
            left = None if left is None else left - len(chunk)
            if len(content) > _ANSWER_BYTES_MAX:
                raise http.client.HTTPException(f"its answer is above {_ANSWER_BYTES_MAX} bytes")
        if left:
            raise http.client.IncompleteRead(bytes(content), left)
        answer.close()
        if answer.will_close:
            self.close()
        return answer, bytes(content)

    def _connect(self) -> http.client.HTTPConnection:
        config = self._endpoint.config
        self._headers = {"User-Agent": f"edge-inference-appliance/{__version__}"}
        if config.token_file is not None:
            # Read with every connection, so that a new token needs no restart.
            self._headers["Authorization"] = f"Bearer {_token(config.token_file)}"
        tls = self._endpoint.tls
        connection: Any = (http.client.HTTPConnection if tls is None else http.client.HTTPSConnection)(
            self._host, self._port
        )
        # It would open another socket in place of a closed one, without a time limit.
        connection.auto_open = 0
        connection.sock = connect(self._host, self._port, tls, self._time)
        opened: http.client.HTTPConnection = connection
        return opened


def load_remote(manifest: ModelManifest, variant: Variant, endpoints: Mapping[str, EndpointConfig]) -> RemoteLoaded:
    """The model behind the endpoint that the variant names, even while that is away.

    Raises ModelLoadError when the configuration has no such endpoint or its files cannot be read, or when the model
    there takes or gives something else than the manifest says.
    """
    assert variant.remote is not None
    name = variant.remote.endpoint
    endpoint = endpoints.get(name)
    if endpoint is None:
        raise ModelLoadError(
            f"variant {variant.name!r} runs on the endpoint {name!r}, which appliance.toml does not have; add "
            f'[endpoints.{name}] with url = "http://host:port"'
        )
    if endpoint.token_file is not None:
        try:
            _token(endpoint.token_file)
        except OSError as error:
            raise ModelLoadError(f"endpoints.{name}.token_file: {error}; correct the path") from error
    loaded = RemoteLoaded(manifest, variant, _Endpoint(name, endpoint))
    loaded.greet()
    return loaded


def prove(name: str, config: EndpointConfig) -> None:
    """Ask an endpoint whether it is ready. Raises ModelLoadError, RemoteUnavailable or InferenceError."""
    connection = _Connection(_Endpoint(name, config))
    try:
        connection.ask("GET", "/v2/health/ready")
    finally:
        connection.close()


def _tls(name: str, endpoint: EndpointConfig) -> ssl.SSLContext | None:
    if not endpoint.url.startswith("https:"):
        return None
    try:
        return ssl.create_default_context(cafile=endpoint.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ModelLoadError(f"endpoints.{name}.ca_file {endpoint.ca_file}: {error}; give a PEM file") from error


def _token(path: str) -> str:
    token = Path(path).read_text().strip()
    if not token.isascii() or not token.isprintable():
        raise OSError(f"{path} holds no token of one line")
    return token


def _agrees(wanted: Sequence[int], told: Sequence[Any]) -> bool:
    """Free axes (-1) agree with every size."""
    return len(wanted) == len(told) and all(-1 in (a, b) or a == b for a, b in zip(wanted, told, strict=True))


def _object(answer: tuple[bytes, str]) -> dict[str, Any]:
    """Raises InferenceError."""
    try:
        return msgspec.json.decode(answer[0], type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InferenceError(f"the server does not speak the Open Inference Protocol: {error}") from error


def _words(content: bytes) -> str:
    """The server's own text of an error."""
    text: Any = None
    with suppress(ValueError, RecursionError):
        told = json.loads(content)
        text = (told.get("error") or told.get("detail")) if isinstance(told, dict) else None
    if not isinstance(text, str):
        text = content.decode(errors="replace")
    return " ".join(text.split())[:_TEXT_MAX] or "no reason given"

"""What /openapi.json and /asyncapi.yaml say, held against what a box with the shipped models does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml

from appliance.config import HttpConfig, shipped_models_dir
from appliance.core.protocol import Result
from appliance.http import openapi
from appliance.http.door import create_app
from appliance.http.openapi.own import EXAMPLE_PICTURE
from appliance.http.origin import FIELDS
from appliance.http.predict import UploadOptions
from appliance.state import State
from tests.support.box import Box, running_box
from tests.support.installs import add_rollout
from tests.support.mqtt import device
from tests.support.openapi import Call, calls, check, has_example, references, request_of, resolve
from tests.support.wait import until

DOCUMENT: dict[str, Any] = json.loads(openapi.encoded())
CALLS = calls(DOCUMENT)
BY_ID = {call.id: call for call in CALLS}
PICTURE = EXAMPLE_PICTURE.read_bytes()
WINDOW = json.loads((shipped_models_dir() / "bearing" / "1" / "golden" / "normal.json").read_bytes())["rows"]
FILE = ("scratch.jpg", PICTURE, "image/jpeg")

WITHOUT_EXAMPLE: dict[str, dict[str, Any]] = {
    "predictForm": {"files": {"file": FILE}, "data": {"part": "P-8", "source": "camera-2"}},
    "predictFiles": {"files": [("files", FILE), ("files", FILE)]},
    "detect": {"files": {"image": FILE}},
    "detectWith": {"files": {"image": FILE}, "data": {"min_confidence": "0.5"}},
    "inferBinary": {"content": bytes(96 * 96 * 3 * 4), "headers": {"Inference-Header-Content-Length": "0"}},
}
OF_WINDOWS: dict[str, dict[str, Any]] = {
    "predictRows": {"json": {"rows": WINDOW}},
    "predictCsv": {
        "content": "\n".join(",".join(map(str, row)) for row in WINDOW),
        "headers": {"Content-Type": "text/csv"},
    },
}
PLANT = dict.fromkeys(("alarms", "recipes", "triggers", "beat", "store", "updates"))
"""What the handlers of the plant's job ask for."""

OF_THE_BOX = ("/v2/repository", "/v1/triggers", "/v1/updates", "/v1/rollouts")
"""Posts that bring no input of their own."""

DECIDED = {"promoteRollout", "rejectRollout", "rollBackRollout"}
"""The rollout of the examples is over, and nothing of it serves."""

REFUSED = {"predictTable", "predictWav"}
"""No shipped model takes these: a table, or samples at a rate of sound."""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """It has judged the example picture, so that the other examples have something to show."""
    folder = tmp_path_factory.mktemp("box")
    end = {"name": "end", "topic": "cell/pull", "cameras": ["end"], "model": "surface", "answer_within_ms": 100}
    cameras = {"end": {"kind": "mqtt", "topic": "cell/end"}}
    ready = ["surface", "bearing"]
    with running_box(folder, shipped_models_dir(), ready_requires=ready, cameras=cameras, triggers=[end]) as box:
        assert box.http.send(request_of(box.http, BY_ID["predictPicture"])).json()["recorded"] == "committed"
        state = State(box.data_dir)
        add_rollout(state, {"surface": "2"}, {"surface": "1"}, "rejected")
        state.close()
        yield box


@pytest.fixture(scope="module")
def asyncapi(box: Box) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(box.http.get("/asyncapi.yaml").text)
    return content


# OpenAPI: the document in itself.


def test_box_serves_the_document(box: Box) -> None:
    reply = box.http.get("/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 30
    for reference in found:
        assert resolve(reference, DOCUMENT)


def test_every_operation_has_an_id_of_its_own_and_names_its_variables() -> None:
    assert len(BY_ID) == len(CALLS)
    for call in CALLS:
        named = {each["name"] for each in call.operation.get("parameters", []) if each["in"] == "path"}
        assert {part.partition("}")[0] for part in call.path.split("{")[1:]} == named, call.id
        assert call.operation["tags"][0] in [tag["name"] for tag in DOCUMENT["tags"]]


def test_body_forms_share_a_real_path_and_keep_their_options_out_of_the_query() -> None:
    for call in CALLS:
        if call.fragment:
            assert call.path in DOCUMENT["paths"]
            assert not [each for each in call.operation["parameters"] if each["in"] == "query"], call.id
            assert len(call.bodies) == 1, call.id


def named(call: Call, where: str) -> set[str]:
    return {each["name"] for each in call.operation.get("parameters", []) if each["in"] == where}


def test_every_option_of_an_upload_is_documented() -> None:
    options = set(UploadOptions.__struct_fields__)
    assert named(BY_ID["predictPicture"], "query") == options
    # There the path says it.
    assert named(BY_ID["predictPictureVersion"], "query") == options - {"version"}


def test_every_call_that_judges_says_how_to_name_the_part_and_a_deadline() -> None:
    judging = [call for call in CALLS if call.method == "post" and not call.path.startswith(OF_THE_BOX)]
    assert len(judging) > 20
    for call in judging:
        (content, *_) = call.bodies.values()
        schema = content["schema"]
        body = resolve(schema["$ref"], DOCUMENT)["properties"] if "$ref" in schema else {}
        headers = named(call, "header")
        assert {f"X-{name.title()}" for name in FIELDS} <= headers or set(FIELDS) <= set(body), call.id
        assert "X-Timeout-Ms" in headers, call.id
        assert "X-Cache" in call.operation["responses"]["200"]["headers"], call.id


def test_headers_of_errors_are_documented() -> None:
    for response in DOCUMENT["components"]["responses"].values():
        assert set(response["headers"]) == {"Retry-After", "Allow"}


def test_every_example_is_as_its_schema_says() -> None:
    shown = [content for call in CALLS for content in call.bodies.values()]
    for call in CALLS:
        for response in call.operation["responses"].values():
            shown += resolve(response["$ref"], DOCUMENT)["content"].values() if "$ref" in response else []
            shown += response.get("content", {}).values()
    checked = 0
    for content in shown:
        for example in content.get("examples", {}).values():
            if "value" in example:
                check(example["value"], content["schema"], DOCUMENT)
                checked += 1
    assert checked > 30


def test_every_handler_of_the_box_is_documented() -> None:
    """Of the doors that are applications of their own, where they begin is all that can be seen from outside."""
    nothing = cast(Any, None)
    app = create_app(HttpConfig(), nothing, nothing, nothing, nothing, nothing, Path("results.db"), PLANT)
    documented = {
        call.path.replace("{id}", "{number:int}")
        .replace("{source}", "{source:str}")
        .replace("{trigger}", "{trigger:str}")
        for call in CALLS
    }
    undocumented = {route.path for route in app.rest.routes} - documented
    assert {path for path in undocumented if not path.startswith("/hmi")} == {"/", "/docs", "/favicon.ico"}
    for door, _, _ in app.doors:
        assert any(path.startswith(door) for path in documented)


def test_every_error_code_is_listed_with_its_status() -> None:
    listed = {code: status for code, status, _ in openapi.error_codes()}
    for code, status in {"model_not_found": 404, "input_undecodable": 400, "overloaded": 503, "expired": 504}.items():
        assert listed[code] == status
        assert f"| `{code}` | {status} |" in DOCUMENT["info"]["description"]
    assert not {"port_in_use", "configuration_invalid"} & set(listed)


def test_absence_of_grpc_is_stated() -> None:
    assert "There is no gRPC door" in DOCUMENT["info"]["description"]


# OpenAPI: held against the box.


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.id)
def test_call_is_answered_as_documented(box: Box, call: Call) -> None:
    if call.id == "followEvents":
        with box.http.stream("GET", call.path) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert next(stream.iter_lines()) == "event: status"
        return
    base = call.id.removesuffix("Version").removesuffix("Label")
    body = WITHOUT_EXAMPLE.get(base)
    if base in OF_WINDOWS or base in REFUSED:
        call = Call(call.method, call.path.replace("{model}", "bearing"), call.fragment, call.operation)
        body = OF_WINDOWS.get(base, {"json": {"inputs": {"spectra": [[[0.0]]]}}})
    if body is None and not has_example(call):
        example = request_of(box.http, BY_ID[base])
        body = {"content": example.read(), "headers": {"Content-Type": example.headers["content-type"]}}
    reply = box.http.send(request_of(box.http, call, body))
    if base in REFUSED:
        assert reply.status_code == 400
        check(reply.json(), {"$ref": "#/components/schemas/Problem"}, DOCUMENT)
        return
    if base in DECIDED:
        assert (reply.status_code, reply.json()["code"]) == (409, "order_refused")
        check(reply.json(), {"$ref": "#/components/schemas/Problem"}, DOCUMENT)
        return
    assert reply.is_success, reply.text
    content = call.operation["responses"][str(reply.status_code)].get("content")
    if content is None:
        assert reply.content == b""
        return
    media_type = reply.headers["content-type"].partition(";")[0]
    assert media_type in content
    if media_type == "application/json":
        check(reply.json(), content[media_type]["schema"], DOCUMENT)


@pytest.mark.parametrize("name", ["predictPicture", "predictForm", "predictBase64"])
def test_picture_with_findings_is_answered_as_documented(box: Box, name: str) -> None:
    request = request_of(box.http, BY_ID[name], WITHOUT_EXAMPLE.get(name))
    request.headers["Accept"] = "image/jpeg"
    reply = box.http.send(request)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/jpeg")
    answer = BY_ID[name].operation["responses"]["200"]
    assert "image/jpeg" in answer["content"]
    assert reply.headers["x-verdict"] == "ng"
    request.headers["Idempotency-Key"] = name
    repeated = [box.http.send(request) for _ in range(2)][1]
    assert repeated.headers["idempotency-replayed"] == "true"
    said = {header for header in repeated.headers if header.startswith(("x-", "idempotency-"))}
    assert said - {header.lower() for header in answer["headers"]} == {"x-content-type-options"}


def test_nothing_newer_is_answered_304_as_documented(box: Box) -> None:
    call = BY_ID["getLatest"]
    seen = box.http.send(request_of(box.http, call)).headers["etag"]
    assert box.http.send(request_of(box.http, call, {"headers": {"If-None-Match": seen}})).status_code == 304
    assert "304" in call.operation["responses"]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("predictPicture", {"content": PICTURE}),
        ("getModel", None),
        ("tfsStatus", None),
        ("detectWith", {"files": {"image": FILE}}),
    ],
)
def test_error_has_the_documented_form(box: Box, name: str, body: dict[str, Any] | None) -> None:
    call = BY_ID[name]
    reply = box.http.request(call.method, call.path.replace("{model}", "nothing"), **(body or {}))
    assert reply.status_code == 404
    documented = resolve(call.operation["responses"]["default"]["$ref"], DOCUMENT)["content"]
    check(reply.json(), documented[reply.headers["content-type"]]["schema"], DOCUMENT)


# AsyncAPI.


def test_asyncapi_document_holds_together(asyncapi: dict[str, Any]) -> None:
    assert asyncapi["asyncapi"] == "3.0.0"
    for reference in references(asyncapi):
        resolve(reference, asyncapi)
    for name, channel in asyncapi["channels"].items():
        variables = {part.partition("}")[0] for part in channel["address"].split("{")[1:]}
        assert variables == set(channel.get("parameters", {})), name
    for name, operation in asyncapi["operations"].items():
        assert operation["action"] in ("send", "receive"), name
        where = operation["channel"]["$ref"]
        assert all(message["$ref"].startswith(f"{where}/messages/") for message in operation["messages"]), name
    named = {operation["channel"]["$ref"].rpartition("/")[2] for operation in asyncapi["operations"].values()}
    assert set(asyncapi["channels"]) - named == {"command"}, "only the reserved channel has no operation"


def test_asyncapi_examples_are_as_their_schemas_say(asyncapi: dict[str, Any]) -> None:
    checked = 0
    for message in asyncapi["components"]["messages"].values():
        for example in message.get("examples", []):
            check(example["payload"], message["payload"], asyncapi)
            checked += 1
    assert checked >= 8


def test_asyncapi_knows_every_field_of_a_result(asyncapi: dict[str, Any]) -> None:
    _, structs = msgspec.json.schema_components([Result], ref_template="#/components/schemas/{name}")
    written = asyncapi["components"]["schemas"]
    for name, schema in structs.items():
        assert set(written[name]["properties"]) == set(schema["properties"]), name
        assert set(written[name]["required"]) == set(schema["required"]), name
    for field in ("door", "verdict"):
        assert set(written["Result"]["properties"][field]["enum"]) == set(
            structs["Result"]["properties"][field]["enum"]
        )


def test_box_publishes_what_asyncapi_says(box: Box, asyncapi: dict[str, Any]) -> None:
    said: set[str] = set()
    with device(box.mqtt_port) as client:
        client.subscribe("appliance/#")
        client.send("in/surface/camera-3", PICTURE, user={"part": "P-9"})
        client.send("in/surface/camera-3", b"not a picture")
        client.send("in/bearing/press-1", {"values": WINDOW, "part": "B-1"})
        client.send("cell/pull", b"P-10")
        until(lambda: len({message.topic for message in client.messages}) == 10, 20, "ten topics")
        heard = list(client.messages)
    for message in heard:
        name = channel_of(message.topic, asyncapi)
        (kind,) = asyncapi["channels"][name]["messages"].values()
        described = resolve(kind["$ref"], asyncapi)
        if described["contentType"] == "application/json":
            check(json.loads(message.payload), described["payload"], asyncapi)
        else:
            assert len(message.payload) == described["payload"]["maxLength"]
        operation = next(
            each for each in asyncapi["operations"].values() if each["channel"]["$ref"] == f"#/channels/{name}"
        )
        assert message.qos == operation["bindings"]["mqtt"]["qos"]
        assert bool(operation["bindings"]["mqtt"]["retain"]) == (name in ("status", "alarms", "updates"))
        said.add(name)
    assert said == {"status", "alarms", "updates", "results", "deadletter", "answers", "beat", "beatPacked"}


@pytest.mark.parametrize("name", ["oneSample", "samples", "byChannel"])
def test_box_takes_the_readings_that_asyncapi_shows(box: Box, asyncapi: dict[str, Any], name: str) -> None:
    examples = asyncapi["components"]["messages"]["readings"]["examples"]
    payload = next(example["payload"] for example in examples if example["name"] == name)
    letters = box.status()["dead_letters"]["total"]
    with device(box.mqtt_port) as client:
        client.send("in/bearing/press-2", payload)
    assert box.status()["dead_letters"]["total"] == letters


def channel_of(topic: str, asyncapi: dict[str, Any]) -> str:
    """The channel whose address fits; its variables stand for one level each."""
    levels = topic.split("/")
    for name, channel in asyncapi["channels"].items():
        address = channel["address"].split("/")
        if len(address) == len(levels) and all(
            part.startswith("{") or part == level for part, level in zip(address, levels, strict=True)
        ):
            found: str = name
            return found
    raise AssertionError(f"{topic} is not documented")

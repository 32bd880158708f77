"""The doors for existing clients in the document: Open Inference Protocol, TensorFlow Serving, DeepStack."""

from __future__ import annotations

from typing import Any

from appliance.http import oip, tfs, vision
from appliance.http.openapi.own import example_picture
from appliance.http.openapi.paths import (
    ANY,
    ANY_OBJECT,
    BINARY,
    CACHED,
    TEXT,
    TIMEOUT,
    Paths,
    Schema,
    array,
    content,
    fields,
    in_header,
    in_path,
    origin_headers,
    part_fields,
    ref,
)

_OIP, _TFS, _DEEPSTACK = "Open Inference Protocol", "TensorFlow Serving", "DeepStack"

TAGS = {
    _OIP: "Version 2, as spoken by Triton, KServe, MLServer and OpenVINO Model Server.",
    _TFS: "The REST interface of TensorFlow Serving. The label `stable` is the version that serves.",
    _DEEPSTACK: "For programs that know DeepStack: Frigate, Home Assistant, Blue Iris.",
}

_BOOLEAN = {"type": "boolean"}
_SHAPE = array({"type": "integer", "format": "int64"})
_DATATYPE = {**TEXT, "description": "BOOL, INT8 to INT64, UINT8 to UINT64, FP16, FP32, FP64 or BYTES"}
_PARAMETERS = {**ANY_OBJECT, "description": "words of the protocol's extensions"}
_DATA = {**array(ANY), "description": "flat or nested, row by row"}

SCHEMAS: dict[str, Schema] = {
    "Error": fields("error", error=TEXT),
    "Live": fields("live", live=_BOOLEAN),
    "Ready": fields("ready", ready=_BOOLEAN, name=TEXT),
    "ServerMetadata": fields("name version extensions", name=TEXT, version=TEXT, extensions=array(TEXT)),
    "TensorMetadata": fields("name datatype shape", name=TEXT, datatype=_DATATYPE, shape=_SHAPE),
    "ModelMetadata": fields(
        "name versions platform inputs outputs",
        name=TEXT,
        versions=array(TEXT),
        platform=TEXT,
        inputs=array(ref("TensorMetadata")),
        outputs=array(ref("TensorMetadata")),
    ),
    "InferTensor": fields(
        "name datatype shape", name=TEXT, datatype=_DATATYPE, shape=_SHAPE, parameters=_PARAMETERS, data=_DATA
    ),
    "AskedOutput": fields("name", name=TEXT, parameters=_PARAMETERS),
    "InferRequest": fields(
        "inputs",
        "`parameters` may say part, lot, recipe, source, durable, timeout (microseconds) and priority.",
        id=TEXT,
        parameters=_PARAMETERS,
        inputs=array(ref("InferTensor")),
        outputs=array(ref("AskedOutput")),
    ),
    "InferResponse": fields(
        "model_name outputs",
        "`parameters` say verdict, result (its id) and recorded.",
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        parameters=_PARAMETERS,
        outputs=array(ref("InferTensor")),
    ),
    "RepositoryModel": fields("name", name=TEXT, version=TEXT, state=TEXT, reason=TEXT),
    "TfsRequest": fields(
        "",
        "Either `instances`, row by row, or `inputs`, column by column.",
        signature_name=TEXT,
        instances=array(ANY),
        inputs=ANY,
    ),
    "TfsExamples": fields(
        "examples", "Features by the names of the inputs.", context=ANY_OBJECT, examples=array(ANY_OBJECT)
    ),
    "TfsResponse": fields(
        "", "`predictions` for `instances`, `outputs` for `inputs`.", predictions=array(ANY), outputs=ANY
    ),
    "TfsResults": fields("results", "Per example: pairs of label and score, or a score.", results=array(ANY)),
    "TfsStatus": fields("error_code error_message", error_code=TEXT, error_message=TEXT),
    "TfsVersion": fields("version state status", version=TEXT, state=TEXT, status=ref("TfsStatus")),
    "TfsVersions": fields("model_version_status", model_version_status=array(ref("TfsVersion"))),
    "DeepStackInput": fields(
        "image",
        image=BINARY,
        min_confidence={"type": "number", "minimum": 0, "maximum": 1, "default": vision.CONFIDENCE_MIN},
        **part_fields(vision.DEFAULT_SOURCE),
    ),
    "DeepStackObject": fields(
        "label confidence x_min y_min x_max y_max",
        label=TEXT,
        confidence={"type": "number"},
        **{name: {"type": "integer"} for name in ("x_min", "y_min", "x_max", "y_max")},
    ),
    "DeepStackAnswer": fields(
        "success predictions",
        success=_BOOLEAN,
        predictions=array(ref("DeepStackObject")),
        duration={"type": "number", "description": "seconds"},
    ),
    "DeepStackModels": fields("success models", success=_BOOLEAN, models=array(TEXT), duration={"type": "number"}),
    "DeepStackError": fields("success error", success=_BOOLEAN, error=TEXT, duration={"type": "number"}),
}

_OIP_HEADERS = (*origin_headers(oip.DEFAULT_SOURCE), TIMEOUT)
_TFS_HEADERS = (*origin_headers(tfs.DEFAULT_SOURCE), TIMEOUT)

_NOT_READY = {"503": {"description": "Not yet", "content": content("application/json", ref("Ready"))}}


def add_to(paths: Paths) -> None:
    _open_inference(paths)
    _tensorflow_serving(paths)
    _deepstack(paths)


def _open_inference(paths: Paths) -> None:
    def add(method: str, path: str, name: str, summary: str, answers: Schema, **options: Any) -> None:
        paths.add(_OIP, method, path, name, summary, answers, error="Error", **options)

    add("get", "/v2", "getServer", "The server and its extensions", ref("ServerMetadata"))
    add("get", "/v2/health/live", "isLive", "Whether the box answers", ref("Live"))
    ready = paths.json("isReady", ref("Ready")) | _NOT_READY
    add("get", "/v2/health/ready", "isReady", "Whether the models that are needed are warm", ready)
    add("get", "/v2/models/stats", "getStatistics", "Counts and times of all models", ANY_OBJECT)
    model, version = in_path("model", "surface"), in_path("version", "1")
    _model(add, paths, "/v2/models/{model}", "", (model,))
    _model(add, paths, "/v2/models/{model}/versions/{version}", "Version", (model, version))
    index = array(ref("RepositoryModel"))
    add("post", "/v2/repository/index", "listRepository", "Every model that is here, and its state", index)
    for verb, summary in (
        ("unload", "Give back a model's memory"),
        ("load", "Look for versions again and load the newest"),
    ):
        done = {"200": {"description": "Done"}}
        path = f"/v2/repository/models/{{model}}/{verb}"
        add("post", path, f"{verb}Model", summary, done, parameters=(in_path("model", "bearing"),))


def _model(add: Any, paths: Paths, base: str, ending: str, where: tuple[Schema, ...]) -> None:
    add("get", base, f"getModel{ending}", "Inputs and outputs of a model", ref("ModelMetadata"), parameters=where)
    name = f"isModelReady{ending}"
    ready = paths.json(name, ref("Ready")) | _NOT_READY
    add("get", f"{base}/ready", name, "Whether a model is warm", ready, parameters=where)
    summary = "A model's configuration, in Triton's words"
    add("get", f"{base}/config", f"getModelConfig{ending}", summary, ANY_OBJECT, parameters=where)
    summary = "Counts and times since the load"
    add("get", f"{base}/stats", f"getModelStatistics{ending}", summary, ANY_OBJECT, parameters=where)
    scratch = {
        "id": "7",
        "parameters": {"part": "P-7"},
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [example_picture()]}],
        "outputs": [{"name": "probabilities"}],
    }
    add(
        "post",
        f"{base}/infer",
        f"infer{ending}",
        "Tensors in, tensors out, as JSON",
        paths.json(f"infer{ending}", ref("InferResponse"), headers=CACHED),
        about="Tensors reach the network as they are. A model of pictures also takes BYTES: JPEG or PNG in base64, "
        "prepared as at any other door.",
        parameters=(*where, *_OIP_HEADERS),
        body=content("application/json", ref("InferRequest"), **({} if ending else {"scratch": scratch})),
    )
    binary = {
        "200": {
            "description": "JSON, then the outputs that were asked for as binary data",
            "headers": {"Inference-Header-Content-Length": {"schema": {"type": "integer"}}, **CACHED},
            "content": content("application/octet-stream", BINARY),
        }
    }
    length = in_header("Inference-Header-Content-Length", "bytes of JSON", schema={"type": "integer"})
    add(
        "post",
        f"{base}/infer#binary",
        f"inferBinary{ending}",
        "Tensors in, tensors out, as bytes",
        binary,
        about="The body is the JSON of the request, then the tensors in order, little-endian. Each input says "
        "`binary_data_size` in its parameters instead of `data`. With a header length of 0 the body is the one input "
        "of the model and all outputs come as binary data; with JSON, `binary_data_output: true` asks for that.",
        parameters=(*where, length, *_OIP_HEADERS),
        body=content("application/octet-stream", BINARY),
    )


def _tensorflow_serving(paths: Paths) -> None:
    def add(method: str, path: str, name: str, summary: str, answers: Schema, **options: Any) -> None:
        paths.add(_TFS, method, path, name, summary, answers, error="Error", **options)

    model = in_path("model", "surface")
    picture = {"b64": example_picture()}
    rows = {"scratch": {"inputs": {"image": [picture]}}}
    features = {"scratch": {"examples": [{"image": picture}]}}
    for base, ending, where in (
        ("/v1/models/{model}", "", (model,)),
        ("/v1/models/{model}/versions/{version}", "Version", (model, in_path("version", "1"))),
        ("/v1/models/{model}/labels/{label}", "Label", (model, in_path("label", "stable"))),
    ):
        summary = "The versions of a model and their state"
        add("get", base, f"tfsStatus{ending}", summary, ref("TfsVersions"), parameters=where)
        add("get", f"{base}/metadata", f"tfsMetadata{ending}", "A model's signature", ANY_OBJECT, parameters=where)
        add(
            "post",
            f"{base}:predict",
            f"tfsPredict{ending}",
            "Tensors or pictures in, outputs out",
            paths.json(f"tfsPredict{ending}", ref("TfsResponse"), headers=CACHED),
            parameters=(*where, *_TFS_HEADERS),
            body=content("application/json", ref("TfsRequest"), **({} if ending else rows)),
        )
        for verb, summary in (("classify", "Labels with their scores"), ("regress", "The score")):
            add(
                "post",
                f"{base}:{verb}",
                f"tfs{verb.title()}{ending}",
                summary,
                paths.json(f"tfs{verb.title()}{ending}", ref("TfsResults"), headers=CACHED),
                parameters=(*where, *_TFS_HEADERS),
                body=content("application/json", ref("TfsExamples"), **({} if ending else features)),
            )


def _deepstack(paths: Paths) -> None:
    form = content("multipart/form-data", ref("DeepStackInput"))
    for path, name, summary, where in (
        ("/v1/vision/detection", "detect", "Find things with the first model that tells where", ()),
        (
            "/v1/vision/custom/{model}",
            "detectWith",
            "Find things with a model of one's choice",
            (in_path("model", "surface"),),
        ),
    ):
        paths.add(
            _DEEPSTACK,
            "post",
            path,
            name,
            summary,
            paths.json(name, ref("DeepStackAnswer"), headers=CACHED),
            parameters=(*where, TIMEOUT),
            body=form,
            error="DeepStackError",
        )
    paths.add(
        _DEEPSTACK,
        "get",
        "/v1/vision/custom/list",
        "listDetectors",
        "The models that tell where something is",
        ref("DeepStackModels"),
        error="DeepStackError",
    )

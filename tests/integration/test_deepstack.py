"""DeepStack's door, asked as Frigate, Home Assistant and Blue Iris ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest

from appliance.errors import ModelNotFound
from appliance.http.call import Bodies
from appliance.http.vision import detector, vision_door
from appliance.slots import Slots
from tests.support import door as alone
from tests.support.box import Box, running_box
from tests.support.models import encode, picture, spotted, write_model
from tests.support.records import results
from tests.support.wait import until

BODY_BYTES_MAX = 1 << 20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "tiny")
    write_model(root, "shake", kind="window")
    write_model(root, "classes", postprocess={"classes": "probabilities", "normal_label": "good"})
    return root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Box]:
    with running_box(tmp_path_factory.mktemp("box"), models, http={"body_bytes_max": BODY_BYTES_MAX}) as box:
        yield box


def ask(box: Box, body: bytes | None = None, to: str = "detection", **fields: str) -> httpx.Response:
    """As `requests.post(url, files={"image": bytes}, data=...)` does."""
    files = {"image": ("image", spotted() if body is None else body)}
    return box.http.post(f"/v1/vision/{to}", files=files, data=fields)


def found(reply: httpx.Response) -> list[dict[str, Any]]:
    content = reply.json()
    assert (reply.status_code, content["success"]) == (200, True), reply.text
    assert content["duration"] >= 0
    predictions: list[dict[str, Any]] = content["predictions"]
    return predictions


def error(reply: httpx.Response, status: int) -> str:
    content = reply.json()
    assert (reply.status_code, content["success"]) == (status, False), reply.text
    assert "predictions" not in content
    assert "\n" not in content["error"]
    return str(content["error"])


def two_spots() -> bytes:
    """A dark corner above on the left and a grey one below on the right."""
    image = np.full((64, 96, 3), 255, np.uint8)
    image[:16, :24] = 0
    image[48:, 72:] = 100
    return encode(image, ".png")


def test_findings_have_boxes_in_pixels_of_the_picture(box: Box) -> None:
    (prediction,) = found(ask(box))
    assert prediction == {
        "label": prediction["label"],
        "confidence": pytest.approx(0.98, abs=0.01),
        "x_min": 0,
        "y_min": 0,
        "x_max": 32,
        "y_max": 32,
    }


def test_findings_come_best_first(box: Box) -> None:
    """Clients stop at the first that is not sure enough."""
    dark, grey = found(ask(box, two_spots()))
    assert dark["confidence"] > grey["confidence"] > 0.5
    assert (dark["x_min"], dark["y_max"]) == (0, 16)
    assert (grey["x_min"], grey["y_min"], grey["x_max"], grey["y_max"]) == (72, 48, 96, 64)


@pytest.mark.parametrize(("least", "count"), [("0", 2), ("0.4", 2), ("0.7", 1), ("1", 1), ("", 2)])
def test_least_confidence_is_the_caller_s(box: Box, least: str, count: int) -> None:
    assert len(found(ask(box, two_spots(), min_confidence=least, api_key=""))) == count


def test_nothing_found_is_an_empty_list(box: Box) -> None:
    assert found(ask(box, picture(255))) == []


def test_named_model_is_asked(box: Box) -> None:
    assert found(ask(box, to="custom/tiny")) == found(ask(box))


def test_models_that_locate_are_listed(box: Box) -> None:
    for method in ("GET", "POST"):
        content = box.http.request(method, "/v1/vision/custom/list").json()
        assert (content["success"], content["models"]) == (True, ["tiny"])


def test_detection_is_recorded_with_its_picture(box: Box) -> None:
    found(ask(box, source="door-1", part="P-7"))
    until(lambda: results(box.data_dir, "door-1"), 30, "the detection being recorded")
    (result,) = results(box.data_dir, "door-1")
    assert (result["door"], result["part"]) == ("deepstack", "P-7")
    assert box.http.get(f"/v1/results/{result['id']}/image").content == spotted()


@pytest.mark.parametrize("least", ["many", "-0.1", "1.1", "nan"])
def test_least_confidence_that_is_none(box: Box, least: str) -> None:
    assert "min_confidence" in error(ask(box, min_confidence=least), 400)


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"hello", 415), (spotted()[:-20], 400), (bytes(BODY_BYTES_MAX + 1), 413)]
)
def test_picture_that_is_none(box: Box, body: bytes, status: int) -> None:
    error(ask(box, body), status)
    assert len(found(ask(box))) == 1


def test_request_without_one_picture(box: Box) -> None:
    assert "'image'" in error(box.http.post("/v1/vision/detection", data={"min_confidence": "0.5"}), 415)
    assert "0 files" in error(box.http.post("/v1/vision/detection", files={"note": (None, "text")}), 400)
    both = [("image", ("a", spotted())), ("image", ("b", spotted()))]
    assert "2 files" in error(box.http.post("/v1/vision/detection", files=both), 400)
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    error(box.http.post("/v1/vision/detection", content=b"--x\r\nnonsense", headers=form), 400)


def test_model_that_is_not_there_or_does_not_locate(box: Box) -> None:
    assert "'tyni'" in error(ask(box, to="custom/tyni"), 404)
    assert "/v1/predict/classes" in error(ask(box, to="custom/classes"), 400)
    assert "/v1/predict/shake" in error(ask(box, to="custom/shake"), 400)


def test_model_that_does_not_locate_is_not_asked() -> None:
    asked = alone.Asked()
    slots = alone.slots_with(postprocess=SimpleNamespace(boxes=None, heatmap=None))
    door = vision_door(asked.pipeline, slots, Bodies(16 << 20, 256 << 20, 30.0))
    reply = alone.post(door, "/v1/vision/custom/m", files={"image": ("image", spotted())})
    assert "does not say where" in error(reply, 400)
    assert asked.requests == []


def test_compressed_body_is_refused_by_its_coding(box: Box) -> None:
    files = {"image": ("image", spotted())}
    reply = box.http.post("/v1/vision/detection", files=files, headers={"Content-Encoding": "gzip"})
    assert "uncompressed" in error(reply, 415)


def test_wrong_path_and_method(box: Box) -> None:
    for path in ("face", "custom", "custom/tiny/7", ""):
        error(ask(box, to=path), 404)
    reply = box.http.get("/v1/vision/detection")
    error(reply, 405)
    assert reply.headers["allow"] == "POST"
    error(box.http.delete("/v1/vision/custom/list"), 405)


def test_foreign_page_is_refused(box: Box) -> None:
    files = {"image": ("image", spotted())}
    error(box.http.post("/v1/vision/detection", files=files, headers={"Origin": "http://evil.example"}), 403)


# Which model `detection` is.


def slots_of(*models: tuple[str, str, str]) -> Slots:
    """(name, what it locates with, state)"""

    def slot(name: str, by: str, state: str) -> SimpleNamespace:
        postprocess = SimpleNamespace(
            boxes="boxes" if by == "boxes" else None, heatmap="heat" if by == "heat" else None
        )
        on_disk = None if by == "broken" else SimpleNamespace(manifest=SimpleNamespace(postprocess=postprocess))
        return SimpleNamespace(name=name, state=state, on_disk=on_disk)

    found = [slot(*model) for model in sorted(models)]
    return cast(Slots, SimpleNamespace(slots=lambda: found))


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        ([("b", "boxes", "ready"), ("c", "boxes", "ready"), ("a", "heat", "ready")], "b"),
        ([("a", "boxes", "loading"), ("b", "boxes", "ready")], "b"),
        ([("a", "boxes", "failed"), ("b", "heat", "ready")], "a"),
        ([("a", "classes", "ready"), ("b", "heat", "ready"), ("c", "heat", "ready")], "b"),
        ([("a", "broken", "failed"), ("b", "heat", "loading")], "b"),
    ],
)
def test_first_detector_by_name_answers(models: list[tuple[str, str, str]], chosen: str) -> None:
    assert detector(slots_of(*models)) == chosen


def test_box_without_a_detector_says_so() -> None:
    with pytest.raises(ModelNotFound, match="import a detector"):
        detector(slots_of(("a", "classes", "ready")))

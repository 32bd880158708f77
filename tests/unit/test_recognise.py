"""What a network is, from shapes and noise alone; what stays open is refused with the option that closes it."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.authoring.apart import Probe, Range, Seen, TensorInfo
from appliance.authoring.recognise import recognise
from appliance.errors import ImportRefused

PICTURE = (1, 3, 640, 640)
WITHIN = Seen(Range(0.0, 1.0))
LOGITS = Seen(Range(-7.0, 12.0))
PIXELS = Seen(Range(0.0, 640.0), first_rows=Range(4.0, 636.0), first_columns=Range(4.0, 636.0))
SHARES = Seen(Range(0.0, 1.0), first_rows=Range(0.01, 0.99), first_columns=Range(0.01, 0.99))
METADATA = {"names": "{0: 'bolt', 1: 'nut'}", "task": "detect", "stride": "32"}


def make_probe(
    given: tuple[int, ...] | None = PICTURE,
    *taken: tuple[int, ...],
    dtype: str = "float32",
    seen: Seen | None = None,
    metadata: dict[str, str] | None = None,
) -> Probe:
    outputs = tuple(TensorInfo(f"out{index}", "float32", shape) for index, shape in enumerate(taken))
    found = {} if seen is None else {info.name: seen for info in outputs}
    return Probe((TensorInfo("in", dtype, given),), outputs, metadata or {}, found)


@pytest.mark.parametrize(
    ("given", "taken", "kind", "classes"),
    [
        (PICTURE, (1, 84, 8400), "yolov8", 80),
        (PICTURE, (1, 5, 8400), "yolov8", 1),
        ((1, 3, 1280, 1280), (1, 84, 33600), "yolov8", 80),
        ((1, 3, 480, 640), (1, 14, 6300), "yolov8", 10),
        ((1, 640, 640, 3), (1, 84, 8400), "yolov8", 80),
        (PICTURE, (1, 84, 34000), "yolov8", 80),
        (PICTURE, (1, 25200, 85), "yolov5", 80),
        (PICTURE, (1, 25200, 6), "yolov5", 1),
        (PICTURE, (1, 300, 6), "yolov10", None),
        ((1, 3, 224, 224), (1, 1000), "classifier", 1000),
        ((-1, 224, 224, 3), (-1, 2), "classifier", 2),
        ((1, 28, 28, 1), (1, 10), "classifier", 10),
    ],
)
def test_shapes_say_what_it_is(given: tuple[int, ...], taken: tuple[int, ...], kind: str, classes: int | None) -> None:
    found = recognise(make_probe(given, taken))
    assert (found.kind, found.classes) == (kind, classes)


@pytest.mark.parametrize(
    ("given", "layout", "channels"),
    [((1, 3, 32, 64), "nchw", 3), ((-1, 32, 64, 3), "nhwc", 3), ((1, 1, 8, 8), "nchw", 1), ((1, 8, 8, 1), "nhwc", 1)],
)
def test_shape_tells_the_layout(given: tuple[int, ...], layout: str, channels: int) -> None:
    found = recognise(make_probe(given, (1, 10)))
    assert (found.layout, found.channels) == (layout, channels)


def test_layout_that_could_be_either_is_asked_for() -> None:
    probe = make_probe((1, 3, 8, 3), (1, 10))
    with pytest.raises(ImportRefused, match="--layout nchw or nhwc"):
        recognise(probe)
    assert recognise(probe, layout="nhwc").layout == "nhwc"


def test_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ImportRefused, match="which is not nhwc"):
        recognise(make_probe(PICTURE, (1, 10)), layout="nhwc")


@pytest.mark.parametrize(("seen", "activation"), [(WITHIN, "none"), (LOGITS, "softmax"), (None, "none")])
def test_numbers_beyond_0_to_1_are_logits(seen: Seen | None, activation: str) -> None:
    assert recognise(make_probe(PICTURE, (1, 10), seen=seen)).activation == activation


@pytest.mark.parametrize(("given", "taken"), [((-1, 8), (-1, 3)), ((1, 16, 3), (1, 2)), ((1, 5, 9, 9), (1, 2))])
def test_what_takes_no_picture_takes_tensors(given: tuple[int, ...], taken: tuple[int, ...]) -> None:
    assert recognise(make_probe(given, taken)).kind == "tensor"


def test_two_inputs_are_tensors() -> None:
    probe = Probe(
        (TensorInfo("a", "float32", PICTURE), TensorInfo("b", "int64", (1,))), (TensorInfo("c", "bool", (1,)),)
    )
    assert recognise(probe).kind == "tensor"


def test_author_may_say_that_a_picture_is_a_tensor() -> None:
    assert recognise(make_probe(PICTURE, (1, 84, 8400)), kind="tensor").kind == "tensor"


def test_number_of_candidates_that_no_head_has_is_asked_for() -> None:
    probe = make_probe(PICTURE, (1, 84, 1234))
    with pytest.raises(ImportRefused, match="say what it is with --kind"):
        recognise(probe)
    assert recognise(probe, kind="yolov8").classes == 80
    assert recognise(probe, labels=80).kind == "yolov8"


def test_head_of_85_columns_without_anchors_is_not_guessed() -> None:
    with pytest.raises(ImportRefused, match="--kind"):
        recognise(make_probe(PICTURE, (1, 8400, 85)))


def test_of_several_outputs_the_one_that_can_be_judged_is_taken() -> None:
    found = recognise(make_probe((-1, 96, 96, 3), (-1, 24, 24), (-1, 4)))
    assert (found.kind, found.output) == ("classifier", "out1")


def test_several_outputs_that_could_be_are_asked_for() -> None:
    probe = make_probe(PICTURE, (1, 10), (1, 20))
    with pytest.raises(ImportRefused, match="--output NAME"):
        recognise(probe)
    assert recognise(probe, output="out1").classes == 20
    with pytest.raises(ImportRefused, match="no output 'other'"):
        recognise(probe, output="other")


@pytest.mark.parametrize("kind", ["classifier", "yolov8", "yolov5", "yolov10"])
def test_kind_that_the_shape_cannot_be_is_refused(kind: Any) -> None:
    with pytest.raises(ImportRefused, match="out0"):
        recognise(make_probe(PICTURE, (1, 4, 4, 4)), kind=kind)


def test_kind_that_needs_a_picture_is_refused_without() -> None:
    with pytest.raises(ImportRefused, match="no picture"):
        recognise(make_probe((1, 8), (1, 2)), kind="classifier")


@pytest.mark.parametrize(("taken", "form"), [((1, 84, 8400), "yolov8"), ((1, 25200, 85), "yolov5")])
def test_boxes_in_shares_of_the_input_are_refused(taken: tuple[int, ...], form: str) -> None:
    with pytest.raises(ImportRefused, match="shares of the input"):
        recognise(make_probe(PICTURE, taken, seen=SHARES))
    assert recognise(make_probe(PICTURE, taken, seen=PIXELS)).kind == form


@pytest.mark.parametrize("given", [None, (-1, -1, -1, -1), (1, 3, -1, -1), ()])
def test_free_axes_are_refused_with_the_flag_that_pins_them(given: tuple[int, ...] | None) -> None:
    with pytest.raises(ImportRefused, match="dynamic=False"):
        recognise(make_probe(given, (1, 10)))


def test_type_that_is_no_number_is_refused() -> None:
    with pytest.raises(ImportRefused, match="holds string"):
        recognise(make_probe(PICTURE, (1, 10), dtype="string"))


def test_tensor_without_a_name_is_refused() -> None:
    with pytest.raises(ImportRefused, match="no name"):
        recognise(Probe((TensorInfo("", "float32", PICTURE),), (TensorInfo("out", "float32", (1, 2)),)))


def test_network_without_output_is_refused() -> None:
    with pytest.raises(ImportRefused, match="no output"):
        recognise(make_probe(PICTURE))


@pytest.mark.parametrize(
    ("metadata", "labels"),
    [
        (METADATA, ("bolt", "nut")),
        ({"names": '{"0": "bolt", "1": "nut"}'}, ("bolt", "nut")),
        ({"names": "['bolt', 'nut']"}, ("bolt", "nut")),
        ({"labels": "bolt nut"}, ("bolt", "nut")),
        ({"labels_file": "bolt\nhex nut\n\n"}, ("bolt", "hex nut")),
        ({"names": "{0: 'bolt', 2: 'nut'}"}, None),
        ({"names": "__import__('os').abort()"}, None),
        ({"names": "(" * 5000}, None),
        ({}, None),
    ],
)
def test_labels_come_from_what_the_exporter_wrote(metadata: dict[str, str], labels: tuple[str, ...] | None) -> None:
    assert recognise(make_probe(PICTURE, (1, 2), metadata=metadata)).labels == labels


def test_task_whose_outputs_are_not_decoded_is_refused() -> None:
    probe = make_probe(PICTURE, (1, 38, 8400), metadata={**METADATA, "task": "segment"})
    with pytest.raises(ImportRefused, match="task 'segment'"):
        recognise(probe)
    assert recognise(probe, kind="tensor").kind == "tensor"

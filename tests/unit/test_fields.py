"""Part, lot, recipe and source, as publishers give them."""

from __future__ import annotations

import base64

import pytest

from appliance.core.protocol import Part
from appliance.errors import DecodeError, EmptyBody, FieldError
from appliance.fields import base64_bytes, check_part, check_source


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("P-1", "P-1"),
        ("Gehäuse 7/b", "Gehäuse 7/b"),
        (12, "12"),
        (12345678.0, "12345678"),
        (0.5, "0.5"),
        (12345678.25, "12345678.25"),
        ("", None),
        (None, None),
        ("x" * 128, "x" * 128),
    ],
)
def test_part_is_kept_to_the_last_digit(given: object, kept: str | None) -> None:
    assert check_part(given, None, None) == Part(kept)


@pytest.mark.parametrize("given", [True, ["P-1"], {"part": 1}, "x" * 129, "a\nb", "a\0b", "\x1b[31m", 1e300, "\u202e1"])
def test_what_is_no_name_is_refused_with_the_field_s_name(given: object) -> None:
    with pytest.raises(FieldError, match=r"^lot ") as raised:
        check_part(None, given, None)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("source", ["camera-1", "a", "LINE_1.cam.2", "x" * 64])
def test_source_is_a_plain_name(source: str) -> None:
    assert check_source(source) == source


@pytest.mark.parametrize("source", ["", "-a", ".a", "a b", "a/b", "ä", "x" * 65, "a\n", None, 5])
def test_other_sources_are_refused(source: object) -> None:
    with pytest.raises(FieldError, match=r"1 to 64 letters"):
        check_source(source)


def test_base64_with_and_without_a_data_address_is_decoded() -> None:
    text = base64.b64encode(b"\x00picture").decode()
    assert base64_bytes(text, "image") == b"\x00picture"
    assert base64_bytes(f"data:image/png;base64,{text}", "image") == b"\x00picture"


@pytest.mark.parametrize("value", ["%%%", "abc", 5, None, ["aa"], "äöü"])
def test_what_is_not_base64_is_refused_with_the_field_s_name(value: object) -> None:
    with pytest.raises(DecodeError, match="'image'"):
        base64_bytes(value, "image")


def test_empty_base64_is_an_empty_body() -> None:
    with pytest.raises(EmptyBody, match="'image'"):
        base64_bytes("", "image")

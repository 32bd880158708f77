"""multipart/form-data: fields, files, and whatever else may come in its place."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.errors import ApplianceError, DecodeError, FieldError
from appliance.http.forms import PARTS_MAX, FormFile, parse_form

TYPE = 'multipart/form-data; boundary="xyz"'
CHARSETS = ["utf-16", "iso-8859-1", "punycode", "idna", "undefined", "rot13", "nonsense", "a\0b", '"']


def part(content: bytes, name: str = "file", filename: str | None = None, media_type: str | None = None) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    head += f'; filename="{filename}"' if filename is not None else ""
    head += f"\r\nContent-Type: {media_type}" if media_type else ""
    return b"--xyz\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


def test_fields_and_files_come_in_order() -> None:
    body = form(
        part(b"one", filename="a.png", media_type="image/PNG"),
        part("Gehäuse".encode(), "part"),
        part(b"", "lot"),
        part(b"two\r\n--xy", filename="b.csv"),
    )
    parsed = parse_form(body, TYPE)
    assert parsed.fields == {"part": "Gehäuse", "lot": ""}
    assert parsed.files == [FormFile("a.png", "image/png", b"one"), FormFile("b.csv", "", b"two\r\n--xy")]


@pytest.mark.parametrize("media_type", ["image/jpeg", "audio/wav", "application/octet-stream"])
def test_file_without_a_name_is_known_by_its_type(media_type: str) -> None:
    assert parse_form(form(part(b"abc", media_type=media_type)), TYPE).files == [FormFile("", media_type, b"abc")]


def test_field_that_was_left_empty_is_no_file() -> None:
    assert parse_form(form(part(b"", filename="")), TYPE).files == []


@pytest.mark.parametrize("charset", CHARSETS)
def test_text_is_utf8_whatever_character_set_it_claims(charset: str) -> None:
    body = form(part("Gehäuse".encode(), "part", media_type=f"text/plain; charset={charset}"))
    assert parse_form(body, TYPE).fields == {"part": "Gehäuse"}


def test_picture_that_does_not_come_as_a_file_is_called_so() -> None:
    with pytest.raises(DecodeError, match=r"'image'.*send it as a file"):
        parse_form(form(part(b"\x89PNG\r\n", "image")), TYPE)


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        (b"", TYPE, DecodeError),
        (b"nonsense", TYPE, DecodeError),
        (b"--xyz\r\nnonsense", TYPE, DecodeError),
        (part(b"cut off"), TYPE, DecodeError),
        (form(part(b"a")), "multipart/form-data", DecodeError),
        (form(part(b"a")), "multipart/form-data; boundary=other", DecodeError),
        (form(part(b"\xff\xfe", "part")), TYPE, DecodeError),
        (form(part("ä".encode("latin-1"), "part", media_type="text/plain; charset=latin-1")), TYPE, DecodeError),
        (form(part(b"a", "part"), part(b"b", "part")), TYPE, FieldError),
        (form(*[part(b"a", str(index)) for index in range(PARTS_MAX + 1)]), TYPE, DecodeError),
        (b"--xyz\r\nContent-Type: text/plain\r\n\r\na\r\n--xyz--\r\n", TYPE, DecodeError),
        (form(part(b"a", "x" * 10_000)), TYPE, DecodeError),
    ],
)
def test_form_that_cannot_be_read(body: bytes, content_type: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_form(body, content_type)


@given(
    st.binary(max_size=200),
    st.integers(0, 400),
    st.binary(max_size=20),
    st.sampled_from(CHARSETS) | st.text(max_size=8),
)
@example(b"\r\n--xyz", 0, b"", "utf-8")
def test_any_bytes_are_a_form_or_refused(content: bytes, at: int, noise: bytes, charset: str) -> None:
    text = part(content, "part", media_type=f"text/plain; charset={charset}")
    whole = form(part(content, filename="a"), text)
    with contextlib.suppress(ApplianceError):
        parse_form(whole[:at] + noise + whole[at:], TYPE)
    with contextlib.suppress(ApplianceError):
        parse_form(noise + content, TYPE)


@given(st.binary(max_size=500).filter(lambda content: b"--xyz" not in content))
def test_content_of_a_file_comes_through_unchanged(content: bytes) -> None:
    assert parse_form(form(part(content, filename="a")), TYPE).files[0].content == content

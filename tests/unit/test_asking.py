"""What a PLC may send as a trigger."""

from __future__ import annotations

import pytest

from appliance.core.asking import Said, read_trigger
from appliance.errors import DecodeError, FieldError


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", Said()),
        (b"P-1", Said(part="P-1")),
        (b"0042", Said(part="0042")),
        (b"1.50", Said(part="1.50")),
        (b"P-1\0\0\0", Said(part="P-1")),
        (b' "P-1"\r\n', Said(part="P-1")),
        (b'{"part": 7, "lot": "L", "recipe": "r", "key": 12, "station": 3}', Said(7, "L", "r", "12")),
        (b'{"key": ""}', Said()),
    ],
)
def test_trigger_is_read(payload: bytes, said: Said) -> None:
    assert read_trigger(payload) == said


def test_properties_fill_in_what_the_payload_leaves_out() -> None:
    named = {"part": "other", "lot": "L-1", "key": "k"}
    assert read_trigger(b"P-1", named) == Said("P-1", "L-1", None, "k")


@pytest.mark.parametrize("payload", [b"{", b"\xff\xfe", b'"P', b"{" * 100_000])
def test_payload_that_is_neither_text_nor_json_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="trigger is not"):
        read_trigger(payload)


@pytest.mark.parametrize("key", ["true", "1.5", "[1]", '"a\\u0007"', '"' + "k" * 129 + '"'])
def test_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(FieldError, match="key"):
        read_trigger(f'{{"key": {key}}}'.encode())

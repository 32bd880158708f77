"""A flat answer has the same keys always and never more than 256 bytes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.brief import Brief
from appliance.core.flat import FLAT_BYTES_MAX, PART_BYTES_KEPT, flat, shorten

KEYS = ["id", "source", "verdict", "code", "part", "lot", "recipe", "label", "score", "findings", "ms"]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)


def briefs() -> st.SearchStrategy[Brief]:
    return st.builds(
        Brief,
        id=st.integers(0, 2**64 - 1),
        source=TEXTS,
        verdict=st.sampled_from(["ok", "ng", "review", "error", "none"]),
        code=TEXTS,
        part=TEXTS,
        lot=TEXTS,
        recipe=TEXTS,
        label=TEXTS,
        score=st.floats(),
        findings=st.integers(0, 2**40),
        ms=st.integers(0, 2**40),
    )


@given(briefs())
def test_flat_answer_is_one_level_of_fixed_keys_in_256_bytes(brief: Brief) -> None:
    body = flat(brief)
    fields = json.loads(body)
    assert len(body) <= FLAT_BYTES_MAX
    assert list(fields) == KEYS
    for name, value in fields.items():
        assert isinstance(value, str | int | float), name
        if isinstance(value, str):
            whole = getattr(brief, name)
            assert value == whole or (value.endswith("~") and whole.startswith(value[:-1]))


@given(briefs(), st.text("ABCDEFabcdef0123456789-._/", max_size=PART_BYTES_KEPT))
def test_part_of_forty_plain_letters_always_comes_back_whole(brief: Brief, part: str) -> None:
    fields = {name: getattr(brief, name) for name in brief.__struct_fields__}
    assert json.loads(flat(Brief(**{**fields, "part": part})))["part"] == part


def test_everything_that_fits_is_left_as_it_is() -> None:
    brief = Brief(id=7, source="end", verdict="ng", part="P-1", lot="L", label="scratch", score=0.98765, ms=12)
    assert flat(brief) == (
        b'{"id":7,"source":"end","verdict":"ng","code":"","part":"P-1","lot":"L","recipe":"","label":"scratch",'
        b'"score":0.9877,"findings":0,"ms":12}'
    )


@given(TEXTS, st.integers(1, 80))
def test_shortened_text_takes_no_more_than_it_may(text: str, bytes_max: int) -> None:
    assert len(json.dumps(shorten(text, bytes_max), ensure_ascii=False).encode()) >= 2
    assert shorten(text, 10_000) == text
    short = shorten(text, bytes_max)
    assert short == text or (short.endswith("~") and len(short) <= bytes_max)

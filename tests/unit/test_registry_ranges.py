"""Which part of a file a range asks for (RFC 9110, 14.1.2)."""

from __future__ import annotations

import pytest

from provisioning.registry.serve import parse_range


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=99-99", (99, 100)),
        ("bytes=50-500", (50, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=-", None),
        ("bytes=20-10", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_a_range_of_100_bytes(header: str, wanted: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == wanted


@pytest.mark.parametrize(("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0)])
def test_a_range_beyond_the_end_cannot_be_answered(header: str, size: int) -> None:
    with pytest.raises(ValueError, match="begins beyond"):
        parse_range(header, size)

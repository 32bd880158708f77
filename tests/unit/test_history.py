"""What has been recorded, read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import ResultNotFound, SourceNotFound
from appliance.history import History, ResultFilter
from tests.unit.test_store import Clerk, opened


@pytest.fixture
def clerk(tmp_path: Path) -> Iterator[Clerk]:
    with opened(tmp_path / "data", segment_bytes=100) as clerk:
        yield clerk


@pytest.fixture
def history(clerk: Clerk) -> History:
    return History(clerk.store.path, clerk.store.frames)


def test_result_is_there_once_it_is_committed(clerk: Clerk, history: History) -> None:
    new = clerk.result(frame=b"picture")
    with pytest.raises(ResultNotFound, match="not committed yet"):
        history.result(new.result.id)
    clerk.commit(result=new)
    assert history.result(new.result.id) == new.result
    assert history.image(new.result.id) == b"picture"


def test_results_come_newest_first(clerk: Clerk, history: History) -> None:
    ids = []
    for _ in range(5):
        new = clerk.result()
        clerk.commit(result=new)
        ids.append(new.result.id)
    assert [result.id for result in history.results(ResultFilter())] == ids[::-1]
    assert [result.id for result in history.results(ResultFilter(before_id=ids[2], limit=1))] == [ids[1]]


def test_picture_past_its_retention_is_said_to_be_gone(clerk: Clerk, history: History) -> None:
    first, second = clerk.result(frame=bytes(80)), clerk.result(frame=bytes(80))
    for new in (first, second):
        clerk.commit(result=new)
    assert clerk.store.frames.drop([1]) == 1
    assert not history.result(first.result.id).has_image
    with pytest.raises(ResultNotFound, match="past its retention"):
        history.image(first.result.id)
    assert history.result(second.result.id).has_image


def test_source_is_known_by_its_last_result(clerk: Clerk, history: History) -> None:
    clerk.commit(result=clerk.result(source="a", frame=b"picture"))
    last = clerk.result(source="a")
    clerk.commit(result=last)
    clerk.commit(result=clerk.result(source="b"))
    assert history.last_of("a") == last.result
    assert history.last_image_of("a").id == last.result.id - 1
    assert [(source.source, source.count) for source in history.sources()] == [("a", 2), ("b", 1)]
    assert history.count() == 3


def test_source_that_never_spoke_is_not_found(history: History) -> None:
    with pytest.raises(SourceNotFound, match="'nobody'"):
        history.last_of("nobody")
    with pytest.raises(SourceNotFound, match="'nobody'"):
        history.last_image_of("nobody")


@pytest.mark.parametrize("number", [0, -1, 10**40, -(10**40)])
def test_number_that_was_never_an_id_is_not_found(history: History, number: int) -> None:
    with pytest.raises(ResultNotFound):
        history.result(number)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import valid_filter
from appliance.mqtt.topics import FilterTree, matched_levels, matches, valid_topic

# Examples of MQTT 5, section 4.7, and their corners.
MATCHING = [
    ("sport/tennis/player1/#", "sport/tennis/player1"),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
    ("sport/#", "sport"),
    ("#", "a"),
    ("#", "/"),
    ("+", "a"),
    ("+/+", "/finance"),
    ("/+", "/finance"),
    ("sport/+", "sport/"),
    ("+/tennis/#", "sport/tennis"),
    ("a/+/c/#", "a/b/c/d/e"),
    ("$SYS/#", "$SYS/uptime"),
    ("$SYS/+", "$SYS/uptime"),
    ("a/#", "a/$b"),
    ("a/+", "a/$b"),
    ("a//b", "a//b"),
    ("a/+/b", "a//b"),
]
NOT_MATCHING = [
    ("sport/tennis/+", "sport/tennis/player1/ranking"),
    ("sport/+", "sport"),
    ("+", "/finance"),
    ("#", "$SYS/uptime"),
    ("+/uptime", "$SYS/uptime"),
    ("sport/#", "sports"),
    ("a/b", "a"),
    ("a", "a/b"),
    ("a/b", "A/b"),
    ("a/+/c", "a/b/d"),
]


@pytest.mark.parametrize(("topic_filter", "topic"), MATCHING)
def test_a_filter_matches_its_topics(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic)
    tree = FilterTree[int]()
    tree.add(topic_filter, "key", 1)
    assert tree.match(topic) == (1,)


@pytest.mark.parametrize(("topic_filter", "topic"), NOT_MATCHING)
def test_a_filter_does_not_match_other_topics(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)
    tree = FilterTree[int]()
    tree.add(topic_filter, "key", 1)
    assert tree.match(topic) == ()


def test_the_levels_under_wildcards_are_told() -> None:
    assert matched_levels("line/+/camera/#", "line/7/camera/left/raw") == ("7", "left", "raw")
    assert matched_levels("line/+/camera/#", "line/7/camera") == ("7",)
    assert matched_levels("line/7", "line/7") == ()
    assert matched_levels("line/7", "line/8") is None


@pytest.mark.parametrize("topic", ["", "a/+", "a#", "#", "a\0b", "x" * 65_536, "é" * 32_768])
def test_what_cannot_be_published_to_is_no_topic(topic: str) -> None:
    assert not valid_topic(topic)


@pytest.mark.parametrize("topic", ["a", "/", "a//b", " ", "$SYS/x", "Straße/é", "x" * 65_535, "é" * 32_767])
def test_what_can_be_published_to_is_a_topic(topic: str) -> None:
    assert valid_topic(topic)


def test_a_second_value_of_a_key_replaces_the_first() -> None:
    tree = FilterTree[str]()
    tree.add("a/+", "key", "old")
    assert tree.match("a/b") == ("old",)
    tree.add("a/+", "key", "new")
    assert tree.match("a/b") == ("new",)
    assert len(tree) == 1


def test_a_removed_filter_matches_no_more_and_leaves_nothing_behind() -> None:
    tree = FilterTree[int]()
    tree.add("a/b/c", 1, 1)
    tree.add("a/b", 2, 2)
    assert not tree.remove("a/b/c", 2)
    assert not tree.remove("a/x", 1)
    assert not tree.remove("a", 1)
    assert tree.remove("a/b/c", 1)
    assert tree.match("a/b/c") == ()
    assert tree.match("a/b") == (2,)
    assert tree.remove("a/b", 2)
    assert len(tree) == 0
    assert not tree._root.children


def test_many_different_topics_are_not_remembered_for_ever() -> None:
    tree = FilterTree[int]()
    tree.add("#", "key", 1)
    for number in range(10_000):
        assert tree.match(f"topic/{number}") == (1,)
    assert tree.match("x" * 1000) == (1,)
    assert len(tree._remembered) <= 4096
    assert "x" * 1000 not in tree._remembered


levels = st.sampled_from(["", "a", "b", "$s"])
filters = st.lists(st.one_of(levels, st.sampled_from(["+", "#"])), min_size=1, max_size=4).map("/".join)
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)


@given(st.sets(filters.filter(valid_filter)), topics)
def test_the_tree_finds_exactly_the_filters_that_match_one_by_one(wanted: set[str], topic: str) -> None:
    tree = FilterTree[str]()
    for topic_filter in wanted:
        tree.add(topic_filter, "key", topic_filter)
    assert sorted(tree.match(topic)) == sorted(one for one in wanted if matches(one, topic))

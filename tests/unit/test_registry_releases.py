"""What the next release of a ring says, decided from those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from appliance.core.release import ModelRef, Release, Requirements, Rollout, Window
from appliance.errors import RegistryError
from provisioning.registry import releases
from provisioning.registry.releases import Terms

NOW = "2026-11-24T12:00:00Z"
WINDOW = Window(begins="22:00", ends="05:00")
USUAL = Terms()


def ref(version: str) -> ModelRef:
    return ModelRef(version=version, manifest=version[-1] * 64, bytes=1)


def refs(**versions: str) -> dict[str, ModelRef]:
    return {name: ref(version) for name, version in versions.items()}


def promote(before: Release | None, percent: float = 100.0, terms: Terms = USUAL, **versions: str) -> Release:
    return then(before, percent, versions, terms)


def then(before: Release | None, percent: float, versions: Mapping[str, str], terms: Terms = USUAL) -> Release:
    return releases.promote(before, "stable", refs(**versions), percent, NOW, terms)


def chain(*steps: tuple[float, Mapping[str, str]]) -> list[Release]:
    """The releases of several promotions."""
    found: list[Release] = []
    for percent, versions in steps:
        found.append(then(found[-1] if found else None, percent, versions))
    return found


def test_the_first_promotion_of_a_ring_is_its_release_1() -> None:
    release = promote(None, a="1")
    assert (release.number, release.models, release.others, release.percent) == (1, refs(a="1"), {}, 100.0)
    assert (release.ring, release.issued) == ("stable", NOW)


def test_a_share_gets_the_new_version_and_the_rest_keeps_what_it_has() -> None:
    release = chain((100, {"a": "1", "b": "1"}), (10, {"a": "2"}))[-1]
    assert (release.percent, release.models, release.others) == (10, refs(a="2", b="1"), refs(a="1", b="1"))


def test_the_share_grows_until_all_have_it() -> None:
    history = chain((100, {"a": "1"}), (10, {"a": "2"}), (50, {"a": "2"}), (100, {"a": "2"}))
    assert [each.percent for each in history] == [100, 10, 50, 100]
    assert [each.others for each in history[2:]] == [refs(a="1"), {}]
    assert [each.number for each in history] == [1, 2, 3, 4]


def test_a_first_version_can_go_to_a_share_too() -> None:
    release = promote(None, 10, a="1")
    assert (release.models, release.others, release.percent) == (refs(a="1"), {}, 10)


def test_a_share_of_what_all_others_have_is_no_share() -> None:
    history = chain((100, {"a": "1"}), (10, {"a": "2"}))
    for before in history:
        with pytest.raises(RegistryError, match=r"a 1 is what the other boxes have as well"):
            promote(before, 10, a="1")
    assert promote(history[-1], 100, a="1").models == refs(a="1")


def test_models_on_their_way_must_be_named_by_who_promotes_others() -> None:
    history = chain((100, {"a": "1", "b": "1"}), (10, {"a": "2"}))
    with pytest.raises(RegistryError, match=r"on its way with a 2 at 10%: name a too"):
        promote(history[-1], 100, b="2")
    release = promote(history[-1], 10, a="2", b="2")
    assert (release.models, release.others) == (refs(a="2", b="2"), refs(a="1", b="1"))


def test_what_is_not_said_is_as_before() -> None:
    terms = Terms(
        window=WINDOW,
        requires=Requirements(memory_mb=100),
        rollout=Rollout(mode="shadow"),
        configuration={"recipes": {}},
    )
    first = promote(None, terms=terms, a="1")
    second = promote(first, a="2")
    kept = (second.window, second.requires, second.rollout, second.configuration)
    assert kept == (terms.window, terms.requires, terms.rollout, terms.configuration)
    third = promote(second, terms=Terms(no_window=True, no_configuration=True), a="3")
    assert (third.window, third.configuration) == (None, None)


def test_issued_never_goes_back() -> None:
    first = promote(None, a="1")
    later = releases.promote(first, "stable", refs(a="2"), 100, "2026-11-24T11:00:00Z", Terms())
    assert later.issued == NOW


def test_a_blocked_version_is_not_promoted() -> None:
    history = chain((100, {"a": "1"}), (100, {"a": "2"}))
    blocked = releases.block(history, "a", ref("2"), NOW)
    with pytest.raises(RegistryError, match=r"a 2 is blocked in ring stable; lift that first"):
        promote(blocked, a="2")


@pytest.mark.parametrize(
    ("steps", "models"),
    [
        ([(100, {"a": "1"}), (100, {"a": "2"})], {"a": "1"}),
        ([(100, {"a": "1"}), (10, {"a": "2"})], {"a": "1"}),
        ([(100, {"a": "1"}), (10, {"a": "2"}), (50, {"a": "2"})], {"a": "1"}),
        ([(100, {"a": "1"}), (10, {"a": "2"}), (100, {"a": "2"})], {"a": "1"}),
        ([(100, {"a": "1", "b": "1"}), (100, {"a": "2", "b": "2"})], {"a": "1", "b": "1"}),
        ([(100, {"a": "1"}), (100, {"b": "1"})], {"a": "1"}),
    ],
)
def test_a_roll_back_gives_all_boxes_what_all_had_before(
    steps: Sequence[tuple[float, Mapping[str, str]]], models: Mapping[str, str]
) -> None:
    release = releases.rollback(chain(*steps), NOW)
    assert (release.models, release.others, release.percent) == (refs(**models), {}, 100.0)
    assert release.number == len(steps) + 1


def test_a_second_roll_back_goes_one_further_and_not_forth_again() -> None:
    history = chain((100, {"a": "1"}), (100, {"a": "2"}), (100, {"a": "3"}))
    history.append(releases.rollback(history, NOW))
    history.append(releases.rollback(history, NOW))
    assert [each.models["a"].version for each in history] == ["1", "2", "3", "2", "1"]
    with pytest.raises(RegistryError, match="has had nothing else"):
        releases.rollback(history, NOW)


def test_a_roll_back_brings_back_the_configuration_of_its_models() -> None:
    first = promote(None, terms=Terms(configuration={"recipes": {"old": {}}}), a="1")
    second = promote(first, terms=Terms(configuration={"recipes": {"new": {}}}), a="2")
    assert releases.rollback([first, second], NOW).configuration == {"recipes": {"old": {}}}


def test_a_roll_back_may_name_its_release() -> None:
    history = chain((100, {"a": "1"}), (100, {"a": "2"}), (100, {"a": "3"}))
    assert releases.rollback(history, NOW, to=1).models == refs(a="1")
    with pytest.raises(RegistryError, match="no release 7 before 3"):
        releases.rollback(history, NOW, to=7)


def test_a_roll_back_does_not_lead_to_a_blocked_version() -> None:
    history = chain((100, {"a": "1"}), (100, {"a": "2"}))
    history.append(releases.block(history, "a", ref("1"), NOW))
    with pytest.raises(RegistryError, match="has a 1, which is blocked"):
        releases.rollback(history, NOW)


@pytest.mark.parametrize(
    ("steps", "models", "others"),
    [
        ([(100, {"a": "1"}), (100, {"a": "2"})], {"a": "1"}, {}),
        ([(100, {"a": "1"}), (10, {"a": "2"})], {"a": "1"}, {}),
        ([(100, {"a": "2"})], {}, {}),
        ([(100, {"a": "2"}), (10, {"a": "3"})], {"a": "3"}, {}),
        ([(100, {"a": "1", "b": "1"}), (100, {"a": "2", "b": "2"})], {"a": "1", "b": "2"}, {}),
        ([(100, {"a": "1", "b": "1"}), (10, {"a": "2", "b": "2"})], {"a": "1", "b": "2"}, {"a": "1", "b": "1"}),
        ([(100, {"a": "1"})], {"a": "1"}, {}),
    ],
)
def test_a_block_puts_the_newest_other_version_in_its_place(
    steps: Sequence[tuple[float, Mapping[str, str]]], models: Mapping[str, str], others: Mapping[str, str]
) -> None:
    release = releases.block(chain(*steps), "a", ref("2"), NOW)
    assert (release.models, release.others) == (refs(**models), refs(**others))
    assert release.blocks("a", "2")
    assert release.blocked[0].manifest == ref("2").manifest


def test_a_block_stays_until_it_is_lifted() -> None:
    history = chain((100, {"a": "1"}), (100, {"a": "2"}))
    blocked = releases.block(history, "a", ref("2"), NOW)
    after = promote(blocked, a="3")
    assert after.blocks("a", "2")
    with pytest.raises(RegistryError, match="is blocked in ring stable already"):
        releases.block([*history, blocked, after], "a", ref("2"), NOW)
    lifted = releases.lift(after, "a", "2", NOW)
    assert not lifted.blocks("a", "2")
    with pytest.raises(RegistryError, match="a 2 is not blocked"):
        releases.lift(lifted, "a", "2", NOW)


def test_a_pause_stays_until_it_is_ended() -> None:
    paused = releases.pause(promote(None, a="1"), NOW, True)
    assert promote(paused, a="2").paused
    with pytest.raises(RegistryError, match="is paused already"):
        releases.pause(paused, NOW, True)
    assert not releases.pause(paused, NOW, False).paused


def test_what_all_boxes_had_leaves_out_what_was_taken_back() -> None:
    history = chain((100, {"a": "1"}), (100, {"a": "2"}), (10, {"a": "3"}))
    history.append(releases.rollback(history, NOW))
    history.append(promote(history[-1], 100, a="4"))
    found: list[Any] = [each.models["a"].version for each in releases.standing(history)]
    assert found == ["1", "2", "4"]

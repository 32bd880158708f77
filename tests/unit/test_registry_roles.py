"""Which team may sign which model."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from appliance.errors import RegistryError
from provisioning.registry.roles import check_teams, may_meet, team_of


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("surface", "surface", True),
        ("surface", "bearing", False),
        ("surface*", "surface-2", True),
        ("surface-*", "surface", False),
        ("*", "bearing", True),
        ("weld-*", "*-seam", True),
        ("weld-*", "glue-*", False),
        ("weld-?", "weld-1", True),
        ("weld-?", "weld-12", False),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("a*d", "*bc", False),
        ("*a*", "*b*", True),
        ("", "*", True),
    ],
)
def test_two_patterns_meet_where_a_name_fits_both(one: str, other: str, meet: bool) -> None:
    assert may_meet(one, other) is meet
    assert may_meet(other, one) is meet


@pytest.mark.parametrize(
    ("teams", "reason"),
    [
        ({"Vision": "*"}, "a team is called like"),
        ({"channels": "*"}, "not as one of the roles"),
        ({"root": "*"}, "not as one of the roles"),
        ({"vision": "a/b"}, "none for names of models"),
        ({"vision": "../*"}, "none for names of models"),
        ({"vision": ""}, "none for names of models"),
        ({"vision": "weld-*", "sound": "*"}, "could both sign"),
    ],
)
def test_teams_that_cannot_be_are_refused(teams: Mapping[str, str], reason: str) -> None:
    with pytest.raises(RegistryError, match=reason):
        check_teams(teams)


def test_a_model_belongs_to_the_team_whose_pattern_it_fits() -> None:
    teams = {"vision": "surface*", "sound": "bearing*"}
    check_teams(teams)
    assert team_of("bearing-2", teams) == "sound"
    with pytest.raises(RegistryError, match="no team may publish a model called weld"):
        team_of("weld", teams)

"""`[sources.<name>]` and `[recipes.<name>]`: what they may say, and how what they may not say is worded."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import load, named_models
from appliance.core.area import Mask
from appliance.errors import ConfigError

EXAMPLE = """
[recipes.brackets.surface]
score_ng_min = 0.4

[recipes.brackets.routes.pictures]
model = "brackets"

[recipes.brackets.sources.camera-1]
crop = [0.1, 0.2, 0.5, 0.5]

[sources.camera-1]
images = "findings"
images_days = 2
masks = [
  { rectangle = [0, 0, 0.3, 0.2] },
  { polygon = [[0.5, 0.5], [0.6, 0.5], [0.55, 0.7]] },
]
expected_every_s = 10
dark_below = 0.1
blurred_below = 40
"""


def read(tmp_path: Path, text: str) -> str:
    path = tmp_path / "appliance.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_models_of_a_recipe_stand_beside_its_routes_and_sources(tmp_path: Path) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text(EXAMPLE)
    config = load(path)
    recipe = config.recipes["brackets"]
    assert recipe.models["surface"].score_ng_min == 0.4
    assert recipe.routes["pictures"].model == "brackets"
    assert recipe.sources["camera-1"].crop == (0.1, 0.2, 0.5, 0.5)
    assert named_models(config) == [("recipe brackets", "brackets"), ("recipe brackets", "surface")]


def test_source_has_rules_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text(EXAMPLE)
    source = load(path).sources["camera-1"]
    assert (source.images, source.images_days, source.expected_every_s) == ("findings", 2, 10)
    assert source.masks == (
        Mask(rectangle=(0, 0, 0.3, 0.2)),
        Mask(polygon=((0.5, 0.5), (0.6, 0.5), (0.55, 0.7))),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[sources.cam]\nimage = 'all'", "unknown field `image` - at `$.sources[...]`"),
        ("[sources.cam]\nimages = 'some'", "Invalid enum value 'some'"),
        ("[sources.cam]\nimages_days = 0", "$.sources[...].images_days"),
        ("[sources.cam]\nexpected_every_s = 0", "$.sources[...].expected_every_s"),
        ("[sources.cam]\ndark_below = 20", "$.sources[...].dark_below"),
        ("[sources.cam]\nblurred_below = -1", "$.sources[...].blurred_below"),
        ("[sources.'cam 1']\nimages = 'all'", "$.sources"),
        ("[sources.cam]\nmasks = [{}]", "a mask is a rectangle"),
        ("[sources.cam]\nmasks = [{ rectangle = [0, 0, 2, 1] }]", "$.sources[...].masks[0].rectangle[2]"),
        ("[sources.cam]\nmasks = [{ rectangle = [0.5, 0, 0.6, 1] }]", "reaches out of the picture"),
        ("[sources.cam]\nmasks = [{ polygon = [[0, 0], [1, 1]] }]", "masks[0].polygon"),
        ("[recipes.r.sources.cam]\ncrop = [0.5, 0, 0.6, 1]", "reaches out of the picture"),
        ("[recipes.r.sources.cam]\ncorp = [0, 0, 1, 1]", "unknown field `corp`"),
        ("[recipes.r.routes.line]\nmodel = 'Not A Model'", "$.recipes[...].routes[...].model"),
        ("recipes = 1", "$.recipes"),
        ("[recipes]\nr = 1", "$.recipes"),
        ("[recipes.r]\nsurface = 1", "$.recipes[...].models"),
    ],
)
def test_wrong_rule_is_refused_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in read(tmp_path, text)

from __future__ import annotations

import pytest

from appliance.core.units import conversion


@pytest.mark.parametrize(
    ("unit", "to", "number", "expected"),
    [
        ("m/s²", "g", 9.80665, 1.0),
        ("mg", "g", 1500.0, 1.5),
        ("°C", "K", 20.0, 293.15),
        ("°F", "°C", 212.0, 100.0),
        ("K", "degF", 273.15, 32.0),
        ("bar", "kPa", 2.0, 200.0),
        ("rpm", "Hz", 1500.0, 25.0),
        ("mm", "in", 25.4, 1.0),
        ("%", "1", 50.0, 0.5),
        ("furlong", "furlong", 3.0, 3.0),
    ],
)
def test_number_in_one_unit_becomes_a_number_in_another(unit: str, to: str, number: float, expected: float) -> None:
    factor, zero = conversion(unit, to)
    assert factor * number + zero == pytest.approx(expected)


@pytest.mark.parametrize(("unit", "to"), [("V", "g"), ("furlong", "m"), ("g", "furlong")])
def test_units_that_do_not_measure_the_same_are_refused(unit: str, to: str) -> None:
    with pytest.raises(ValueError, match=f"{unit} does not become {to}"):
        conversion(unit, to)

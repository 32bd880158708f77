"""Units of measurement, and how a number in one becomes a number in another.

Factors are exact by definition (SI brochure, 9th edition; NIST SP 811, appendix B.8); 1 g is 9.80665 m/s2.
"""

from __future__ import annotations

import math

_GROUPS: tuple[dict[str, tuple[float, float]], ...] = (
    {"m/s2": (1.0, 0.0), "mm/s2": (1e-3, 0.0), "g": (9.80665, 0.0), "mg": (9.80665e-3, 0.0), "Gal": (1e-2, 0.0)},
    {"m/s": (1.0, 0.0), "mm/s": (1e-3, 0.0), "m/min": (1 / 60, 0.0), "in/s": (0.0254, 0.0), "km/h": (1 / 3.6, 0.0)},
    {
        "m": (1.0, 0.0),
        "cm": (1e-2, 0.0),
        "mm": (1e-3, 0.0),
        "um": (1e-6, 0.0),
        "in": (0.0254, 0.0),
        "mil": (2.54e-5, 0.0),
        "ft": (0.3048, 0.0),
    },
    {"K": (1.0, 0.0), "degC": (1.0, 273.15), "degF": (5 / 9, 273.15 - 32 * 5 / 9)},
    {
        "Pa": (1.0, 0.0),
        "hPa": (1e2, 0.0),
        "kPa": (1e3, 0.0),
        "MPa": (1e6, 0.0),
        "mbar": (1e2, 0.0),
        "bar": (1e5, 0.0),
        "psi": (6894.757293168361, 0.0),
    },
    {"A": (1.0, 0.0), "mA": (1e-3, 0.0), "uA": (1e-6, 0.0)},
    {"V": (1.0, 0.0), "mV": (1e-3, 0.0), "uV": (1e-6, 0.0), "kV": (1e3, 0.0)},
    {"W": (1.0, 0.0), "kW": (1e3, 0.0), "MW": (1e6, 0.0)},
    {"Hz": (1.0, 0.0), "kHz": (1e3, 0.0), "rpm": (1 / 60, 0.0), "rad/s": (1 / (2 * math.pi), 0.0)},
    {"N": (1.0, 0.0), "kN": (1e3, 0.0), "lbf": (4.4482216152605, 0.0)},
    {"N m": (1.0, 0.0), "kN m": (1e3, 0.0), "mN m": (1e-3, 0.0)},
    {"kg": (1.0, 0.0), "t": (1e3, 0.0), "lb": (0.45359237, 0.0)},
    {"m3/s": (1.0, 0.0), "m3/h": (1 / 3600, 0.0), "l/s": (1e-3, 0.0), "l/min": (1e-3 / 60, 0.0)},
    {"s": (1.0, 0.0), "ms": (1e-3, 0.0), "us": (1e-6, 0.0), "min": (60.0, 0.0), "h": (3600.0, 0.0)},
    {"1": (1.0, 0.0), "%": (1e-2, 0.0), "ppm": (1e-6, 0.0)},
)
"""Of each quantity: unit -> (a, b), where a * x + b is in the first unit of its group."""

_SPELLINGS = {
    "m/s²": "m/s2",
    "m/s^2": "m/s2",
    "mm/s²": "mm/s2",
    "mm/s^2": "mm/s2",
    "°C": "degC",
    "C": "degC",
    "°F": "degF",
    "F": "degF",
    "µm": "um",
    "μm": "um",
    "µA": "uA",
    "μA": "uA",
    "µV": "uV",
    "μV": "uV",
    "µs": "us",
    "μs": "us",
    "1/min": "rpm",
    "Nm": "N m",
    "kNm": "kN m",
    "m³/h": "m3/h",
    "m³/s": "m3/s",
}


def conversion(unit: str, to: str) -> tuple[float, float]:
    """(a, b) with which a * x + b is in `to` when x is in `unit`.

    Two equal names need no entry here. Raises ValueError for names that are not known to measure the same.
    """
    if unit == to:
        return 1.0, 0.0
    here, there = _SPELLINGS.get(unit, unit), _SPELLINGS.get(to, to)
    if here == there:
        return 1.0, 0.0
    for group in _GROUPS:
        if here in group and there in group:
            (a, b), (c, d) = group[here], group[there]
            return a / c, (b - d) / c
    known = next((", ".join(group) for group in _GROUPS if there in group), None)
    advice = f"units that become {to} are {known}" if known else f"nothing becomes {to}, whatever that is"
    raise ValueError(f"{unit} does not become {to}; {advice}; use `scale` and `offset` and leave `unit` out")

"""A simulated rotating machine: three-axis vibration of a shaft on a rolling bearing, sound or with a fault.

Bearing orders, events per turn of the shaft, for `n` balls, `r` = ball / pitch diameter times the cosine of the contact
angle, and `q` = the same ratio without the cosine (Randall & Antoni 2011, equations 1 to 4):

    FTF  = (1 - r) / 2              the cage turns
    BPFO = n (1 - r) / 2            balls pass a point of the outer race
    BPFI = n (1 + r) / 2            balls pass a point of the inner race
    BSF  = (1 - r^2) / (2 q)        a ball spins; a flaw on it strikes a race twice a spin

What is modelled, and after whom:

- A flaw strikes once a passage; each blow rings the structure as `exp(-2 pi zeta f t) sin(2 pi f t)`, zeta the damping
  ratio (McFadden & Smith 1984).
- Balls slip: the angle between blows varies at random by about one per cent, and the deviations add up, so that the
  series is cyclostationary of second order and not periodic (Randall & Antoni 2011, section 2).
- A blow is as strong as the load where it lands: Stribeck's load zone `(1 - (1 - cos a) / (2 e))^1.5`, zero outside it.
  A flaw of the outer race stays at one angle, one of the inner race turns with the shaft, one of a ball with the cage
  (McFadden & Smith 1984).
- Under it lie the shaft's harmonics, imbalance growing with the square of the speed, misalignment at the second and
  third; the blades of a pump; noise that the structure colours, swelling with the turning shaft; white noise of the
  sensors; stray knocks from next door; a speed that wanders by a few per cent over seconds.

Sources: R. B. Randall, J. Antoni, "Rolling element bearing diagnostics: a tutorial", Mechanical Systems and Signal
Processing 25 (2011) 485-520. P. D. McFadden, J. D. Smith, "Model for the vibration produced by a single point defect in
a rolling element bearing", Journal of Sound and Vibration 96 (1984) 69-82.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

RATE_HZ = 8192.0
SPEED_HZ_MIN, SPEED_HZ_MAX = 25.0, 50.0

Condition = Literal["normal", "inner_race", "outer_race", "ball", "imbalance", "looseness", "cage"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)

# Peak of a blow in g, on the best axis, at full load and at REFERENCE_SPEED_HZ; noise is 0.03 to 0.11 g RMS.
SEVERITIES_G = {"weak": 0.2, "moderate": 0.5, "severe": 1.25}
REFERENCE_SPEED_HZ = 37.5
RINGING_SAMPLES = 512
# Machines with seeds from here on were not used to train, test or choose anything.
UNSEEN_SEED_MIN = 300_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bearing:
    """Geometry: number of balls, ball diameter over pitch diameter, contact angle in radians."""

    balls: int
    ratio: float
    contact_rad: float = 0.0

    @property
    def ftf(self) -> float:
        """Turns of the cage per turn of the shaft."""
        return (1.0 - self._r) / 2.0

    @property
    def bpfo(self) -> float:
        """Passages over a point of the outer race per turn of the shaft."""
        return self.balls * (1.0 - self._r) / 2.0

    @property
    def bpfi(self) -> float:
        """Passages over a point of the inner race per turn of the shaft."""
        return self.balls * (1.0 + self._r) / 2.0

    @property
    def bsf(self) -> float:
        """Spins of a ball per turn of the shaft."""
        return (1.0 - self._r**2) / (2.0 * self.ratio)

    @property
    def _r(self) -> float:
        return self.ratio * math.cos(self.contact_rad)


class Machine:
    """One machine, drawn from `seed`: its bearing, speed, structure, noise. Read it as a sensor would be read.

    The signal does not depend on how it is cut into blocks. The condition may change while the machine runs.
    severity: peak of a blow in g (`SEVERITIES_G`); without meaning for a normal machine.
    speed_hz: mean speed of the shaft in turns a second; drawn from SPEED_HZ_MIN..SPEED_HZ_MAX when not given.
    """

    def __init__(
        self,
        seed: int,
        condition: Condition = "normal",
        severity: float = SEVERITIES_G["moderate"],
        *,
        speed_hz: float | None = None,
        rate_hz: float = RATE_HZ,
    ) -> None:
        body, noise, slip, knock = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
        self._noise, self._slip, self._knock = noise, slip, knock
        self.rate_hz = rate_hz
        drawn_speed_hz = float(body.uniform(SPEED_HZ_MIN, SPEED_HZ_MAX))
        self.speed_hz = drawn_speed_hz if speed_hz is None else speed_hz
        self.bearing = Bearing(
            int(body.integers(7, 10)), float(body.uniform(0.20, 0.27)), float(np.deg2rad(body.uniform(0.0, 15.0)))
        )
        self._draw_speed_wander(body)
        self._draw_structure(body)
        self._draw_background(body)
        self._draw_flaw(body)
        self._read = 0
        self._next_knock_s = float(knock.exponential(1.0 / self._knocks_hz))
        self.become(condition, severity)

    def become(self, condition: Condition, severity: float = SEVERITIES_G["moderate"]) -> None:
        """Take on a condition from the next sample on."""
        if condition not in CONDITIONS:
            raise ValueError(f"condition: one of {', '.join(CONDITIONS)}, not {condition!r}")
        if not severity > 0:
            raise ValueError(f"severity: a peak in g above 0, not {severity}")
        self.condition: Condition = condition
        self.severity = severity
        self._blow = 0
        self._next_blow_turns = float(self._turns(np.array([self._read / self.rate_hz]))[0])

    def read(self, count: int) -> npt.NDArray[np.float32]:
        """The next `count` samples: (count, 3) float32, acceleration of x, y, z in g."""
        t = (self._read + np.arange(count + 1)) / self.rate_hz
        turns = self._turns(t)
        noise = self._noise.standard_normal((count, 4))
        excitation = self._strike(t, self._blows(t, turns) + self._knocks(t))
        excitation += self._rough_noise_g * noise[:, 3:] * self._swell(turns[:-1]) * self._noise_scale
        signal: Floats = self._ring(excitation) @ self._structure_gains
        signal += self._harmonics(turns[:-1], self._speed(t[:-1]))
        signal += self._sensor_noise_g * noise[:, :3]
        self._read += count
        return signal.astype(np.float32)

    def blocks(self, count: int) -> Iterator[npt.NDArray[np.float32]]:
        """Blocks of `count` samples, without end."""
        while True:
            yield self.read(count)

    def _draw_speed_wander(self, body: np.random.Generator) -> None:
        self._wander_share = body.uniform(0.002, 0.02, 3)
        self._wander_hz = 1.0 / body.uniform(3.0, 30.0, 3)
        self._wander_phase = body.uniform(0.0, 2 * np.pi, 3)

    def _draw_structure(self, body: np.random.Generator) -> None:
        """Two modes; `_structure_gains` (mode, axis) says how much of each the axes feel."""
        mode_hz = np.array([body.uniform(1400.0, 2400.0), body.uniform(2400.0, 3600.0)])
        damping = body.uniform(0.02, 0.06, 2)
        self._pole = 2 * np.pi * mode_hz * (-damping + 1j * np.sqrt(1 - damping**2)) / self.rate_hz
        self._ringing = np.exp(np.outer(np.arange(RINGING_SAMPLES), self._pole))
        self._carried = np.zeros(2, dtype=np.complex128)
        self._tail = np.zeros((RINGING_SAMPLES - 1, 2), dtype=np.complex128)
        # Driven by white noise of variance one, a mode then has an RMS of one.
        self._noise_scale = 1.0 / np.sqrt((self._ringing.imag**2).sum(axis=0))
        gains = body.uniform(0.2, 1.0, (2, 3)) * body.choice([-1.0, 1.0], (2, 3))
        share = body.uniform(0.35, 1.0, (2, 1))
        self._structure_gains = share / share.max() * gains / np.abs(gains).max(axis=1, keepdims=True)

    def _draw_background(self, body: np.random.Generator) -> None:
        self._sensor_noise_g = float(np.exp(body.uniform(np.log(0.02), np.log(0.06))))
        self._rough_noise_g = float(np.exp(body.uniform(np.log(0.02), np.log(0.09))))
        self._swell_depth, self._swell_phase = float(body.uniform(0.0, 0.25)), float(body.uniform(0.0, 2 * np.pi))
        self._knocks_hz = float(np.exp(body.uniform(np.log(0.02), np.log(0.6))))
        blades = int(body.integers(3, 8))
        self._harmonic_orders = np.array([1.0, 2.0, 3.0, blades])
        level_g = np.exp(body.uniform(np.log([0.03, 0.01, 0.005, 0.003]), np.log([0.15, 0.06, 0.03, 0.05])))
        self._harmonic_g = level_g[:, None] * body.uniform(0.2, 1.0, (4, 3))
        self._harmonic_phase = body.uniform(0.0, 2 * np.pi, (4, 3))

    def _draw_flaw(self, body: np.random.Generator) -> None:
        self._slip_share = float(body.uniform(0.005, 0.02))
        self._load_reach = float(body.uniform(0.3, 0.5))
        self._outer_load = self._load(float(np.deg2rad(body.uniform(-50.0, 50.0))))
        self._inner_blow_share = float(body.uniform(0.5, 0.9))
        self._flaw_turns = float(body.uniform(0.0, 1.0))
        self._loose_g = 0.12 * body.uniform(0.3, 1.0, (16, 3)) / np.sqrt(np.arange(1, 17))[:, None]
        self._loose_phase = body.uniform(0.0, 2 * np.pi, (16, 3))

    def _turns(self, t: Floats) -> Floats:
        """Turns of the shaft since the start: the integral of the wandering speed."""
        angle = 2 * np.pi * np.outer(t, self._wander_hz) + self._wander_phase
        swing = self._wander_share / (2 * np.pi * self._wander_hz)
        return self.speed_hz * (t + (np.cos(self._wander_phase) - np.cos(angle)) @ swing)

    def _speed(self, t: Floats) -> Floats:
        """Speed of the shaft at times in s, in turns a second."""
        angle = 2 * np.pi * np.outer(t, self._wander_hz) + self._wander_phase
        speed_hz: Floats = self.speed_hz * (1.0 + np.sin(angle) @ self._wander_share)
        return speed_hz

    def _load(self, angle_rad: float) -> float:
        """Stribeck's load at an angle from the middle of the load zone, 0..1."""
        return math.pow(max(0.0, 1.0 - (1.0 - math.cos(angle_rad)) / (2.0 * self._load_reach)), 1.5)

    def _blows(self, t: Floats, turns: Floats) -> list[tuple[float, float]]:
        """Time in s and peak in g of each blow of the flaw up to the last of `t`."""
        order = self._blow_order()
        blows: list[tuple[float, float]] = []
        if order is None:
            return blows
        slip = self._slip_share * (5.0 if self.condition in ("cage", "looseness") else 1.0)
        while self._next_blow_turns < turns[-1]:
            at = self._next_blow_turns
            wobble = self._slip.standard_normal(2)
            blows.append((float(np.interp(at, turns, t)), self._strength(at) * math.exp(0.15 * wobble[0])))
            self._blow += 1
            self._next_blow_turns = at + max(0.2, 1.0 + slip * wobble[1]) / order
        speed_hz = self._speed(np.array([time_s for time_s, _ in blows]))
        return [
            (time_s, self.severity * strength * float(hz) / REFERENCE_SPEED_HZ)
            for (time_s, strength), hz in zip(blows, speed_hz, strict=True)
        ]

    def _blow_order(self) -> float | None:
        orders: dict[Condition, float] = {
            "outer_race": self.bearing.bpfo,
            "inner_race": self.bearing.bpfi,
            "ball": 2.0 * self.bearing.bsf,
            "cage": self.bearing.ftf,
            "looseness": 1.0,
        }
        return orders.get(self.condition)

    def _strength(self, turns: float) -> float:
        """Strength of the blow that lands when the shaft has made `turns`, 0..1."""
        if self.condition == "outer_race":
            return self._outer_load
        if self.condition == "inner_race":
            return self._load(2 * math.pi * (turns + self._flaw_turns))
        if self.condition == "ball":
            load = self._load(2 * math.pi * (turns * self.bearing.ftf + self._flaw_turns))
            return load * (self._inner_blow_share if self._blow % 2 else 1.0)
        return 0.6

    def _knocks(self, t: Floats) -> list[tuple[float, float]]:
        """The same of stray knocks, which every machine hears."""
        knocks: list[tuple[float, float]] = []
        while self._next_knock_s < t[-1]:
            knocks.append((self._next_knock_s, self._knock.uniform(0.1, 1.0)))
            self._next_knock_s += self._knock.exponential(1.0 / self._knocks_hz)
        return knocks

    def _strike(self, t: Floats, blows: list[tuple[float, float]]) -> npt.NDArray[np.complex128]:
        """Excitation of the two modes, (count, 2): each blow stands at the first sample after it, as a complex impulse
        turned so that the ringing begins between samples, where the blow fell."""
        impulses = np.zeros((len(t), 2), dtype=np.complex128)
        impulses[0] = self._carried
        if blows:
            time_s, peak_g = np.array(blows).T
            place = (time_s - t[0]) * self.rate_hz
            after = np.ceil(place).astype(np.int64)
            np.add.at(impulses, after, peak_g[:, None] * np.exp(np.outer(after - place, self._pole)))
        self._carried = impulses[-1]
        return impulses[:-1]

    def _ring(self, excitation: npt.NDArray[np.complex128]) -> Floats:
        """Convolve with the modes, carrying the ringing over from block to block. Returns (count, 2)."""
        count = len(excitation)
        end = count + RINGING_SAMPLES - 1
        size = 1 << end.bit_length()
        whole = np.fft.ifft(np.fft.fft(excitation, size, axis=0) * np.fft.fft(self._ringing, size, axis=0), axis=0)
        whole[: RINGING_SAMPLES - 1] += self._tail
        self._tail = whole[count:end]
        return whole[:count].imag

    def _swell(self, turns: Floats) -> Floats:
        """Loudness of the rough noise over the turn, (count, 1); a worn cage makes it swell with the cage."""
        swell = 1.0 + self._swell_depth * np.cos(2 * np.pi * turns + self._swell_phase)
        if self.condition == "cage":
            swell *= 1.0 + 0.7 * np.cos(2 * np.pi * turns * self.bearing.ftf)
        return swell[:, None]

    def _harmonics(self, turns: Floats, speed_hz: Floats) -> Floats:
        """Vibration at multiples of the speed, (count, 3) in g."""
        level_g = self._harmonic_g.copy()
        if self.condition == "imbalance":
            level_g[0] *= 1.0 + 10.0 * self.severity
        sway = _tones(turns, self._harmonic_orders, level_g, self._harmonic_phase)
        if self.condition == "looseness":
            share = self.severity / SEVERITIES_G["moderate"]
            sway += share * _tones(turns, np.arange(1, 17) / 2.0, self._loose_g, self._loose_phase)
        growth: Floats = (speed_hz / REFERENCE_SPEED_HZ)[:, None] ** 2
        return sway * growth


def _tones(turns: Floats, orders: Floats, level_g: Floats, phase: Floats) -> Floats:
    """Sum of cosines. turns (count,), orders (k,), level_g and phase (k, 3). Returns (count, 3)."""
    spin = np.exp(2j * np.pi * np.outer(turns, orders))
    swing: Floats = (spin @ (level_g * np.exp(1j * phase))).real
    return swing

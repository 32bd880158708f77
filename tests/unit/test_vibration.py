import numpy as np
import numpy.typing as npt
import pytest

from appliance.core.waveform import prepare_window
from provisioning.vibration import CONDITIONS, RATE_HZ, SPEED_HZ_MAX, SPEED_HZ_MIN, Bearing, Condition, Machine

SIZE = 8192


def make_machine(condition: Condition, seed: int = 300_000, severity: float = 3.0) -> Machine:
    return Machine(seed, condition, severity)


def depth(machine: Machine) -> npt.NDArray[np.float64]:
    """Mean depth of modulation of all bands and axes over one second, a bin for each hertz from 1 on."""
    spectra = prepare_window(machine.read(SIZE), "envelope_spectrum", RATE_HZ)[0]
    return np.asarray((10.0 ** spectra[:, 3:]).mean(axis=1), np.float64)


def near(line: npt.NDArray[np.float64], place_hz: float) -> float:
    """Highest of the bins within 7% of a place: the speed wanders."""
    return float(line[int(place_hz * 0.93) - 1 : int(place_hz * 1.07) + 1].max())


def test_bearing_orders_agree_with_the_published_ones_of_a_6205() -> None:
    # Case Western Reserve University's bearing data centre gives them for the SKF 6205-2RS JEM.
    bearing = Bearing(9, 0.3126 / 1.537)
    assert bearing.ftf == pytest.approx(0.39828, abs=2e-4)
    assert bearing.bpfo == pytest.approx(3.5848, abs=2e-3)
    assert bearing.bpfi == pytest.approx(5.4152, abs=2e-3)
    assert 2 * bearing.bsf == pytest.approx(4.7135, abs=4e-3)


def test_passages_of_both_races_add_up_to_the_balls() -> None:
    bearing = Bearing(8, 0.23, 0.2)
    assert bearing.bpfo + bearing.bpfi == pytest.approx(8)
    assert bearing.bpfo == pytest.approx(8 * bearing.ftf)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_signal_does_not_depend_on_how_it_is_cut(condition: Condition) -> None:
    whole = make_machine(condition).read(4096)
    machine = make_machine(condition)
    pieces = np.concatenate([machine.read(count) for count in (1, 7, 100, 511, 1429, 2048)])
    assert pieces == pytest.approx(whole, abs=1e-5)
    assert whole.shape == (4096, 3)
    assert whole.dtype == np.float32


def test_a_seed_is_one_machine_and_another_seed_another() -> None:
    first = make_machine("ball", seed=1).read(1000)
    assert np.array_equal(make_machine("ball", seed=1).read(1000), first)
    assert not np.array_equal(make_machine("ball", seed=2).read(1000), first)


@pytest.mark.parametrize("seed", range(300_000, 300_005))
def test_a_flawed_race_strikes_at_its_frequency_and_a_sound_one_does_not(seed: int) -> None:
    for condition in ("outer_race", "inner_race"):
        machine = make_machine(condition, seed)
        order = machine.bearing.bpfo if condition == "outer_race" else machine.bearing.bpfi
        place_hz = order * machine.speed_hz
        flawed, sound = depth(machine), depth(make_machine("normal", seed))
        assert near(flawed, place_hz) > 5 * np.median(flawed)
        assert near(flawed, place_hz) > 3 * near(sound, place_hz)


@pytest.mark.parametrize("seed", range(300_000, 300_005))
def test_the_load_zone_shows_as_sidebands_of_the_inner_race_alone(seed: int) -> None:
    inner, outer = make_machine("inner_race", seed), make_machine("outer_race", seed)
    beside_inner = near(depth(inner), inner.speed_hz)
    assert beside_inner > 3 * near(depth(outer), outer.speed_hz)


def test_the_speed_wanders_within_a_few_per_cent_around_its_mean() -> None:
    machine = make_machine("normal")
    assert SPEED_HZ_MIN <= machine.speed_hz <= SPEED_HZ_MAX
    t = np.arange(0.0, 120.0, 0.5)
    speed_hz = np.diff(machine._turns(t)) / 0.5
    assert 0.005 < speed_hz.std() / machine.speed_hz < 0.05
    assert speed_hz == pytest.approx(machine.speed_hz, rel=0.065)


def test_the_speed_may_be_given() -> None:
    assert Machine(1, speed_hz=30.0).speed_hz == 30.0
    assert Machine(1, speed_hz=30.0).bearing == Machine(1).bearing


def test_a_running_machine_takes_on_a_fault_and_sheds_it() -> None:
    machine, sound = make_machine("normal"), make_machine("normal")
    for each in (machine, sound):
        each.read(SIZE)
    machine.become("outer_race", 3.0)
    assert machine.read(SIZE).std() > 1.5 * sound.read(SIZE).std()
    machine.become("normal")
    # The last blow has rung out after one block.
    for each in (machine, sound):
        each.read(SIZE)
    assert machine.read(SIZE) == pytest.approx(sound.read(SIZE), abs=1e-5)


def test_a_graver_fault_strikes_harder() -> None:
    peaks = [float(np.abs(make_machine("outer_race", severity=s).read(SIZE)).max()) for s in (0.5, 2.0, 8.0)]
    assert peaks == sorted(peaks)
    assert peaks[2] > 2 * peaks[1]


def test_blocks_go_on_without_end_where_the_last_one_stopped() -> None:
    blocks = make_machine("ball").blocks(1000)
    found = np.concatenate([next(blocks), next(blocks)])
    assert found == pytest.approx(make_machine("ball").read(2000), abs=1e-5)


def test_an_impossible_condition_or_severity_is_refused() -> None:
    with pytest.raises(ValueError, match="condition: one of normal"):
        Machine(1, "rust")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="severity"):
        Machine(1, "ball", 0.0)

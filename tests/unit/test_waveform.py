import numpy as np
import numpy.typing as npt
import pytest

from appliance.core.waveform import DEPTH_MIN, prepare_window

RATE_HZ = 8192.0
SIZE = 2048
BIN_HZ = RATE_HZ / SIZE
Window = npt.NDArray[np.float32]


def make_window(signal: npt.NDArray[np.float64], channels: int = 3) -> Window:
    return np.repeat(signal[:, None], channels, axis=1).astype(np.float32)


def times_s() -> npt.NDArray[np.float64]:
    return np.arange(SIZE) / RATE_HZ


def spectra(window: Window) -> npt.NDArray[np.float32]:
    """Group, channel, bin: the plain spectrum and those of the three bands."""
    found = prepare_window(window, "envelope_spectrum", RATE_HZ)
    assert found.shape == (1, 160, 4 * window.shape[1])
    assert found.dtype == np.float32
    return np.reshape(found[0].T, (4, window.shape[1], 160))


def noise(seed: int = 0) -> Window:
    return np.random.default_rng(seed).standard_normal((SIZE, 3)).astype(np.float32)


def test_without_a_transform_the_window_stays_as_it_is() -> None:
    window = noise()
    found = prepare_window(window, "none", RATE_HZ)
    assert found.shape == (1, SIZE, 3)
    assert np.array_equal(found[0], window)


@pytest.mark.parametrize("tone_hz", [4.0, 40.0, 324.0, 640.0])
def test_a_pure_tone_peaks_in_its_bin_with_its_amplitude(tone_hz: float) -> None:
    plain = spectra(make_window(0.25 * np.cos(2 * np.pi * tone_hz * times_s())))[0]
    assert np.all((plain.argmax(axis=1) + 1) * BIN_HZ == tone_hz)
    assert plain.max(axis=1) == pytest.approx(np.log10(0.25), abs=0.001)


@pytest.mark.parametrize(("carrier_hz", "band"), [(1500.0, 1), (2500.0, 2), (3500.0, 3)])
def test_ringing_that_swells_shows_its_rhythm_in_the_band_where_it_rings(carrier_hz: float, band: int) -> None:
    t = times_s()
    swelling = (1 + 0.5 * np.cos(2 * np.pi * 120 * t)) * np.cos(2 * np.pi * carrier_hz * t)
    groups = spectra(make_window(swelling) + 1e-3 * noise())
    assert np.all((groups[band].argmax(axis=1) + 1) * BIN_HZ == 120)
    # (1 + m cos)^2 = 1 + m^2 / 2 + 2 m cos + ..., so that the depth is 2 m / (1 + m^2 / 2).
    assert groups[band].max(axis=1) == pytest.approx(np.log10(1 / 1.125 + DEPTH_MIN), abs=0.02)
    others = [other for other in (1, 2, 3) if other != band]
    assert np.all(groups[others][:, :, 29] < groups[band][:, 29] - 0.3)


def test_an_offset_does_not_matter() -> None:
    window = noise()
    moved = (window + np.array([1.0, -2.0, 0.5])).astype(np.float32)
    assert spectra(moved) == pytest.approx(spectra(window), abs=1e-3)


def test_the_gain_of_a_sensor_moves_the_plain_spectrum_and_not_the_envelopes() -> None:
    quiet, loud = spectra(noise()), spectra(noise() * np.float32(10))
    assert loud[0] == pytest.approx(quiet[0] + 1.0, abs=0.05)
    assert loud[1:] == pytest.approx(quiet[1:], abs=1e-4)


def test_each_channel_is_judged_by_itself() -> None:
    window = noise()
    swapped = np.ascontiguousarray(window[:, ::-1])
    assert np.array_equal(spectra(swapped), spectra(window)[:, ::-1])


@pytest.mark.parametrize("level", [0.0, 9.81, 1e30])
def test_a_sensor_that_stands_still_gives_finite_floors(level: float) -> None:
    found = spectra(np.full((SIZE, 3), level, np.float32))
    assert np.isfinite(found).all()
    assert np.all(found[1:] == pytest.approx(np.log10(DEPTH_MIN)))


def test_the_same_window_gives_the_same_bits() -> None:
    assert (
        prepare_window(noise(), "envelope_spectrum", RATE_HZ).tobytes()
        == prepare_window(noise(), "envelope_spectrum", RATE_HZ).tobytes()
    )


def test_a_window_is_left_as_it_was() -> None:
    window = noise()
    prepare_window(window, "envelope_spectrum", RATE_HZ)
    assert np.array_equal(window, noise())


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE, 3), (SIZE, 0), (0, 3)])
@pytest.mark.parametrize("transform", ["none", "envelope_spectrum"])
def test_a_window_of_another_shape_is_refused(shape: tuple[int, ...], transform: str) -> None:
    with pytest.raises(ValueError, match="a window is"):
        prepare_window(np.zeros(shape, np.float32), transform, RATE_HZ)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_refused(bad: float) -> None:
    window = noise()
    window[100, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        prepare_window(window, "envelope_spectrum", RATE_HZ)


@pytest.mark.parametrize(("size", "rate_hz"), [(SIZE, 5000.0), (8, RATE_HZ), (1, RATE_HZ)])
def test_a_rate_or_size_too_small_for_the_spectrum_is_refused(size: int, rate_hz: float) -> None:
    with pytest.raises(ValueError, match="samples a second"):
        prepare_window(np.zeros((size, 3), np.float32), "envelope_spectrum", rate_hz)


def test_an_unknown_transform_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'wavelet'"):
        prepare_window(noise(), "wavelet", RATE_HZ)

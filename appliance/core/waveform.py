"""A window of readings made into what a network takes: as it is, or as spectra in which a bearing's faults stand out.

A blow that recurs makes the structure ring high up, where shaft and pump are quiet; the envelope of that ringing recurs
with the blow, so that its spectrum has lines at the bearing's frequencies and, beside them, at the frequency with which
the flaw enters the load zone. Source: Randall & Antoni 2011, "Rolling element bearing diagnostics: a tutorial",
Mechanical Systems and Signal Processing 25, sections 5.1 and 5.3: the band is cut out of the spectrum and moved down,
and the envelope is squared.
"""

import numpy as np
import numpy.typing as npt

SPECTRUM_HZ_MAX = 640.0
BANDS = 3
# Floors under the logarithms: the amplitude in the sensor's unit and the depth of modulation that count as nothing.
AMPLITUDE_MIN = 1e-4
DEPTH_MIN = 1e-3


def prepare_window(window: npt.NDArray[np.float32], transform: str, rate_hz: float) -> npt.NDArray[np.float32]:
    """The network's input, a batch of one.

    window: (size, channels) float32, one row per sample.
    transform: "none" answers the window itself, (1, size, channels). "envelope_spectrum" answers
    (1, bins, 4 * channels), bins of rate_hz / size each, from the first above zero up to SPECTRUM_HZ_MAX, in four
    groups of the channels: log10 of the amplitude in the sensor's unit, -4 and up; then, for the bands of an eighth of
    the rate that begin at 1/8, 2/8 and 3/8 of it, log10 of the depth with which the squared envelope is modulated,
    -3..0.5.
    Raises ValueError for another shape or transform, a rate too low for the spectrum, and NaN or infinite samples.
    """
    if window.ndim != 2 or 0 in window.shape:
        raise ValueError(f"a window is (size, channels), neither of them 0; this is {window.shape}")
    if not np.isfinite(window).all():
        raise ValueError("a window holds finite numbers; this one has NaN or infinite samples")
    if transform == "none":
        return np.ascontiguousarray(window[None], np.float32)
    if transform == "envelope_spectrum":
        return _envelope_spectrum(window, rate_hz)[None]
    raise ValueError(f"a transform is 'none' or 'envelope_spectrum', not {transform!r}")


def _envelope_spectrum(window: npt.NDArray[np.float32], rate_hz: float) -> npt.NDArray[np.float32]:
    size = len(window)
    band = size // 8
    bins = int(SPECTRUM_HZ_MAX * size / rate_hz)
    if not 0 < bins < band:
        raise ValueError(
            f"a spectrum up to {SPECTRUM_HZ_MAX:g} Hz takes more than {8 * SPECTRUM_HZ_MAX:g} samples a "
            f"second and {rate_hz / SPECTRUM_HZ_MAX:.0f} or more a window; here are {rate_hz:g} and {size}"
        )
    # In double precision by name, since NumPy 1 and 2 transform float32 differently.
    centred = window.astype(np.float64) - window.mean(axis=0, dtype=np.float64)
    groups = [np.log10(_amplitude(centred)[1 : bins + 1] + AMPLITUDE_MIN)]
    spectrum = np.fft.rfft(centred, axis=0)
    for start in range(band, (BANDS + 1) * band, band):
        # Twice the band's length leaves room for the squared envelope, which is twice as wide as the band.
        envelope = np.abs(np.fft.ifft(spectrum[start : start + band], 2 * band, axis=0)) ** 2
        mean = envelope.mean(axis=0)
        depth = _amplitude(envelope - mean)[1 : bins + 1] / np.maximum(mean, np.finfo(np.float32).tiny)
        groups.append(np.log10(depth + DEPTH_MIN))
    return np.concatenate(groups, axis=1).astype(np.float32)


def _amplitude(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Amplitudes of a real signal's tones, Hann-weighted: a tone of amplitude 1 in the middle of a bin answers 1."""
    weights = np.hanning(len(signal) + 1)[:-1, None]
    amplitude: npt.NDArray[np.float64] = np.abs(np.fft.rfft(signal * weights, axis=0)) * (4.0 / len(signal))
    return amplitude

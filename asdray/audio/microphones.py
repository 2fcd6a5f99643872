"""One signal from two microphones: near less what the far microphone predicts of it.

Both functions work on a whole recording, in double precision, and have no trained parameters. Spectra have
frames of a periodic Hann window with half overlap, centred, with reflected ends.

Conventions: full scale 1. Legend for shapes: n samples, T frames, F frequency bins.

>>> import numpy as np
>>> far = np.random.default_rng(0).normal(size=16000) / 10
>>> float(np.abs(cancel(0.5 * far, far)).max()) < 1e-10
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.floating]
"""``(n,)``, full scale 1."""

_PEAK = 0.9
_TINY = 1e-12
_FLOOR = 0.1
_LEAST_WEIGHT = 1e-2


def cancel(near: Wave, far: Wave) -> NDArray[np.float64]:
    """Near minus far, far filtered by the least-squares filter of the whole recording.

    Both channels are divided by s, their joint peak over 0.9. With the spectra C and F of near and far, each
    bin has one complex factor H = sum_t C conj(F) / (sum_t |F|^2 + 1e-12), and the result is the inverse
    transform of C - H F, times s. Frames have 1024 samples.

    Source: W1 of asd-experiments, the walk-throughs of DCASE 2026 Task 2.
    """
    scale = max(np.abs(near).max(), np.abs(far).max()) / _PEAK or 1.0
    c, f = (_spectrum(wave / scale, 1024) for wave in (near, far))
    factor = (c * f.conj()).sum(axis=0) / ((f * f.conj()).real.sum(axis=0) + _TINY)
    return _wave(c - factor * f, len(near)) * scale


def subtract(near: Wave, far: Wave) -> NDArray[np.float64]:
    """Spectral subtraction: near with far's magnitude taken off each bin of each frame.

    With the magnitudes a of near and b of far, the result has the magnitude a - b if a > b, else 0.1 a, and
    the phase of near. Frames have 512 samples.

    Source: SS of asd-experiments, the walk-throughs of DCASE 2026 Task 2.
    """
    c, f = _spectrum(near, 512), _spectrum(far, 512)
    a, b = np.abs(c), np.abs(f)
    gain = np.full_like(a, _FLOOR)
    np.divide(a - b, a, out=gain, where=a > b)
    return _wave(c * gain, len(near))


FUNCTIONS: Mapping[str, Callable[[Wave, Wave], NDArray[np.float64]]] = {
    "cancel": cancel,
    "subtract": subtract,
}
"""The channels of `asdray.config.audio.FORMULAS`."""


def combine(channel: str, samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """A computed channel of a recording.

    Args:
        samples: ``(n, 2) int16``, near and far.
    """
    near, far = samples.T * (1 / 32768)
    return FUNCTIONS[channel](near, far)


def _spectrum(wave: Wave, n_fft: int) -> NDArray[np.complex128]:
    """``(T, F)`` with T = n // (n_fft / 2) + 1 and F = n_fft / 2 + 1."""
    padded = np.pad(wave, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[:: n_fft // 2]
    return np.fft.rfft(frames * _hann(n_fft))


def _wave(spectrum: NDArray[np.complex128], n: int) -> NDArray[np.float64]:
    """The inverse of `_spectrum` in the sense of least squares: overlapping frames, weighted by the window.

    The last samples of a clip lie in one frame's end, where a weight close to zero would blow up what is left
    of a changed spectrum. Weights below 0.01 are raised to it: none of them occurs in clips of whole seconds.
    """
    half = spectrum.shape[1] - 1
    window = _hann(2 * half)
    frames = np.fft.irfft(spectrum) * window
    total, weight = np.zeros((2, half * (len(frames) + 1)))
    for part, start in ((slice(0, half), 0), (slice(half, None), half)):
        end = start + half * len(frames)
        total[start:end] += frames[:, part].ravel()
        weight[start:end] += np.tile(window[part] ** 2, len(frames))
    inside = slice(half, half + n)
    return total[inside] / np.maximum(weight[inside], _LEAST_WEIGHT)


def _hann(n_fft: int) -> NDArray[np.float64]:
    """Periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)

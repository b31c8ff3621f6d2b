"""What a clip's recording is like: its noise, its bandwidth, its room, and music under the speech.

All are pure functions of 22 050 Hz samples and do not depend on the level. They were set on pt-BR
recordings of known signal-to-noise ratio, and on telephone prompts and audiobooks by human voices
(Debian's asterisk-core-sounds and pocketsphinx-testdata).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from xtts_core.corpus.levels import power_dbfs
from xtts_core.corpus.segmentation import Segment
from xtts_core.corpus.vad import Envelope
from xtts_core.settings import SAMPLE_RATE_HZ

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]

NOISE_PERCENTILE = 10
NOISE_REACH_S = 1.0
MAX_SNR_DB = 100.0
"""What digital silence between the words is reported as."""

WINDOW = 2048
HOP = 1024
"""93 ms windows: lines 11 Hz apart, so that the harmonics of a voice and notes are lines."""
FRAMES_AT_ONCE = 16
"""Half the time of all frames at once, whose memory the kernel has to hand out anew each time."""

BAND_LINES = 8
DOWN_DB = 50.0
"""The bandwidth ends where the mean spectrum lies this far below its maximum (NeMo's Speech Data
Processor, EstimateBandwidth; HiFiTTS-2, arXiv 2506.04152)."""
QUIET_PERCENTILE = 10
QUIET_OF_NOISE = 0.6
"""The 10th percentile over time of the power of steady noise in a band of 8 lines, as a share of
its mean."""
LOUD_PERCENTILE = 95
SPEECH_OVER_NOISE = 4.0
"""Speech comes and goes: in a band that carries it the loud frames have this many times the power
of the noise. In steady noise they have at most three times."""

STEP = SAMPLE_RATE_HZ // 100
SMOOTHED_STEPS = 3
DIRECT_DB = 5.0
"""Left out at the start of a decay: there the speaker's own decay hides the room's (as in ISO
3382-1, where the reverberation time is read from −5 dB on)."""
MIN_DECAY_DB = 10.0
MIN_DECAY_STEPS = 4
RISE_DB = 1.5
"""A decay ends where the level rises by this much over its lowest."""
BACKGROUND_PERCENTILE = 5
OVER_BACKGROUND_DB = 5.0
MIN_DECAYS = 2
FREE_PERCENTILE = 25
"""Most sounds of speech die away more slowly than the room, so the room is told by the fast ones
(Ratnam et al. 2003, "Blind estimation of reverberation time": a low order statistic of the
estimated decay times)."""

LOWEST_TONE_HZ = 250
HIGHEST_TONE_HZ = 5_000
STEADY_FRAMES = 8
"""A tone stays for 0.42 s at the same line; the harmonics of a voice glide away or pause sooner."""
TONE_OVER_AROUND_DB = 14.0
AROUND_LINES = 12
TONE_UNDER_SPEECH_DB = 48.0
"""Tones further below the loud frames of the clip are not heard under the speech."""
MIN_TONES = 3
"""Fewer tones at once are mains hum, a whistle or a long vowel's strongest harmonics."""

_EMPTY = 1e-3
"""A power in units of 16 bits, far below that of rounding, in place of none."""


def snr_db(envelope: Envelope, speech: npt.NDArray[np.bool_], clip: Segment) -> float:
    """The power of the clip's speech over that of the background, in dB, 0 to 100.

    The background is the 10th percentile of the levels in the clip and a second around it, so
    one that comes and goes faster than that is not seen. On steady noise the result is up to 1 dB
    more than that of the mean powers in and between the sentences.

    Args:
        speech: for each frame of the envelope, whether it is speech.
    """
    inside = envelope.frames(clip.start, clip.end)
    voice = envelope.level_dbfs[inside][speech[inside]].astype(np.float64)
    reach = round(NOISE_REACH_S * SAMPLE_RATE_HZ)
    around = envelope.frames(max(0, clip.start - reach), clip.end + reach)
    if len(voice) == 0:
        return 0.0
    noise = 10 ** (float(np.percentile(envelope.level_dbfs[around], NOISE_PERCENTILE)) / 10)
    clean = max(float(np.power(10.0, voice / 10).mean()) - noise, 0.0)
    return min(MAX_SNR_DB, max(0.0, power_dbfs(clean) - power_dbfs(noise)))


def power_spectrum(samples: Int16) -> Float32:
    """The power of the Hann windows that fit, shape (frames, 1025); no frame for a shorter clip."""
    if len(samples) < WINDOW:
        return np.zeros((0, WINDOW // 2 + 1), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.empty((len(frames), WINDOW // 2 + 1), np.float32)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        block = slice(first, first + FRAMES_AT_ONCE)
        spectrum = np.fft.rfft(frames[block] * _hann(), axis=1)
        power[block] = spectrum.real**2 + spectrum.imag**2
    return power


def bandwidth_hz(spectrum: Float32) -> float | None:
    """The highest frequency that carries speech, in steps of 86 Hz; None where nothing does.

    Of the bands within `DOWN_DB` of the strongest, the highest one whose level comes and goes: a
    noise that was added to a narrower recording does not count.

    Args:
        spectrum: of `power_spectrum`.
    """
    if len(spectrum) == 0:
        return None
    lines = spectrum[:, 1:].reshape(-1, BAND_LINES)
    bands = (lines @ np.ones(BAND_LINES, np.float32)).reshape(len(spectrum), -1).T
    mean = bands.mean(axis=1)
    quiet, loud = _percentiles(bands, (QUIET_PERCENTILE, LOUD_PERCENTILE))
    carries = (mean > mean.max() * 10 ** (-DOWN_DB / 10)) & (
        loud > SPEECH_OVER_NOISE * quiet / QUIET_OF_NOISE
    )
    found = np.flatnonzero(carries)
    return float((found[-1] + 1) * BAND_LINES * SAMPLE_RATE_HZ / WINDOW) if len(found) else None


def reverberation_s(samples: Int16) -> float | None:
    """The time in which the room's sound decays by 60 dB, estimated from the decays after speech.

    A straight line is fitted to each stretch in which the level only falls, and the first quartile
    of the decay times is given. Speech in rooms of 0.2, 0.4, 0.8 and 1.6 s, as strong as the
    direct sound, gives 0.20 to 0.25, 0.4 to 0.45, 0.8 to 1.0 and 1.6 to 1.9 s; a close microphone
    makes it less, and speech without a room has about 0.1 s. None with less than two decays: at
    10 dB over the background and less, or where no pause is long enough for the room.
    """
    level = _step_levels(samples)
    decays = (_decay_s(stretch) for stretch in _falls(level))
    times = [time for time in decays if time is not None]
    if len(times) < MIN_DECAYS:
        return None
    return float(np.percentile(times, FREE_PERCENTILE))


def music_ratio(spectrum: Float32) -> float | None:
    """The share of the clip's time in which music sounds, under the speech or alone, 0 to 1.

    Music is told by three tones and more that stay at their frequencies for 0.42 s. Speech alone
    gives up to 0.1 (slow announcers with long vowels 0.3, a room that echoes for 1.6 s 0.4), noise
    nothing; music 10 dB below the speech 0.9 and more, 20 dB below about 0.7. Drums alone are not
    seen. None for a clip that is shorter than that.

    Args:
        spectrum: of `power_spectrum`.
    """
    if len(spectrum) < STEADY_FRAMES:
        return None
    lines = slice(
        *(round(hz * WINDOW / SAMPLE_RATE_HZ) for hz in (LOWEST_TONE_HZ, HIGHEST_TONE_HZ))
    )
    power = spectrum[:, lines]
    loud = np.percentile(power.sum(axis=1), 90)
    audible = 10 * np.log10(max(float(loud), _EMPTY)) - TONE_UNDER_SPEECH_DB
    level = 10 * np.log10(np.maximum(power, np.float32(_EMPTY)))
    lasting = level[: len(level) - STEADY_FRAMES + 1].copy()
    for later in range(1, STEADY_FRAMES):
        np.minimum(lasting, level[later : later + len(lasting)], out=lasting)
    middle = lasting[:, 1:-1]
    tones = (
        (middle > lasting[:, :-2])
        & (middle >= lasting[:, 2:])
        & (middle >= audible)
        & (middle >= _around(lasting)[:, 1:-1] + TONE_OVER_AROUND_DB)
    )
    starts = tones.sum(axis=1) >= MIN_TONES
    return float(np.mean(np.convolve(starts, np.ones(STEADY_FRAMES)) > 0))


@cache
def _hann() -> Float32:
    return np.hanning(WINDOW).astype(np.float32)


def _percentiles(values: Float32, percents: tuple[int, ...]) -> list[Float32]:
    """The values of each row at these percentiles, without interpolation."""
    ordered = np.sort(values, axis=1)
    return [ordered[:, round(percent / 100 * (values.shape[1] - 1))] for percent in percents]


def _around(level: Float32) -> Float32:
    """The mean level of the lines around each one, itself included."""
    width = 2 * AROUND_LINES + 1
    padded = np.pad(level, ((0, 0), (AROUND_LINES + 1, AROUND_LINES)), mode="edge")
    sums = np.cumsum(padded, axis=1)
    mean: Float32 = (sums[:, width:] - sums[:, :-width]) / np.float32(width)
    return mean


def _step_levels(samples: Int16) -> npt.NDArray[np.float64]:
    """The level in dB of each 10 ms, smoothed, of the samples with their highs raised (the rumble
    of a room decays by other laws)."""
    steps = len(samples) // STEP
    wide = samples[: steps * STEP].astype(np.float32)
    wide[1:] -= np.float32(0.9) * wide[:-1]
    power = np.square(wide).reshape(steps, STEP).sum(axis=1, dtype=np.float64)
    if steps >= SMOOTHED_STEPS:
        power = np.convolve(power, np.full(SMOOTHED_STEPS, 1 / SMOOTHED_STEPS), "same")
    level: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power, STEP))
    return level


def _falls(level: npt.NDArray[np.float64]) -> list[list[float]]:
    """The stretches from a maximum to where the level ends to fall, without what lies near the
    background, and only those that are deep enough."""
    if len(level) == 0:
        return []
    ground = float(np.percentile(level, BACKGROUND_PERCENTILE)) + OVER_BACKGROUND_DB
    found = []
    levels: list[float] = level.tolist()
    top = lowest = 0
    for at, value in enumerate(levels):
        if value < levels[lowest]:
            lowest = at
        if value < ground or value > levels[lowest] + RISE_DB or value > levels[top]:
            if levels[top] - levels[lowest] >= DIRECT_DB + MIN_DECAY_DB:
                found.append(levels[top : lowest + 1])
            top = lowest = at
    return found


def _decay_s(stretch: list[float]) -> float | None:
    """The decay time of a straight line through what lies below the direct sound."""
    late = [level for level in stretch if level <= stretch[0] - DIRECT_DB]
    if len(late) < MIN_DECAY_STEPS or late[0] - late[-1] < MIN_DECAY_DB:
        return None
    centred = np.arange(len(late)) - (len(late) - 1) / 2
    slope_db = float(centred @ np.asarray(late) / (centred @ centred))
    return 60 * STEP / (-slope_db * SAMPLE_RATE_HZ)

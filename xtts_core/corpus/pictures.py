"""A recording at a glance: its waveform over its mel spectrogram, as a small picture in Markdown.

Dagster's UI shows `![…](data:…)`: its sanitiser lets the `data` scheme through, while an `<img>`
written as HTML is not rendered (read in the webserver's bundle, 1.13.27).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.stage import Markdown

Float = npt.NDArray[np.floating[Any]]
UInt8 = npt.NDArray[np.uint8]

WIDTH = 800
WAVE_HEIGHT = 80
MARK_HEIGHT = 8
MEL_BANDS = 64
AXIS_HEIGHT = 14
WINDOW = 1_024
HOP = 512
MAX_WINDOWS = 6_400
"""Of more than five minutes, eight windows of 46 ms are looked at in each column, evenly spread, so
that the picture of an hour costs as much as that of five minutes."""
MEL_RANGE_DB = 66.0
MAX_LABELS = 10
_LABEL_STEPS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 14_400)

_PAPER, _INK, _PEAK, _RMS = range(4)
_MARK = 4
_MARK_LEVELS = 4
_MEL = _MARK + _MARK_LEVELS
_MEL_LEVELS = 8
_COLOURS = ((255, 255, 255), (70, 70, 70), (150, 180, 220), (40, 90, 160))
_MARK_RAMP = ((220, 240, 220), (30, 150, 60))
_MEL_RAMP = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
"""Five colours of matplotlib's `magma`. Sixteen colours in all: four bits a pixel."""


def recording_picture(wav: Path, marks: Sequence[tuple[int, int]] = ()) -> Markdown:
    """The picture of a 22 050 Hz mono 16-bit WAV, 800 pixels wide and of at most 25 kB.

    Above, for each column the peaks (light) and the RMS (dark) at full scale; below, the mel
    spectrogram from 0 Hz to 11 kHz. Memory does not grow with the recording.

    Args:
        marks: stretches (first sample, one past the last) to show in green below the waveform,
            such as the clips that are kept. The deeper the green, the more of a column they fill.
    """
    n_samples, low, high, power, mel = _seen(wav)
    rows = [_waveform(low, high, power)]
    if marks:
        rows.append(_marked(marks, n_samples))
    rows += [_spectrogram(mel), np.full((AXIS_HEIGHT, WIDTH), _PAPER, np.uint8)]
    png = _png(np.concatenate(rows), n_samples / SAMPLE_RATE_HZ)
    content = base64.b64encode(png).decode()
    return Markdown(f"![waveform and mel spectrogram](data:image/png;base64,{content})")


def _seen(wav: Path) -> tuple[int, Float, Float, Float, Float]:
    """The length in samples; and for each column the lowest and the highest sample, the mean
    power (all at full scale 1) and the power in each mel band."""
    import soundfile as sf

    edges = _band_edges()
    lines = np.maximum(np.diff(edges), 1)
    taper = np.hanning(WINDOW).astype(np.float32)
    low, high, power, mel = [], [], [], []
    with sf.SoundFile(wav) as recording:
        n_samples = recording.frames
        count = min(MAX_WINDOWS, max(WIDTH, n_samples // HOP))
        starts = np.arange(count) * n_samples // count
        for group in np.array_split(starts, -(-count // 64)):
            windows = np.zeros((len(group), WINDOW), np.float32)
            for window, start in zip(windows, group, strict=True):
                recording.seek(start)
                samples = recording.read(WINDOW, dtype="float32")
                window[: len(samples)] = samples
            low.append(windows.min(axis=1))
            high.append(windows.max(axis=1))
            power.append(np.square(windows).mean(axis=1))
            spectra = np.fft.rfft(windows * taper)
            lines_power = spectra.real**2 + spectra.imag**2
            mel.append(np.add.reduceat(lines_power, edges[:-1], axis=1) / lines)
    first = np.arange(WIDTH) * count // WIDTH
    size = np.diff(np.append(first, count))
    return (
        n_samples,
        np.minimum.reduceat(np.concatenate(low), first),
        np.maximum.reduceat(np.concatenate(high), first),
        np.add.reduceat(np.concatenate(power), first) / size,
        np.add.reduceat(np.concatenate(mel), first) / size[:, None],
    )


def _band_edges() -> npt.NDArray[np.intp]:
    """The first spectral line of each band, equally wide in mel (HTK's formula), and the last."""
    top = 2_595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top, MEL_BANDS + 1) / 2_595) - 1)
    return np.floor(edges_hz * WINDOW / SAMPLE_RATE_HZ).astype(np.intp)


def _waveform(low: Float, high: Float, power: Float) -> UInt8:
    centre = (WAVE_HEIGHT - 1) / 2
    height = (centre - np.arange(WAVE_HEIGHT))[:, None] / centre
    rms = np.sqrt(power)
    half_pixel = 0.5 / centre
    picture = np.full((WAVE_HEIGHT, WIDTH), _PAPER, np.uint8)
    picture[(height <= high + half_pixel) & (height >= low - half_pixel)] = _PEAK
    picture[np.abs(height) <= np.maximum(rms, half_pixel)] = _RMS
    return picture


def _marked(marks: Sequence[tuple[int, int]], n_samples: int) -> UInt8:
    columns = np.asarray(marks, np.float64) * WIDTH / n_samples
    edges = np.arange(WIDTH)
    filled = np.zeros(WIDTH)
    for start, end in columns:
        filled += np.clip(np.minimum(end, edges + 1) - np.maximum(start, edges), 0, 1)
    level = np.ceil(np.minimum(filled, 1) * _MARK_LEVELS - 1e-6)
    lane = np.where(level > 0, _MARK - 1 + level, _PAPER).astype(np.uint8)
    picture = np.full((MARK_HEIGHT, WIDTH), _PAPER, np.uint8)
    picture[1:-1] = lane
    return picture


def _spectrogram(mel: Float) -> UInt8:
    level_db = 10 * np.log10(np.maximum(mel, 1e-10))
    over_floor = (level_db - level_db.max()) / MEL_RANGE_DB + 1
    level = np.clip(over_floor * _MEL_LEVELS, 0, _MEL_LEVELS - 1).astype(np.uint8)
    return np.asarray(_MEL + level.T[::-1], np.uint8)


def _png(picture: UInt8, duration_s: float) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture, mode="P")
    image.putpalette(_palette())
    draw: Any = ImageDraw.Draw(image)
    draw.fontmode = "1"
    font = ImageFont.load_default(10)
    top = len(picture) - AXIS_HEIGHT
    step = next((s for s in _LABEL_STEPS_S if duration_s / s <= MAX_LABELS), _LABEL_STEPS_S[-1])
    for second in range(0, int(duration_s) + 1, step):
        x = round(second / duration_s * WIDTH) if duration_s else 0
        draw.line((x, top, x, top + 3), fill=_INK)
        if x < WIDTH - 40:
            draw.text((x + 3, top + 1), _clock(second), fill=_INK, font=font)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, bits=4)
    return out.getvalue()


def _palette() -> list[int]:
    colours = [
        *_COLOURS,
        *_ramp(_MARK_RAMP, _MARK_LEVELS),
        *_ramp(_MEL_RAMP, _MEL_LEVELS),
    ]
    return [part for colour in colours for part in colour]


def _ramp(anchors: Sequence[tuple[int, int, int]], levels: int) -> list[tuple[int, ...]]:
    at = np.linspace(0, len(anchors) - 1, levels)
    parts = [
        np.interp(at, np.arange(len(anchors)), [colour[part] for colour in anchors])
        for part in range(3)
    ]
    return [tuple(round(part[level]) for part in parts) for level in range(levels)]


def _clock(second: int) -> str:
    minutes, rest = divmod(second, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

"""Who speaks in each clip: embeddings by resemblyzer's encoder, and what they tell of its purity.

The encoder is the GE2E network of Wan et al. 2018 ("Generalized End-to-End Loss for Speaker
Verification"), whose weights lie in the package `resemblyzer`. It reads a mel spectrogram of
40 bands (power, not its logarithm; 25 ms windows every 10 ms at 16 kHz) in windows of 1.6 s. Only
the weights are read from the package: importing it imports librosa too, for a spectrogram that is
made here with the same values.

A clip's windows are computed once; the whole, its halves and its parts are averages of these.
What cannot be seen: a second voice for less than a second, two voices at once, and two people
whose voices are alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtts_core.corpus.levels import FULL_SCALE, gain_of, power_dbfs
from xtts_core.errors import ModelError
from xtts_core.settings import SAMPLE_RATE_HZ, SpeakerSettings
from xtts_core.stage import Progress, silent

Float32 = npt.NDArray[np.float32]

EMBEDDING_SIZE = 256
OUTLIER_SIMILARITY = 0.83
"""A clip less similar than this to the voice of most clips counts as somebody else's: of ten voices
at most 1 % of the speaker's own clips lie below it, and at 20 dB of signal-to-noise ratio and more
98 % of other speakers'. What is rejected is for `filters.min_speaker_similarity` to say; this only
gives a hint to whoever listed the video."""

_ENCODER_RATE_HZ = 16_000
_FFT = 400
_HOP = 160
_MELS = 40
_TARGET_DBFS = -30.0
"""Quieter clips are made this loud, as resemblyzer does: the spectrogram is not logarithmic."""
_WINDOW = 160
"""Frames of 10 ms that the encoder reads at once."""
_STEP = 40
"""Frames between windows. Steps of 20 cost twice as much and tell the voices apart no better."""
_APART = _WINDOW // _STEP - 1
"""Windows left out between two parts, so that no audio counts in both."""
_GATE = 0.5
"""Frames that lie lower than this between the background (0) and the loud speech (1), in dB, are
pauses. They are left out, as resemblyzer's own voice activity detection does: a window that is
half a pause resembles no other one."""
_DYNAMICS_DB = 40.0
"""A background further below the loud speech is taken to lie here, or digital silence between the
words would let everything pass for speech."""
_BACKGROUND_PERCENTILE = 5
_LOUD_PERCENTILE = 90
_SMOOTHED_FRAMES = 5
_KEPT_AROUND_FRAMES = 8
_CENTROID_ROUNDS = 20
_MEDOID_ROWS = 512
_TINY = 1e-12


@dataclass(frozen=True)
class SpeakerMeasures:
    """What the encoder says of a clip; all is None where nothing was to be measured (a silent
    clip, or the engine `off`).

    Attributes:
        embedding: shape (256,), float32, unit length: the mean of the clip's windows.
        halves_similarity: cosine of the two halves; None for less than two windows (2.0 s of
            speech).
        change_similarity: how alike the clip's most different part and the rest of it are, see
            `Change`. None for less than 3.2 s of speech, which leaves no two windows apart.
        speaker_similarity: cosine of the clip and the voice of most of the video's clips.
    """

    embedding: Float32 | None = None
    halves_similarity: float | None = None
    change_similarity: float | None = None
    speaker_similarity: float | None = None


@dataclass(frozen=True)
class Change:
    """The part of a clip that differs most from the rest of it.

    `part` and `rest` are the mean embeddings, shape (256,), unit length. A short part differs from
    the rest by its words alone, so the difference has a `weight` of a·b/(a+b), where a and b count
    the 1.6 s in each: the likelihood ratio of an epidemic change of the mean (Levin and Kline
    1985). Two parts of 3.2 s have the weight 1.
    """

    part: Float32
    rest: Float32
    weight: float

    @property
    def distance(self) -> float:
        """The weighted cosine distance of the two."""
        return self.weight * (1 - float(self.part @ self.rest))

    def similarity(self, voice: Float32) -> float:
        """1 minus the weighted sum of their cosine distance and of how differently they resemble
        `voice`, shape (256,), the video's speaker: another tone of one voice lies as near to it,
        another voice does not. At most 1; a long clip of two voices may have less than 0."""
        apart = abs(float(self.part @ voice) - float(self.rest @ voice))
        return 1 - self.distance - self.weight * apart


def measure_speakers(
    clips: Iterable[npt.NDArray[np.int16]], settings: SpeakerSettings, progress: Progress = silent
) -> list[SpeakerMeasures]:
    """The measures of each clip of one video, in order.

    Args:
        clips: 22 050 Hz mono, taken one by one; only embeddings are kept (3 kB a clip).

    The video's speaker is the voice of most of those clips that have one voice: of the half with
    the least change within. The result does not depend on the number of threads.

    Raises:
        ModelError: the encoder's weights are not installed.
    """
    if settings.engine == "off":
        return [SpeakerMeasures() for _ in clips]
    measured: list[SpeakerMeasures] = []
    changes: list[Change | None] = []
    with _threads(settings.threads):
        for done, clip in enumerate(clips, 1):
            measures, change = _measure(clip)
            measured.append(measures)
            changes.append(change)
            progress(done, None, "clips")
    voice = _declared_voice(measured, changes)
    return [
        measures if voice is None else _against(voice, measures, change)
        for measures, change in zip(measured, changes, strict=True)
    ]


def voice_of_most(embeddings: Float32) -> Float32:
    """The voice of most rows: the unit mean of the closer half.

    Args:
        embeddings: shape (clips, 256), at least one row, each of unit length.

    It starts from the row whose median similarity to all rows is the greatest, which cannot lie
    in a minority, and takes the half nearest to the mean anew until it stays the same (least
    trimmed squares, Rousseeuw 1984), so that another voice does not shift it.
    """
    centre: Float32 = embeddings[_medoid(embeddings)]
    size = len(embeddings) // 2 + 1
    nearest: npt.NDArray[np.intp] | None = None
    for _ in range(_CENTROID_ROUNDS):
        found = np.sort(np.argsort(-(embeddings @ centre), kind="stable")[:size])
        if nearest is not None and np.array_equal(found, nearest):
            break
        nearest = found
        centre = _unit(embeddings[nearest].mean(axis=0))
    return centre


def outlier_share(similarities: Sequence[float | None]) -> float | None:
    """The share of clips that are not by the video's declared speaker, by their
    `speaker_similarity`; None where no clip has one."""
    known = [similarity for similarity in similarities if similarity is not None]
    if not known:
        return None
    return sum(similarity < OUTLIER_SIMILARITY for similarity in known) / len(known)


def greatest_change(windows: Float32) -> Change | None:
    """The stretch of a clip, at its start, end or middle, with the greatest weighted distance from
    the rest of it; None where no two windows lie apart.

    Args:
        windows: shape (windows, 256), each of unit length, 0.4 s from one to the next. Windows
            that share audio with both parts count in neither.
    """
    n = len(windows)
    sums = np.vstack([np.zeros(EMBEDDING_SIZE), np.cumsum(windows, axis=0, dtype=np.float64)])
    greatest: Change | None = None
    for first in range(n):
        last = np.arange(first + 1, n + 1)
        before = max(0, first - _APART)
        after = np.minimum(n, last + _APART)
        left_out = before + n - after == 0
        last, after = last[~left_out], after[~left_out]
        if not len(last):
            continue
        part = _unit(sums[last] - sums[first])
        rest = _unit(sums[before] + sums[n] - sums[after])
        a, b = (1 + (count - 1) * _STEP / _WINDOW for count in (last - first, before + n - after))
        weight = a * b / (a + b)
        best = int((weight * (1 - (part * rest).sum(axis=1))).argmax())
        change = Change(
            part[best].astype(np.float32), rest[best].astype(np.float32), float(weight[best])
        )
        if greatest is None or change.distance > greatest.distance:
            greatest = change
    return greatest


def mel_spectrogram(samples: Float32) -> Float32:
    """The power in 40 mel bands, shape (frames, 40), of 16 kHz samples scaled to ±1.

    Equal to `librosa.feature.melspectrogram` (Slaney's scale and norm, centred Hann windows) as
    resemblyzer calls it, within float error.
    """
    padded = np.pad(samples, _FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)).astype(np.float32)
    spectrum = np.fft.rfft(frames * hann, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    mel: Float32 = power @ _mel_bands()
    return mel


def encode(spectrograms: Float32) -> Float32:
    """The embeddings, shape (windows, 256) and unit length, of windows of shape (windows, 160, 40).

    Raises:
        ModelError: the encoder's weights are not installed.
    """
    import torch

    lstm, linear = _encoder()
    with torch.inference_mode():
        _, (hidden, _) = lstm(torch.from_numpy(np.ascontiguousarray(spectrograms)))
        raw = torch.relu(linear(hidden[-1]))
        unit: Float32 = torch.nn.functional.normalize(raw, dim=1).numpy()
    return unit


def _measure(clip: npt.NDArray[np.int16]) -> tuple[SpeakerMeasures, Change | None]:
    """What can be said of a clip by itself."""
    if not clip.any():
        return SpeakerMeasures(), None
    windows = encode(np.stack(list(_windows(_voiced(mel_spectrogram(_encoder_view(clip)))))))
    half = len(windows) // 2
    halves = (windows[:half], windows[len(windows) - half :])
    measures = SpeakerMeasures(
        embedding=_unit(windows.mean(axis=0)),
        halves_similarity=_cosine(*(_unit(part.mean(axis=0)) for part in halves)) if half else None,
    )
    return measures, greatest_change(windows)


def _declared_voice(
    measured: Sequence[SpeakerMeasures], changes: Sequence[Change | None]
) -> Float32 | None:
    distances = [change.distance for change in changes if change is not None]
    most = float(np.median(distances)) if distances else None
    pure = [
        measures.embedding
        for measures, change in zip(measured, changes, strict=True)
        if measures.embedding is not None
        and (most is None or (change is not None and change.distance <= most))
    ]
    return voice_of_most(np.stack(pure)) if pure else None


def _against(voice: Float32, measures: SpeakerMeasures, change: Change | None) -> SpeakerMeasures:
    if measures.embedding is None:
        return measures
    return replace(
        measures,
        change_similarity=round(change.similarity(voice), 4) if change is not None else None,
        speaker_similarity=_cosine(measures.embedding, voice),
    )


def _encoder_view(clip: npt.NDArray[np.int16]) -> Float32:
    """16 kHz, scaled to ±1, at the level that the encoder was trained on or above it."""
    import soxr

    view: Float32 = soxr.resample(
        clip.astype(np.float32) / FULL_SCALE, SAMPLE_RATE_HZ, _ENCODER_RATE_HZ, quality="HQ"
    )
    level = power_dbfs(float(np.mean(view.astype(np.float64) ** 2)))
    return view * np.float32(gain_of(max(0.0, _TARGET_DBFS - level)))


def _voiced(mel: Float32) -> Float32:
    """The frames that are not pauses; all of them where they fit into one window anyway."""
    if len(mel) <= _WINDOW:
        return mel
    level = 10 * np.log10(mel.sum(axis=1, dtype=np.float64) + _TINY)
    level = np.convolve(level, np.full(_SMOOTHED_FRAMES, 1 / _SMOOTHED_FRAMES), "same")
    background, loud = np.percentile(level, (_BACKGROUND_PERCENTILE, _LOUD_PERCENTILE))
    background = max(background, loud - _DYNAMICS_DB)
    voiced = level >= background + _GATE * (loud - background)
    around = np.convolve(voiced, np.ones(2 * _KEPT_AROUND_FRAMES + 1), "same") > 0.5
    return mel[around]


def _windows(mel: Float32) -> Iterator[Float32]:
    """At least one: what is shorter is filled up with silence."""
    if len(mel) < _WINDOW:
        mel = np.pad(mel, ((0, _WINDOW - len(mel)), (0, 0)))
    for start in range(0, len(mel) - _WINDOW + 1, _STEP):
        yield mel[start : start + _WINDOW]


@lru_cache(maxsize=1)
def _mel_bands() -> Float32:
    """Slaney's triangles of equal area, shape (201, 40)."""
    frequencies = np.linspace(0, _ENCODER_RATE_HZ / 2, _FFT // 2 + 1)
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(_ENCODER_RATE_HZ / 2), _MELS + 2))
    widths = np.diff(edges)
    slopes = edges[:, None] - frequencies
    rising = -slopes[:-2] / widths[:-1, None]
    falling = slopes[2:] / widths[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).T.astype(np.float32)


_LINEAR_HZ_PER_MEL = 200 / 3
_LOG_FROM_HZ = 1000.0
_LOG_FROM_MEL = _LOG_FROM_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    """Of a frequency over 1 kHz (Slaney, Auditory Toolbox)."""
    return float(_LOG_FROM_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logarithmic = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mel - _LOG_FROM_MEL))
    return np.where(mel < _LOG_FROM_MEL, mel * _LINEAR_HZ_PER_MEL, logarithmic)


@lru_cache(maxsize=1)
def _encoder() -> tuple[Any, Any]:
    """The LSTM and the layer after it, with the package's weights."""
    import torch

    state = torch.load(_weights(), map_location="cpu", weights_only=True)["model_state"]
    lstm = torch.nn.LSTM(_MELS, EMBEDDING_SIZE, num_layers=3, batch_first=True)
    linear = torch.nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE)
    for name, module in (("lstm.", lstm), ("linear.", linear)):
        module.load_state_dict(
            {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
        )
        module.eval()
    return lstm, linear


def _weights() -> Path:
    package = find_spec("resemblyzer")
    path = Path(package.origin).with_name("pretrained.pt") if package and package.origin else None
    if path is None or not path.is_file():
        raise ModelError(
            "The speaker encoder's weights are missing",
            where="the package resemblyzer",
            remedy="Install resemblyzer 0.1.4 as the lock has it, or set speakers.engine: off",
        )
    return path


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Torch with so many threads (0: one for each core that this process may use; macOS does not
    tell which, so all). Without it another library's choice would hold: coqui-tts leaves 1."""
    import torch

    before = torch.get_num_threads()
    all_cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else all_cores
    torch.set_num_threads(wanted or allowed)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _medoid(embeddings: Float32) -> int:
    medians = [
        np.median(embeddings[first : first + _MEDOID_ROWS] @ embeddings.T, axis=1)
        for first in range(0, len(embeddings), _MEDOID_ROWS)
    ]
    return int(np.concatenate(medians).argmax())


def _unit(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    unit: npt.NDArray[Any] = vectors / np.maximum(
        np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY
    )
    return unit


def _cosine(a: Float32, b: Float32) -> float:
    """Of two unit vectors."""
    return round(float(a @ b), 4)

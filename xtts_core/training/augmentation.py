"""Training clips said faster, slower, higher or lower than they were.

FFmpeg's `atempo` (waveform similarity overlap-add, Verhelst and Roelands 1993) does it: where ten
seconds are said 1.1 times as fast, a speaker encoder (resemblyzer) finds the voice 0.987 like the
original, and 0.780 where librosa's phase vocoder did it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.filter import Graph
from torch import Tensor

from xtts_core.settings import MAX_CLIP_SAMPLES, SAMPLE_RATE_HZ, AugmentationSettings
from xtts_core.training.codes import Coder
from xtts_core.training.data import Clip, LoadedTensors

MIN_CLIP_SAMPLES = SAMPLE_RATE_HZ // 2
"""coqui-tts drops what is shorter (dataset.py: load_item)."""

PITCH_WARNING = (
    "augmentation.max_pitch_semitones is set: a voice that is made higher or lower is another "
    "speaker's, and the model learns that it is this one's"
)


class Augmenter:
    """Changes a share of the training clips, and codes them anew with the base model's DVAE.

    What becomes of a clip follows from the seed, the epoch and its id alone.
    """

    def __init__(self, base_dir: Path, settings: AugmentationSettings, seed: int) -> None:
        self._coder = Coder(base_dir)
        self._settings = settings
        self._seed = seed

    def __call__(self, clip: Clip, epoch: int) -> Clip:
        """The clip itself, or one with its id and text and other audio and codes."""
        settings = self._settings
        draw = random.Random(f"{self._seed}:{epoch}:{clip.clip_id}:augmentation")
        if draw.random() >= settings.share:
            return clip
        rate = 1 + draw.uniform(-settings.max_stretch, settings.max_stretch)
        semitones = draw.uniform(-settings.max_pitch_semitones, settings.max_pitch_semitones)
        audio = changed(clip.audio(), rate, semitones)
        tensors = {f"{clip.sha256}.audio": audio, f"{clip.sha256}.codes": self._coder.codes(audio)}
        return replace(clip, samples=len(audio), tensors=LoadedTensors(tensors))


def changed(audio: Tensor, rate: float, semitones: float) -> Tensor:
    """Speech at another rate or pitch.

    Args:
        audio: (samples,) int16 at 22 050 Hz.
        rate: 1.1 is a tenth faster. It is brought nearer to 1 where a clip would become longer or
            shorter than XTTS trains on.
        semitones: 12 is an octave higher.

    Returns:
        (samples / rate,) int16; `audio` itself where nothing changes.
    """
    rate = min(max(rate, len(audio) / MAX_CLIP_SAMPLES), len(audio) / MIN_CLIP_SAMPLES)
    pitch = 2.0 ** (semitones / 12)
    filters = [("atempo", f"{rate / pitch:.6f}")] if rate != pitch else []
    if semitones:
        played = ("asetrate", f"{SAMPLE_RATE_HZ * pitch:.0f}")
        filters = [played, ("aresample", f"{SAMPLE_RATE_HZ}"), *filters]
    if not filters:
        return audio
    return torch.from_numpy(_filtered(audio.numpy(), filters)[:MAX_CLIP_SAMPLES])


def _filtered(
    audio: np.ndarray[tuple[int], np.dtype[np.int16]], filters: Sequence[tuple[str, str]]
) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    graph = Graph()
    source = graph.add_abuffer(
        format="s16",
        sample_rate=SAMPLE_RATE_HZ,
        layout="mono",
        time_base=Fraction(1, SAMPLE_RATE_HZ),
    )
    last = source
    for name, argument in [*filters, ("aformat", "sample_fmts=s16:channel_layouts=mono")]:
        following = graph.add(name, argument)
        last.link_to(following)
        last = following
    sink = graph.add("abuffersink")
    last.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(audio[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, 0
    source.push(frame)
    source.push(None)
    pieces = []
    while True:
        try:
            piece = sink.pull()
            assert isinstance(piece, av.AudioFrame)
            pieces.append(piece.to_ndarray()[0])
        except (av.error.EOFError, av.error.BlockingIOError):
            return np.concatenate(pieces)

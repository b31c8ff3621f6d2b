"""Speech recognition by Whisper, through either of its two engines.

A clip is already cut at its pauses, so it is recognised by itself, without timestamps and
without the text before it. That is also what keeps Whisper from running on: on one set of 3 000
pt-BR files the word error rate fell from 13 to 3 % (ggml-org/whisper.cpp#1724).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
MAX_COMPRESSION_RATIO = 2.4
"""Above it a text repeats itself (openai-whisper, transcribe.py: compression_ratio_threshold)."""
MIN_CONFIDENCE = -1.0
"""The mean log probability below which Whisper itself tries again (logprob_threshold)."""
MAX_NO_SPEECH = 0.6
"""no_speech_threshold; as in Whisper it counts only together with a low confidence."""
MAX_CHARACTERS_PER_S = 25.0
"""More than a fast speaker says; NeMo's Portuguese filter stops at 21 (mtedx config)."""
MIN_CHARACTERS_PER_S = 1.0
"""The lower end of the same filter."""
_MAX_SAME_WORD = 4
_MAX_SAME_PHRASE = 3


@dataclass(frozen=True)
class Recognised:
    """What a recogniser heard in one clip.

    `confidence` is the mean natural log probability of the tokens, `no_speech_prob` Whisper's
    own, `compression_ratio` that of zlib on the text.
    """

    text: str
    confidence: float
    no_speech_prob: float
    compression_ratio: float


class Recogniser(Protocol):
    """Turns one clip into text."""

    def transcribe(self, audio: NDArray[np.float32], language: str) -> Recognised:
        """Recognise mono audio at 16 kHz, shape (samples,), in ±1, of at most 30 s."""
        ...


def guards(recognised: Recognised, spoken: str, duration_s: float) -> list[str]:
    """The signs that a text was invented, sorted; empty for one that can be trusted.

    Args:
        spoken: the recognised text, normalised.
        duration_s: the length of the clip.
    """
    flags = set(text_guards(spoken, duration_s))
    if recognised.compression_ratio > MAX_COMPRESSION_RATIO:
        flags.add("repetition")
    if recognised.confidence < MIN_CONFIDENCE:
        flags.add("low_confidence")
        if recognised.no_speech_prob > MAX_NO_SPEECH:
            flags.add("no_speech")
    return sorted(flags)


def text_guards(spoken: str, duration_s: float) -> list[str]:
    """The guards that need no recogniser: repetition, and a text that does not fit its time."""
    words = re.findall(r"[\w'-]+", spoken)
    phrases = Counter(zip(words, words[1:], words[2:], strict=False))
    runs = re.search(rf"\b([\w'-]+)(?:\W+\1\b){{{_MAX_SAME_WORD - 1},}}", spoken)
    rate = len(spoken) / duration_s
    found = {
        "repetition": runs is not None or max(phrases.values(), default=0) >= _MAX_SAME_PHRASE,
        "too_fast": rate > MAX_CHARACTERS_PER_S,
        "too_slow": bool(words) and rate < MIN_CHARACTERS_PER_S,
    }
    return sorted(name for name, holds in found.items() if holds)


@lru_cache(maxsize=2)
def load_recogniser(
    engine: str, weights: Path, device: str, beam_size: int, temperature: float
) -> Recogniser:
    """The recogniser, loaded once a process.

    Args:
        engine: `faster-whisper` or `openai-whisper`.
        weights: what `weights.find_weights` gave for that engine.
        device: `auto`, `cpu` or `cuda`.
        beam_size: used at temperature 0; above it Whisper samples.
    """
    if device == "auto":
        device = "cuda" if _has_cuda(engine) else "cpu"
    kind = FasterWhisper if engine == "faster-whisper" else OpenAiWhisper
    return kind(weights, device, beam_size, temperature)


def _has_cuda(engine: str) -> bool:
    if engine == "faster-whisper":
        import ctranslate2

        return bool(ctranslate2.get_cuda_device_count() > 0)
    import torch

    return torch.cuda.is_available()


class FasterWhisper:
    """CTranslate2's Whisper: int8 on a CPU, float16 on a GPU."""

    def __init__(self, weights: Path, device: str, beam_size: int, temperature: float) -> None:
        from faster_whisper import WhisperModel

        self._beam_size = beam_size
        self._temperature = temperature
        self._model = WhisperModel(
            str(weights),
            device=device,
            compute_type="int8" if device == "cpu" else "float16",
            cpu_threads=int(os.environ.get("OMP_NUM_THREADS") or 0),
            local_files_only=True,
        )

    def transcribe(self, audio: NDArray[np.float32], language: str) -> Recognised:
        segments, _ = self._model.transcribe(
            audio,
            language=language.split("-")[0].lower(),
            beam_size=self._beam_size,
            temperature=self._temperature,
            without_timestamps=True,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
        )
        heard = list(segments)
        if not heard:
            return Recognised("", 0.0, 1.0, 0.0)
        return Recognised(
            " ".join(segment.text.strip() for segment in heard),
            sum(segment.avg_logprob for segment in heard) / len(heard),
            max(segment.no_speech_prob for segment in heard),
            max(segment.compression_ratio for segment in heard),
        )


class OpenAiWhisper:
    """openai-whisper in PyTorch: float32 on a CPU, float16 on a GPU."""

    def __init__(self, weights: Path, device: str, beam_size: int, temperature: float) -> None:
        import whisper

        self._beam_size = beam_size if temperature == 0 else None
        self._temperature = temperature
        self._model = whisper.load_model(str(weights), device=device)

    def transcribe(self, audio: NDArray[np.float32], language: str) -> Recognised:
        import whisper

        mel = whisper.log_mel_spectrogram(
            whisper.pad_or_trim(audio), self._model.dims.n_mels, device=self._model.device
        )
        options = whisper.DecodingOptions(
            language=language.split("-")[0].lower(),
            beam_size=self._beam_size,
            temperature=self._temperature,
            without_timestamps=True,
            fp16=self._model.device.type != "cpu",
        )
        heard = whisper.decode(self._model, mel, options)
        return Recognised(
            heard.text.strip(), heard.avg_logprob, heard.no_speech_prob, heard.compression_ratio
        )

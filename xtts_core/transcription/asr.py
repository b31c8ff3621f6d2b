"""Speech recognition by Whisper, through either of its two engines.

A clip is already cut at its pauses, so it is recognised by itself, without timestamps and
without the text before it. That is also what keeps Whisper from running on: on one set of 3 000
pt-BR files the word error rate fell from 13 to 3 % (ggml-org/whisper.cpp#1724).

Whisper's encoder was trained on windows of 30 s, and both engines fill each clip up to that, most
of it for nothing. CTranslate2 takes shorter ones: a clip with 3 s of silence after it has the same
word error rate as in 30 s, at a third of the time (benchmarks/transcription/speed.py); without any
silence the text repeats itself. Nothing is packed together, so no word can land in another clip.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Audio = npt.NDArray[np.float32]

VERSION = "2"
"""What is remembered of a clip is heard again where this changes."""
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
FRAMES_PER_S = 100
FULL_WINDOW = 30 * FRAMES_PER_S
WINDOW_STEP = 250
"""Windows are so many frames of 10 ms, times a whole number, so that clips of nearly one length are
recognised together, and the same whatever they are together with."""
SILENCE_AFTER = 3 * FRAMES_PER_S
CLIPS_AT_ONCE = 8
"""In one batch; more are no faster on a CPU (measured with 1, 4 and 8)."""
MOST_TOKENS_PER_S = 12
"""Portuguese has about 5 tokens a second; a text that repeats itself is stopped here."""
TEMPERATURE_STEP = 0.2
BEST_OF = 5
"""Where a text looks invented, Whisper's own remedy: to sample at 0.2, 0.4 … 1.0, the best of five
each (openai-whisper, transcribe.py)."""
SEED = 0
_MAX_SAME_WORD = 4
_MAX_SAME_PHRASE = 3


@dataclass(frozen=True)
class Recognised:
    """What a recogniser heard in one clip.

    `confidence` is the mean natural log probability of the tokens, `no_speech_prob` Whisper's
    own, `compression_ratio` that of zlib on the text, `temperature` that of the text taken.
    """

    text: str
    confidence: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float = 0.0


class Recogniser(Protocol):
    """Turns clips into texts."""

    def transcribe(self, clips: Sequence[Audio], language: str) -> list[Recognised]:
        """Recognise mono clips at 16 kHz, shape (samples,), in ±1, of at most 30 s each.

        What is heard in a clip does not depend on the other clips.
        """
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
    """The guards that need no recogniser: repetition, and a text that does not fit its time.

    Digits may be said again and again: telephone numbers are.
    """
    words = re.findall(r"[\w'-]+", spoken)
    digits = _spoken_digits()
    phrases = Counter(
        phrase
        for phrase in zip(words, words[1:], words[2:], strict=False)
        if not digits.issuperset(phrase)
    )
    longest = max((len(list(run)) for word, run in groupby(words) if word not in digits), default=0)
    rate = len(spoken) / duration_s
    found = {
        "repetition": longest >= _MAX_SAME_WORD
        or max(phrases.values(), default=0) >= _MAX_SAME_PHRASE,
        "too_fast": rate > MAX_CHARACTERS_PER_S,
        "too_slow": bool(words) and rate < MIN_CHARACTERS_PER_S,
    }
    return sorted(name for name, holds in found.items() if holds)


@lru_cache(maxsize=1)
def _spoken_digits() -> frozenset[str]:
    from num2words import num2words

    return frozenset(num2words(n, lang=lang) for n in range(10) for lang in ("pt_BR", "es", "en"))


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

    def transcribe(self, clips: Sequence[Audio], language: str) -> list[Recognised]:
        by_window: dict[int, list[int]] = {}
        for index, clip in enumerate(clips):
            by_window.setdefault(_window(len(clip)), []).append(index)
        found: dict[int, Recognised] = {}
        for window, indices in by_window.items():
            for first in range(0, len(indices), CLIPS_AT_ONCE):
                batch = indices[first : first + CLIPS_AT_ONCE]
                texts = self._decoded(
                    [clips[index] for index in batch], window, language, self._temperature
                )
                found.update(zip(batch, texts, strict=True))
        return [
            _first_credible(
                found[index],
                len(clip) / SAMPLE_RATE_HZ,
                lambda temperature, clip=clip: self._decoded(  # type: ignore[misc]
                    [clip], FULL_WINDOW, language, temperature
                )[0],
            )
            for index, clip in enumerate(clips)
        ]

    def _decoded(
        self, clips: Sequence[Audio], window: int, language: str, temperature: float
    ) -> list[Recognised]:
        import ctranslate2
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(
            self._model.hf_tokenizer,
            self._model.model.is_multilingual,
            task="transcribe",
            language=language.split("-")[0].lower(),
        )
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        samples = window * SAMPLE_RATE_HZ // FRAMES_PER_S
        features = [
            self._model.feature_extractor(clip[:samples], padding=max(0, samples - len(clip)))
            for clip in clips
        ]
        ctranslate2.set_random_seed(SEED)
        results = self._model.model.generate(
            self._model.encode(np.stack(features)),
            [prompt] * len(clips),
            max_length=len(prompt) + window * MOST_TOKENS_PER_S // FRAMES_PER_S,
            return_scores=True,
            return_no_speech_prob=True,
            **(
                {
                    "beam_size": 1,
                    "num_hypotheses": BEST_OF,
                    "sampling_topk": 0,
                    "sampling_temperature": temperature,
                }
                if temperature
                else {"beam_size": self._beam_size}
            ),
        )
        found = []
        for result in results:
            tokens = result.sequences_ids[0]
            text = tokenizer.decode(tokens).strip()
            # The score is the mean over the tokens without the one that ends the text.
            confidence = result.scores[0] * len(tokens) / (len(tokens) + 1)
            found.append(
                Recognised(text, confidence, result.no_speech_prob, _compression(text), temperature)
            )
        return found


class OpenAiWhisper:
    """openai-whisper in PyTorch: float32 on a CPU, float16 on a GPU. Its encoder takes nothing but
    windows of 30 s."""

    def __init__(self, weights: Path, device: str, beam_size: int, temperature: float) -> None:
        import whisper

        self._beam_size = beam_size
        self._temperature = temperature
        self._model = whisper.load_model(str(weights), device=device)

    def transcribe(self, clips: Sequence[Audio], language: str) -> list[Recognised]:
        return [self._heard(clip, language) for clip in clips]

    def _heard(self, clip: Audio, language: str) -> Recognised:
        import torch
        import whisper

        mel = whisper.log_mel_spectrogram(
            whisper.pad_or_trim(clip), self._model.dims.n_mels, device=self._model.device
        )

        def decoded(temperature: float) -> Recognised:
            options = whisper.DecodingOptions(
                language=language.split("-")[0].lower(),
                beam_size=None if temperature else self._beam_size,
                best_of=BEST_OF if temperature else None,
                temperature=temperature,
                without_timestamps=True,
                fp16=self._model.device.type != "cpu",
            )
            with torch.random.fork_rng():
                torch.manual_seed(SEED)
                heard = whisper.decode(self._model, mel, options)
            return Recognised(
                heard.text.strip(),
                heard.avg_logprob,
                heard.no_speech_prob,
                heard.compression_ratio,
                temperature,
            )

        return _first_credible(decoded(self._temperature), len(clip) / SAMPLE_RATE_HZ, decoded)


def _window(samples: int) -> int:
    """The frames of the shortest window for a clip."""
    frames = -(-samples * FRAMES_PER_S // SAMPLE_RATE_HZ) + SILENCE_AFTER
    return min(FULL_WINDOW, -(-frames // WINDOW_STEP) * WINDOW_STEP)


def _first_credible(
    heard: Recognised, duration_s: float, again: Callable[[float], Recognised]
) -> Recognised:
    """What was heard, or where that looks invented the first text at a higher temperature that does
    not; if all do, the most probable one of those that repeat themselves least.

    Args:
        again: decodes the clip in a full window at a temperature.
    """
    tried = [heard]
    temperature = heard.temperature
    while _looks_invented(tried[-1], duration_s) and temperature <= 1:
        tried.append(again(temperature))
        temperature = round(temperature + TEMPERATURE_STEP, 1)
    if not _looks_invented(tried[-1], duration_s):
        return tried[-1]
    return max(
        tried,
        key=lambda text: (text.compression_ratio <= MAX_COMPRESSION_RATIO, text.confidence),
    )


def _looks_invented(heard: Recognised, duration_s: float) -> bool:
    flags = set(guards(heard, heard.text.lower(), duration_s))
    # Where nobody speaks, other temperatures only invent other texts.
    return "no_speech" not in flags and bool(flags - {"too_slow"})


def _compression(text: str) -> float:
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0

"""Speech recognition by Whisper, through either of its two engines.

A clip is already cut at its pauses, so it is recognised by itself, without timestamps and
without the text before it. That is also what keeps Whisper from running on: on one set of 3 000
pt-BR files the word error rate fell from 13 to 3 % (ggml-org/whisper.cpp#1724).

Whisper's encoder was trained on windows of 30 s, and both engines fill each clip up to that, most
of it for nothing. CTranslate2 takes shorter ones: a clip with 3 s of silence after it has the same
word error rate as in 30 s, at a third of the time (benchmarks/transcription/speed.py); with less
silence the text repeats itself. Nothing is packed together, so no word can land in another clip;
several clips in one window of 30 s, a second of silence between them and their words parted by
time, took 1.4 times as long and moved one word in 280 (the same table).

Where a text goes on after the speech has ended, its words fall into the silence after the clip.
That tells a sentence that is said once and written twice, however slowly it is said; neither its
compression nor its probability gives it away.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from xtts_core.errors import TranscriptionError
from xtts_core.transcription.words import Piece, Word, joined

if TYPE_CHECKING:
    import torch

Audio = npt.NDArray[np.float32]

VERSION = "3"
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
BEYOND_S = 0.5
"""A word that begins so long after the end of the clip was not spoken in it. The words of right
texts began at most 0.04 s after it, those of the repeated sentence 3.4 s (the samples, and 80
Spanish telephone prompts)."""
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
    own, `compression_ratio` that of zlib on the text, `temperature` that of the text taken. `words`
    may be lists of the fields of `Word`, as JSON gives them back.
    """

    text: str
    confidence: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float = 0.0
    words: tuple[Word, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(Word(*word) for word in self.words))


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
    if recognised.words and recognised.words[-1].start_s > duration_s + BEYOND_S:
        flags.add("beyond_audio")
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
    engine: str,
    weights: Path,
    device: str,
    beam_size: int,
    temperature: float,
    compute_type: str = "auto",
) -> Recogniser:
    """The recogniser, loaded once a process.

    Args:
        engine: `faster-whisper` or `openai-whisper`.
        weights: what `weights.find_weights` gave for that engine.
        device: `auto`, `cpu` or `cuda`.
        beam_size: used at temperature 0; above it Whisper samples.
        compute_type: `float32`, `float16`, and for faster-whisper what CTranslate2 knows besides,
            such as `int8`, `int8_float16` or `bfloat16`; `auto` is float16 on a GPU, and on a CPU
            int8 with faster-whisper, float32 with openai-whisper.

    Raises:
        TranscriptionError: there is no such device, or it does not compute in that type.
    """
    found = _has_cuda(engine)
    if device == "cuda" and not found:
        raise TranscriptionError(
            f"{engine} finds no GPU",
            where="transcription.device",
            remedy="Set it to cpu or auto, or see what nvidia-smi says",
        )
    if device == "auto":
        device = "cuda" if found else "cpu"
    kind = FasterWhisper if engine == "faster-whisper" else OpenAiWhisper
    return kind(weights, device, beam_size, temperature, compute_type)


def _require_compute_type(engine: str, wanted: str, device: str, known: Collection[str]) -> None:
    if wanted not in known:
        raise TranscriptionError(
            f"{engine} does not compute in {wanted} on this {device}",
            where="transcription.compute_type",
            remedy=f"Set it to auto, or to one of {', '.join(sorted(known))}",
        )


def _has_cuda(engine: str) -> bool:
    if engine == "faster-whisper":
        import ctranslate2

        return bool(ctranslate2.get_cuda_device_count() > 0)
    import torch

    return torch.cuda.is_available()


class FasterWhisper:
    """CTranslate2's Whisper."""

    def __init__(
        self, weights: Path, device: str, beam_size: int, temperature: float, compute_type: str
    ) -> None:
        import ctranslate2
        from faster_whisper import WhisperModel

        if compute_type == "auto":
            compute_type = "int8" if device == "cpu" else "float16"
        known = ctranslate2.get_supported_compute_types(device)
        _require_compute_type("faster-whisper", compute_type, device, known)
        self._beam_size = beam_size
        self._temperature = temperature
        self._model = WhisperModel(
            str(weights),
            device=device,
            compute_type=compute_type,
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
                other_window=_window(len(clip)) < FULL_WINDOW,
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
        encoded = self._model.encode(np.stack(features))
        ctranslate2.set_random_seed(SEED)
        results = self._model.model.generate(
            encoded,
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
        texts: Any = [result.sequences_ids[0] for result in results]
        timed = self._model.find_alignment(tokenizer, texts, encoded, window)
        found = []
        for result, tokens, pieces in zip(results, texts, timed, strict=True):
            text = tokenizer.decode(tokens).strip()
            # The score is the mean over the tokens without the one that ends the text.
            confidence = result.scores[0] * len(tokens) / (len(tokens) + 1)
            found.append(
                Recognised(
                    text,
                    confidence,
                    result.no_speech_prob,
                    _compression(text),
                    temperature,
                    joined(
                        Piece(piece["word"], piece["start"], piece["end"], piece["probability"])
                        for piece in pieces
                    ),
                )
            )
        return found


class OpenAiWhisper:
    """openai-whisper in PyTorch. Its encoder takes nothing but windows of 30 s."""

    def __init__(
        self, weights: Path, device: str, beam_size: int, temperature: float, compute_type: str
    ) -> None:
        import whisper

        if compute_type == "auto":
            compute_type = "float32" if device == "cpu" else "float16"
        known = ("float32",) if device == "cpu" else ("float32", "float16")
        _require_compute_type("openai-whisper", compute_type, device, known)
        self._half = compute_type == "float16"
        self._beam_size = beam_size
        self._temperature = temperature
        self._model = whisper.load_model(str(weights), device=device)

    def transcribe(self, clips: Sequence[Audio], language: str) -> list[Recognised]:
        return [self._heard(clip, language) for clip in clips]

    def _heard(self, clip: Audio, language: str) -> Recognised:
        import torch
        import whisper
        from whisper.timing import find_alignment
        from whisper.tokenizer import get_tokenizer

        code = language.split("-")[0].lower()
        tokenizer = get_tokenizer(
            self._model.is_multilingual,
            num_languages=self._model.num_languages,
            language=code,
            task="transcribe",
        )
        mel = whisper.log_mel_spectrogram(
            whisper.pad_or_trim(clip), self._model.dims.n_mels, device=self._model.device
        )
        with torch.no_grad():
            encoded = self._model.embed_audio((mel.half() if self._half else mel)[None])[0]

        def decoded(temperature: float) -> Recognised:
            options = whisper.DecodingOptions(
                language=code,
                beam_size=None if temperature else self._beam_size,
                best_of=BEST_OF if temperature else None,
                temperature=temperature,
                without_timestamps=True,
                fp16=self._half,
            )
            with torch.random.fork_rng():
                torch.manual_seed(SEED)
                heard = whisper.decode(self._model, encoded, options)
            pieces = find_alignment(
                _Decoder(self._model), tokenizer, heard.tokens, encoded, FULL_WINDOW
            )
            return Recognised(
                heard.text.strip(),
                heard.avg_logprob,
                heard.no_speech_prob,
                heard.compression_ratio,
                temperature,
                joined(
                    Piece(piece.word, piece.start, piece.end, piece.probability) for piece in pieces
                ),
            )

        return _first_credible(
            decoded(self._temperature), len(clip) / SAMPLE_RATE_HZ, decoded, other_window=False
        )


class _Decoder:
    """A model as `whisper.timing.find_alignment` uses it, for audio that is encoded already; with
    the model itself it would encode it again, which doubles the time of a greedy clip."""

    def __init__(self, model: Any) -> None:
        self.decoder = model.decoder
        self.dims = model.dims
        self.device = model.device
        self.alignment_heads = model.alignment_heads

    def __call__(self, encoded: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.decoder(tokens, encoded)
        return logits


def _window(samples: int) -> int:
    """The frames of the shortest window for a clip."""
    frames = -(-samples * FRAMES_PER_S // SAMPLE_RATE_HZ) + SILENCE_AFTER
    return min(FULL_WINDOW, -(-frames // WINDOW_STEP) * WINDOW_STEP)


def _first_credible(
    heard: Recognised,
    duration_s: float,
    again: Callable[[float], Recognised],
    *,
    other_window: bool,
) -> Recognised:
    """What was heard, or where that looks invented the first text at a higher temperature that does
    not; if all do, the most probable one of those that repeat themselves least.

    Args:
        again: decodes the clip in a full window at a temperature.
        other_window: whether what was heard came from another window, so that the full one is worth
            its temperature too.
    """
    tried = [heard]
    temperature = heard.temperature
    if not other_window:
        temperature = round(temperature + TEMPERATURE_STEP, 1)
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

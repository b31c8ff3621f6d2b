"""From text to audio: decodes the codes, and vocodes them whole or while they come.

The latents that the vocoder needs are collected while decoding, where coqui-tts runs the GPT a
second time for them; the two agree to 1e-6. Streaming vocodes only the frames that are new, with
the context that the vocoder sees around them, so the joined chunks equal the whole.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parametrize

from xtts_core.errors import DecodeError, NotReadyError, RequestError
from xtts_core.model.checkpoint import verify, version_of
from xtts_core.model.loading import load_model, resolve_device
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.settings import NATIVE_RATE_HZ, SAMPLE_RATE_HZ, EngineSettings
from xtts_core.text import NORMALISER_VERSION, split_sentences
from xtts_core.text import languages as normalised_languages

if TYPE_CHECKING:
    from TTS.tts.models.xtts import Xtts

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]

MIN_REFERENCE_S = 0.33
"""The shortest reference that has a conditioning latent (coqui-tts, `get_gpt_cond_latents`)."""
SENTENCE_PAUSE_S = 0.2
"""Silence between two sentences of one text."""
SLOWEST_CHARACTERS_PER_S = 4.0
LONGEST_PAUSES_S = 2.0
"""A sentence may last its characters at the slowest pace and these pauses; XTTS sometimes misses
its stop token and babbles on (coqui-ai/TTS#4172, idiap/coqui-ai-TTS#514)."""
FASTEST_CHARACTERS_PER_S = 40.0
"""More than twice as fast as people speak: before its characters have passed at this pace a
sentence cannot be over, and a stop token is not drawn."""
VOCODER_CONTEXT_FRAMES = 13
"""How far the public vocoder looks on either side of a frame of 256 samples."""

_CODES_PER_S = SAMPLE_RATE_HZ / 1_024
_DEFAULT_CHARACTER_LIMIT = 250


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn. The defaults are those of coqui-tts's `inference`.

    Attributes:
        speed: above 1 faster, below 1 slower; the pitch stays.
        seed: the same seed, text, voice and model give the same audio; None draws one.
        max_audio_tokens: the most codes (46 ms each) of one sentence; None: by its length.
        min_audio_tokens: the fewest codes before a stop; None: by its length, 0: as coqui-tts.
    """

    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 0.85
    repetition_penalty: float = 10.0
    speed: float = 1.0
    seed: int | None = None
    max_audio_tokens: int | None = None
    min_audio_tokens: int | None = None


@dataclass(frozen=True)
class Latents:
    """A voice as one model sees it; another model's latents are of no use to it.

    Attributes:
        gpt_cond: conditions the GPT, shape [1, 32, channels].
        speaker: conditions the vocoder, shape [1, 512, 1].
    """

    gpt_cond: Tensor
    speaker: Tensor


class Engine:
    """A loaded model that speaks. Calls from several threads do not disturb each other.

    Args:
        model: in eval mode, on its device.
        version: how the model is called in replies and logs.
        voices: the reference clips of each speaker that came with the model.

    Attributes:
        languages: codes that can be spoken.
    """

    sample_rate_hz = NATIVE_RATE_HZ

    def __init__(
        self,
        model: Xtts,
        tokenizer: Tokenizer,
        version: str,
        voices: Mapping[str, Sequence[Path]],
    ) -> None:
        spoken = normalised_languages()
        self.version = version
        self.languages = tuple(code for code in tokenizer.languages if code in spoken)
        self._tokenizer = tokenizer
        self._voices = voices
        self._loaded: Xtts | None = model

    @classmethod
    def load(cls, directory: Path, settings: EngineSettings) -> Engine:
        """Verify and load a checkpoint or a base model.

        One that was trained on texts of another normaliser is served with a warning in the log.

        Raises:
            ModelError: a file is missing, is not what the manifest says, or does not load.
        """
        manifest = verify(directory)
        if manifest.normaliser_version not in (None, NORMALISER_VERSION):
            logger.warning(
                "%s was trained on texts of the normaliser version %s, and %s runs: what they "
                "write differently it may speak worse. Train it again",
                directory,
                manifest.normaliser_version,
                NORMALISER_VERSION,
            )
        if settings.threads:
            torch.set_num_threads(settings.threads)
        model = load_model(directory, resolve_device(settings.device))
        _fold_weight_norm(model.hifigan_decoder)
        voices = {
            speaker: [directory / name for name in names]
            for speaker, names in manifest.voices.items()
        }
        return cls(model, Tokenizer.load(directory), version_of(directory), voices)

    def voices(self) -> dict[str, list[Path]]:
        """The reference clips of each speaker that came with the model."""
        return {speaker: list(clips) for speaker, clips in self._voices.items()}

    def close(self) -> None:
        """Let go of the model; calls in progress finish with it."""
        self._loaded = None

    @torch.inference_mode()
    def latents(self, references: Sequence[FloatArray]) -> Latents:
        """The voice of reference clips: mono, 22 050 Hz, at least 0.33 s each.

        The speaker embeddings are averaged and the clips joined for the GPT, of each the first
        `max_ref_len` seconds of the model's config (coqui-tts, `get_conditioning_latents`).

        Raises:
            RequestError: a clip is too short, or is no audio.
        """
        model = self._model
        if not references:
            raise RequestError("There is no reference audio", where="references")
        clips = [
            _checked(clip, number)[:, : model.config.max_ref_len * SAMPLE_RATE_HZ].to(model.device)
            for number, clip in enumerate(references, 1)
        ]
        speakers = [model.get_speaker_embedding(clip, SAMPLE_RATE_HZ) for clip in clips]
        gpt_cond = model.get_gpt_cond_latents(
            torch.cat(clips, dim=-1),
            SAMPLE_RATE_HZ,
            length=model.config.gpt_cond_len,
            chunk_length=model.config.gpt_cond_chunk_len,
        )
        return Latents(gpt_cond=gpt_cond, speaker=torch.stack(speakers).mean(dim=0))

    def synthesize(
        self, text: str, language: str, latents: Latents, sampling: Sampling
    ) -> FloatArray:
        """`text` spoken: mono float32 at 24 000 Hz.

        The text is cut at sentences within the language's limit, and a short silence joins them.

        Raises:
            RequestError: the text is empty, or the model does not speak the language.
            NotReadyError: the engine was closed.
        """
        return np.concatenate(list(self._speak(text, language, latents, sampling, None)))

    def stream(
        self,
        text: str,
        language: str,
        latents: Latents,
        sampling: Sampling,
        chunk_tokens: int = 20,
    ) -> Iterator[FloatArray]:
        """`synthesize` in chunks, each as soon as about `chunk_tokens` new codes allow it.

        Joined, the chunks equal the audio of `synthesize` with the same seed up to rounding.
        """
        return self._speak(text, language, latents, sampling, chunk_tokens)

    @torch.inference_mode()
    def _speak(
        self,
        text: str,
        language: str,
        latents: Latents,
        sampling: Sampling,
        chunk_tokens: int | None,
    ) -> Iterator[FloatArray]:
        model = self._model
        code = language.split("-")[0].lower()
        limit = model.tokenizer.char_limits.get(code, _DEFAULT_CHARACTER_LIMIT)
        if code not in self.languages:
            raise RequestError(
                f"The model does not speak {language!r}",
                where="language",
                remedy=f"It speaks {', '.join(self.languages)}",
            )
        sentences = split_sentences(text, language, limit)
        if not sentences:
            raise RequestError("There is no text to speak", where="text")
        generator = torch.Generator(model.device)
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        for number, sentence in enumerate(sentences):
            if number:
                yield np.zeros(int(SENTENCE_PAUSE_S * NATIVE_RATE_HZ), np.float32)
            decoded = _decode(
                model.gpt,
                self._tokenizer.encode(sentence, language),
                latents.gpt_cond.to(model.device),
                sampling,
                at_least=_fewest_codes(sentence, sampling),
                limit=_code_limit(sentence, sampling, model.gpt.max_gen_mel_tokens),
                generator=generator,
            )
            yield from _vocode(
                model.hifigan_decoder,
                decoded,
                latents.speaker.to(model.device),
                sampling.speed,
                chunk_tokens,
            )

    @property
    def _model(self) -> Xtts:
        model = self._loaded
        if model is None:
            raise NotReadyError("The model was replaced", where=self.version, remedy="Call again")
        return model


def read_reference(path: Path) -> FloatArray:
    """An audio file as a reference clip: mono float32 at 22 050 Hz.

    Raises:
        DecodeError: the file is missing or is no audio that libsndfile reads.
    """
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DecodeError(
            f"The reference audio cannot be read: {error}",
            where=str(path),
            remedy="Give WAV, FLAC, Ogg or MP3",
        ) from error
    mono: FloatArray = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE_HZ)
    return mono


def _checked(clip: FloatArray, number: int) -> Tensor:
    """A reference clip as a tensor [1, samples] of its own."""
    where = f"references[{number}]"
    if clip.ndim != 1 or len(clip) < MIN_REFERENCE_S * SAMPLE_RATE_HZ:
        raise RequestError(
            f"The reference audio is shorter than {MIN_REFERENCE_S} s or not mono", where=where
        )
    if not np.isfinite(clip).all():
        raise RequestError("The reference audio holds values that are no numbers", where=where)
    return torch.from_numpy(clip.astype(np.float32)).clamp(-1, 1)[None]


def _fewest_codes(sentence: str, sampling: Sampling) -> int:
    if sampling.min_audio_tokens is not None:
        return sampling.min_audio_tokens
    return math.floor(len(sentence) / FASTEST_CHARACTERS_PER_S * _CODES_PER_S)


def _code_limit(sentence: str, sampling: Sampling, model_limit: int) -> int:
    if sampling.max_audio_tokens is not None:
        return min(sampling.max_audio_tokens, model_limit)
    seconds = LONGEST_PAUSES_S + len(sentence) / SLOWEST_CHARACTERS_PER_S
    return min(math.ceil(seconds * _CODES_PER_S), model_limit)


def _decode(
    gpt: Any,
    tokens: list[int],
    gpt_cond: Tensor,
    sampling: Sampling,
    *,
    at_least: int,
    limit: int,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Draw codes until the stop code, which does not come before `at_least` others, or the limit;
    yields the latent of each, [1, 1, channels].

    The order of the steps and the fake prefix (token 1 and the start token count as already
    spoken in the repetition penalty) are those of coqui-tts's `GPT.generate`, so equal seeds give
    its codes. Nothing is kept in the module, so calls may overlap.
    """
    draw = _drawing(sampling, generator)
    device = gpt_cond.device
    framed = torch.tensor([[gpt.start_text_token, *tokens, gpt.stop_text_token]], device=device)
    start = torch.tensor([[gpt.start_audio_token]], device=device)
    inputs = torch.cat(
        [
            gpt_cond,
            gpt.text_embedding(framed) + gpt.text_pos_embedding(framed),
            gpt.mel_embedding(start) + gpt.mel_pos_embedding(start),
        ],
        dim=1,
    )
    spoken = torch.tensor([[1, gpt.start_audio_token]], device=device)
    cache = None
    for position in range(1, limit + 1):
        step = gpt.gpt(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        latent = gpt.final_norm(step.last_hidden_state[:, -1:])
        logits = gpt.mel_head(latent[:, 0])
        if position <= at_least:
            logits[:, gpt.stop_audio_token] = -math.inf
        code = draw(spoken, logits)
        yield latent
        if code.item() == gpt.stop_audio_token:
            return
        spoken = torch.cat([spoken, code], dim=1)
        inputs = gpt.mel_embedding(code) + gpt.mel_pos_embedding.get_fixed_embedding(
            position, device
        )


def _drawing(sampling: Sampling, generator: torch.Generator) -> Any:
    """A function from the codes spoken [1, n] and the logits [1, codes] to the next code [1, 1]."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    shape: Any = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)),
            TemperatureLogitsWarper(float(sampling.temperature)),
            TopKLogitsWarper(sampling.top_k),
            TopPLogitsWarper(float(sampling.top_p)),
        ]
    )

    def draw(spoken: Tensor, logits: Tensor) -> Tensor:
        scores = shape(spoken, logits)
        return torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)

    return draw


def _vocode(
    decoder: Any, latents: Iterator[Tensor], speaker: Tensor, speed: float, chunk: int | None
) -> Iterator[FloatArray]:
    """Audio of a sentence: whole, or in pieces after every `chunk` latents.

    A piece ends before the frames that later latents or the vocoder's view of them would change.
    """
    scales = _scales(decoder, speed)
    collected: list[Tensor] = []
    done = 0
    for latent in latents:
        collected.append(latent)
        if chunk is None or len(collected) % chunk:
            continue
        ready = _settled(len(collected), scales) - VOCODER_CONTEXT_FRAMES
        if ready > done:
            yield _voice(decoder, _frames(collected, scales), speaker, done, ready)
            done = ready
    frames = _frames(collected, scales)
    yield _voice(decoder, frames, speaker, done, frames.shape[-1])


def _scales(decoder: Any, speed: float) -> list[float]:
    """The resamplings from latents to the vocoder's frames, as coqui's `HifiDecoder` has them."""
    scales = [
        1 / speed,
        decoder.ar_mel_length_compression / decoder.output_hop_length,
        decoder.output_sample_rate / decoder.input_sample_rate,
    ]
    return [scale for scale in scales if scale != 1]


def _frames(latents: list[Tensor], scales: list[float]) -> Tensor:
    """Latents as frames of the vocoder, [1, channels, frames]."""
    frames = torch.cat(latents, dim=1).transpose(1, 2)
    for scale in scales:
        frames = functional.interpolate(frames, scale_factor=scale, mode="linear")
    return frames


def _settled(n: int, scales: list[float]) -> int:
    """How many frames n latents fix: output i of a linear resampling by s reads the inputs
    around (i + 0.5) / s - 0.5, and past the last one that may still move."""
    for scale in scales:
        n = max(0, math.floor(scale * (n - 0.5) - 0.5))
    return n


def _voice(decoder: Any, frames: Tensor, speaker: Tensor, start: int, stop: int) -> FloatArray:
    """The audio of frames `start` to `stop`, vocoded with their context."""
    first = max(0, start - VOCODER_CONTEXT_FRAMES)
    last = stop + VOCODER_CONTEXT_FRAMES
    wave = decoder.waveform_decoder(frames[:, :, first:last], g=speaker)[0, 0]
    hop = decoder.output_hop_length
    audio: FloatArray = wave[(start - first) * hop : (stop - first) * hop].cpu().numpy()
    return audio


def _fold_weight_norm(decoder: torch.nn.Module) -> None:
    """Compute the normed weights once; coqui's own `remove_weight_norm` raises on this vocoder."""
    for module in decoder.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")

"""From text to audio: sentences are decoded (decoder.py), vocoded while their codes come
(vocoder.py), and watched for babble and silence (runaway.py).

The latents that the vocoder needs are collected while decoding, where coqui-tts runs the GPT a
second time for them; the two agree to 1e-6.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import secrets
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xtts_core.errors import DecodeError, ModelError, NotReadyError, RequestError
from xtts_core.model.checkpoint import verify, version_of
from xtts_core.model.decoder import Decoder, Request
from xtts_core.model.loading import LOADED_FILES, load_model, resolve_device
from xtts_core.model.projections import Precision, cpu_precision
from xtts_core.model.runaway import Guard, fewest_codes, most_codes
from xtts_core.model.sampling import Sampling, drawing
from xtts_core.model.streaming import vocode
from xtts_core.model.tokenizer import Tokenizer, language_code
from xtts_core.model.vocoder import Vocoder
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
EDGE_S = 0.005
"""A sentence rises from silence and falls back into it in this time, wherever it was cut: a step
at the seam would be heard as a click."""

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SEEDS = 2**32
_DEFAULT_CHARACTER_LIMIT = 250
_WHOLE_CHUNK_CODES = 64
"""A sentence that is not streamed is vocoded in such pieces: what they hold in memory does not
grow with its length, and their context costs 9 %."""


@dataclass(frozen=True)
class Chunks:
    """How many codes (46 ms each) the pieces of a stream take, the first one and the others."""

    first: int = 20
    following: int = 20


@dataclass
class Delivery:
    """What became of a text while it was spoken.

    Attributes:
        retried: sentences that ran away and were spoken again with another seed.
        cut: sentences that ran away even so, or in a stream, and end where they did.
    """

    retried: int = 0
    cut: int = 0


def nobody_left() -> None:
    """The `check` of a caller that stays to the end."""


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
        max_batch: how many sentences are decoded together.
        precision: of the GPT's weights, which with the vocoder's are taken out of `model` then;
            None leaves the model as it is.

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
        *,
        max_batch: int = 1,
        precision: Precision | None = None,
    ) -> None:
        spoken = normalised_languages()
        self.version = version
        self.languages = tuple(code for code in tokenizer.languages if code in spoken)
        self._tokenizer = tokenizer
        self._voices = voices
        self._loaded: Xtts | None = model
        self._stop_code: int = model.gpt.stop_audio_token
        self._most_codes: int = model.gpt.max_gen_mel_tokens
        self._decoder = Decoder(model.gpt, slots=max_batch, precision=precision)
        self._vocoder = Vocoder(
            model.hifigan_decoder, take=precision is not None, turns=self._decoder.turns
        )

    @classmethod
    def load(cls, directory: Path, settings: EngineSettings) -> Engine:
        """Verify and load a checkpoint or a base model.

        One that was trained on texts of another normaliser is served with a warning in the log.

        Raises:
            ModelError: a file is missing, is not what the manifest says, or does not load.
        """
        manifest = verify(directory, needed=LOADED_FILES)
        if manifest.normaliser_version not in (None, NORMALISER_VERSION):
            logger.warning(
                "%s was trained on texts of the normaliser version %s, and %s runs: what they "
                "write differently it may speak worse. Train it again",
                directory,
                manifest.normaliser_version,
                NORMALISER_VERSION,
            )
        torch.set_num_threads(settings.threads or _threads_of_machine())
        device = resolve_device(settings.device)
        if device != "cpu":
            # With the products of TF32 a chunk would differ from the same part of the whole.
            torch.backends.cudnn.allow_tf32 = False
        model = load_model(directory, device)
        voices = {
            speaker: [directory / name for name in names]
            for speaker, names in manifest.voices.items()
        }
        return cls(
            model,
            Tokenizer.load(directory),
            version_of(directory),
            voices,
            max_batch=settings.max_batch,
            precision=_precision(settings, device),
        )

    def voices(self) -> dict[str, list[Path]]:
        """The reference clips of each speaker that came with the model."""
        return {speaker: list(clips) for speaker, clips in self._voices.items()}

    def close(self) -> None:
        """Let go of the model; calls in progress finish with it."""
        self._loaded = None

    @torch.inference_mode()
    def latents(
        self, references: Sequence[FloatArray], *, check: Callable[[], None] = nobody_left
    ) -> Latents:
        """The voice of reference clips: mono, 22 050 Hz, at least 0.33 s each.

        The speaker embeddings are averaged and the clips joined for the GPT, of each the first
        `max_ref_len` seconds of the model's config (coqui-tts, `get_conditioning_latents`).

        Args:
            check: called several times a second; what it raises ends the work.

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
        speakers, heard = [], []
        for clip in clips:
            with (
                self._decoder.turns.take(check),
                self._watched(model.hifigan_decoder.speaker_encoder, check),
            ):
                speakers.append(model.get_speaker_embedding(clip, SAMPLE_RATE_HZ))
        for part in _heard_parts(torch.cat(clips, dim=-1), model):
            with (
                self._decoder.turns.take(check),
                self._watched(model.gpt.conditioning_encoder, check),
            ):
                heard.append(
                    model.get_gpt_cond_latents(
                        part,
                        SAMPLE_RATE_HZ,
                        length=-1,
                        chunk_length=model.config.gpt_cond_chunk_len,
                    )
                )
        return Latents(
            gpt_cond=torch.stack(heard).mean(dim=0), speaker=torch.stack(speakers).mean(dim=0)
        )

    @contextlib.contextmanager
    def _watched(self, network: torch.nn.Module, check: Callable[[], None]) -> Iterator[None]:
        """Between the stages of a network that this thread runs, `check` is called and others have
        their turn: half a minute of audio takes seconds in one go."""
        thread = threading.get_ident()

        def pause(*_: object) -> None:
            if threading.get_ident() == thread:
                check()
                self._decoder.turns.pass_on(check)

        stages = [
            *network.children(),
            *itertools.chain(*(stage.children() for stage in network.children())),
        ]
        with contextlib.ExitStack() as hooks:
            for stage in stages:
                hooks.callback(stage.register_forward_pre_hook(pause).remove)
            yield

    def sentences(self, text: str, language: str) -> list[str]:
        """What is spoken of `text`: its words written out, cut at sentences within the language's
        limit.

        Raises:
            RequestError: there is nothing to speak, or the model does not speak the language.
            NotReadyError: the engine was closed.
        """
        code = language_code(language, self.languages)
        limit = self._model.tokenizer.char_limits.get(code, _DEFAULT_CHARACTER_LIMIT)
        sentences = split_sentences(text, language, limit)
        if not sentences:
            raise RequestError("There is no text to speak", where="text")
        return sentences

    def synthesize(
        self,
        text: str,
        language: str,
        latents: Latents,
        sampling: Sampling,
        *,
        check: Callable[[], None] = nobody_left,
        delivery: Delivery | None = None,
    ) -> FloatArray:
        """`text` spoken: mono float32 at 24 000 Hz.

        The text is cut at sentences within the language's limit, and a short silence joins them.

        Args:
            check: called several times a second; what it raises ends the work.
            delivery: filled with what became of the text.

        Raises:
            RequestError: the text is empty, or the model does not speak the language.
            NotReadyError: the engine was closed.
            ModelError: no audio came.
        """
        pieces = list(self._speak(text, language, latents, sampling, None, check, delivery))
        if not pieces:
            raise ModelError(
                "The model said nothing", where=self.version, remedy="Try another seed"
            )
        return np.concatenate(pieces)

    def stream(
        self,
        text: str,
        language: str,
        latents: Latents,
        sampling: Sampling,
        chunks: Chunks = Chunks(),
        *,
        check: Callable[[], None] = nobody_left,
        delivery: Delivery | None = None,
    ) -> Generator[FloatArray, None, None]:
        """`synthesize` in pieces, each as soon as its codes are there.

        Joined, the pieces equal the audio of `synthesize` with the same seed up to rounding, but
        for a sentence that runs away: what was heard of it cannot be spoken again.
        """
        return self._speak(text, language, latents, sampling, chunks, check, delivery)

    @torch.inference_mode()
    def _speak(
        self,
        text: str,
        language: str,
        latents: Latents,
        sampling: Sampling,
        chunks: Chunks | None,
        check: Callable[[], None],
        delivery: Delivery | None,
    ) -> Generator[FloatArray, None, None]:
        model = self._model
        sentences = self.sentences(text, language)
        seed = secrets.randbelow(_SEEDS) if sampling.seed is None else sampling.seed
        voice = Latents(latents.gpt_cond.to(model.device), latents.speaker.to(model.device))
        told = delivery or Delivery()
        for number, sentence in enumerate(sentences):
            if number:
                yield np.zeros(int(SENTENCE_PAUSE_S * NATIVE_RATE_HZ), np.float32)
            tokens = self._tokenizer.encode(sentence, language)
            task = _Sentence(sentence, tokens, voice, sampling, seed, number)
            if chunks is None:
                yield from softened(self._whole(task, check, told))
            else:
                yield from softened(self._streamed(task, chunks, check, told))

    def _whole(
        self, task: _Sentence, check: Callable[[], None], told: Delivery
    ) -> Sequence[FloatArray]:
        """A sentence, spoken again where it ran away."""
        chunks = Chunks(_WHOLE_CHUNK_CODES, _WHOLE_CHUNK_CODES)
        for attempt in range(task.sampling.retries + 1):
            told.retried += attempt == 1
            once = Delivery()
            pieces = list(self._streamed(replace(task, attempt=attempt), chunks, check, once))
            if not once.cut:
                return pieces
        told.cut += 1
        return pieces

    def _streamed(
        self, task: _Sentence, chunks: Chunks, check: Callable[[], None], told: Delivery
    ) -> Iterator[FloatArray]:
        """A sentence in pieces; it ends where it ran away."""
        sampling = task.sampling
        limit = min(task.limit, self._most_codes)
        guard = Guard(limit, sampling.speed, bounded=sampling.max_audio_tokens is None)
        request = Request(
            tokens=task.tokens,
            gpt_cond=task.voice.gpt_cond,
            draw=drawing(sampling, task.generator()),
            at_least=task.at_least,
            limit=limit,
            penalise_prefix=sampling.penalise_prefix,
            check=check,
        )
        with contextlib.closing(self._decoder.decode(request)) as codes:

            def watched() -> Iterator[Tensor]:
                for code, latent in codes:
                    guard.draw(code, stop=code == self._stop_code)
                    yield latent
                    if guard.runaway:
                        return

            given = 0
            for piece in vocode(
                self._vocoder,
                watched(),
                task.voice.speaker,
                sampling.speed,
                first=chunks.first,
                following=chunks.following,
                check=check,
            ):
                guard.hear(piece)
                if guard.runaway:
                    piece = piece[: max(0, guard.runaway.end - given)]
                given += len(piece)
                if len(piece):
                    yield piece
                if guard.runaway and given >= guard.runaway.end:
                    break
        if guard.runaway:
            told.cut += 1
            logger.warning(
                "a sentence of %d characters ran away (%s) after %.1f s",
                len(task.text),
                guard.runaway.sign,
                given / NATIVE_RATE_HZ,
            )

    @property
    def _model(self) -> Xtts:
        model = self._loaded
        if model is None:
            raise NotReadyError("The model was replaced", where=self.version, remedy="Call again")
        return model


def softened(pieces: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """The pieces of a sentence with soft edges; the last samples of a piece wait for the next."""
    samples = round(EDGE_S * NATIVE_RATE_HZ)
    turn = np.pi * (np.arange(samples) + 0.5) / samples
    rise = rising = (0.5 - 0.5 * np.cos(turn)).astype(np.float32)
    held = np.zeros(0, np.float32)
    for piece in pieces:
        edge = len(rising[: len(piece)])
        joined = np.concatenate([held, rising[:edge] * piece[:edge], piece[edge:]])
        rising = rising[edge:]
        ready = max(0, len(joined) - samples)
        if ready:
            yield joined[:ready]
        held = joined[ready:]
    if len(held):
        yield held * rise[::-1][-len(held) :]


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


def _heard_parts(audio: Tensor, model: Xtts) -> list[Tensor]:
    """What the GPT hears of a reference [1, samples], in the parts that coqui-tts takes the mean
    of: `gpt_cond_chunk_len` seconds each where the model has a perceiver, none under 0.33 s."""
    config = model.config
    if config.gpt_cond_len > 0:
        audio = audio[:, : config.gpt_cond_len * SAMPLE_RATE_HZ]
    if not model.args.gpt_use_perceiver_resampler:
        return [audio]
    step = config.gpt_cond_chunk_len * SAMPLE_RATE_HZ
    parts = [audio[:, start : start + step] for start in range(0, audio.shape[-1], step)]
    return [part for part in parts if part.shape[-1] >= MIN_REFERENCE_S * SAMPLE_RATE_HZ]


def _threads_of_machine() -> int:
    """As many as torch would take, but no more than the container may use: a quota of cgroups
    (`docker run --cpus`) hides no core."""
    threads: int = torch.get_num_threads()
    try:
        quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return threads
    return threads if quota == "max" else max(1, min(threads, int(quota) // int(period)))


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


@dataclass(frozen=True)
class _Sentence:
    """A sentence to speak."""

    text: str
    tokens: Sequence[int]
    voice: Latents
    sampling: Sampling
    seed: int
    number: int
    attempt: int = 0

    def generator(self) -> torch.Generator:
        """The random numbers of this attempt at this sentence alone.

        Others may have had codes drawn for an attempt that nobody takes any more, so nothing may
        follow from how far it got. The first sentence has the seed that was asked for.
        """
        generator = torch.Generator()
        if self.number == self.attempt == 0:
            return generator.manual_seed(self.seed)
        name = f"{self.seed}/{self.number}/{self.attempt}".encode()
        return generator.manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:7], "big"))

    @property
    def at_least(self) -> int:
        asked = self.sampling.min_audio_tokens
        return fewest_codes(self.text) if asked is None else asked

    @property
    def limit(self) -> int:
        return self.sampling.max_audio_tokens or most_codes(self.text)


def _precision(settings: EngineSettings, device: str) -> Precision:
    if settings.weights != "auto":
        return settings.weights
    return cpu_precision() if device == "cpu" else "float16"

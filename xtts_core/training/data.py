"""The training data: clips read from the shards of `audio_codes`, batches, conditioning spans.

Nothing is random that a killed run could not repeat: the order of an epoch and each clip's span
follow from the seed, the epoch and the clip's id alone.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from torch import Tensor

from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.training.codes import CODE_SAMPLES
from xtts_core.training.mel import pcm_to_float

MIN_SPAN_SAMPLES = 66_150
MAX_SPAN_SAMPLES = 132_300
"""3 s and 6 s: min_conditioning_length and max_conditioning_length of coqui-tts's recipe
(recipes/ljspeech/xtts_v2/train_gpt_xtts.py)."""

_BUCKET_CODES = 8
"""Clips this near in length (0.37 s) share a bucket: about 2 % of padding at 10 s."""


class ClipTensors(Protocol):
    """Where the tensors `<sha256 of a clip>.codes` and `<sha256>.audio` come from."""

    def length(self, name: str) -> int: ...

    def read(self, name: str, start: int, end: int) -> Tensor: ...


class Shard:
    """A shard of `audio_codes`, mapped into memory: it needs no file handle, and stays readable
    where `audio_codes` is made anew meanwhile and removes it."""

    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, framework="pt")

    def length(self, name: str) -> int:
        return int(self._file.get_slice(name).get_shape()[0])

    def read(self, name: str, start: int, end: int) -> Tensor:
        tensor: Tensor = self._file.get_slice(name)[start:end]
        return tensor


class LoadedTensors:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def length(self, name: str) -> int:
        return len(self._tensors[name])

    def read(self, name: str, start: int, end: int) -> Tensor:
        return self._tensors[name][start:end]


@dataclass(frozen=True)
class Clip:
    """One clip, as `audio_codes` describes it; its tensors are read when they are asked for."""

    clip_id: str
    video_id: str
    speaker: str
    language: str
    text: str
    sha256: str
    split: str
    snr_db: float
    bandwidth_hz: float | None
    speaker_similarity: float | None
    samples: int
    tensors: ClipTensors

    @classmethod
    def of(cls, row: Mapping[str, Any], tensors: ClipTensors) -> Clip:
        """From a row of `described_clips` or of an `audio_codes` index."""
        return cls(
            clip_id=row["clip_id"],
            video_id=row["video_id"],
            speaker=row["speaker"],
            language=row["language"],
            text=row["text"],
            sha256=row["sha256"],
            split=row["split"],
            snr_db=row["snr_db"],
            bandwidth_hz=row["bandwidth_hz"],
            speaker_similarity=row["speaker_similarity"],
            samples=tensors.length(f"{row['sha256']}.audio"),
            tensors=tensors,
        )

    @property
    def duration_s(self) -> float:
        return self.samples / SAMPLE_RATE_HZ

    @property
    def n_codes(self) -> int:
        """The codes that are trained on; a last one beyond the audio is not (see gpt.py)."""
        return ceil(self.samples / CODE_SAMPLES)

    def codes(self) -> Tensor:
        """(n_codes,) int64."""
        return self.tensors.read(f"{self.sha256}.codes", 0, self.n_codes).long()

    def audio(self, start: int = 0, end: int | None = None) -> Tensor:
        """(end - start,) int16 at 22 050 Hz."""
        return self.tensors.read(
            f"{self.sha256}.audio", start, self.samples if end is None else end
        )


@dataclass(frozen=True)
class Span:
    """The stretch of a clip, in samples, that the voice is conditioned on."""

    clip: Clip
    start: int
    end: int


@dataclass(frozen=True)
class Batch:
    """Clips side by side.

    `text` (batch, tokens) and `codes` (batch, codes) are int64, padded with 0; `text_lengths`
    counts tokens, `wav_lengths` samples; `conditioning` is (batch, 132 300) float32. `unscored`
    gives for each clip the codes [start, end) that it hears in its conditioning, which must not
    count in its loss.
    """

    clip_ids: tuple[str, ...]
    text: Tensor
    text_lengths: Tensor
    codes: Tensor
    wav_lengths: Tensor
    conditioning: Tensor
    unscored: tuple[tuple[int, int], ...]

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.clip_ids,
            self.text.to(device),
            self.text_lengths.to(device),
            self.codes.to(device),
            self.wav_lengths.to(device),
            self.conditioning.to(device),
            self.unscored,
        )


def read_clips(indexes: Iterable[Path]) -> list[Clip]:
    """The clips of some `audio_codes` indexes; of their shards only the headers are read."""
    clips: list[Clip] = []
    for index in indexes:
        folder = index.with_suffix("")
        rows = pq.read_table(index).to_pylist()
        shards = {name: Shard(folder / name) for name in {row["shard"] for row in rows}}
        clips += [Clip.of(row, shards[row["shard"]]) for row in rows]
    return clips


def epoch_batches(
    clips: Sequence[Clip], batch_size: int, *, seed: int, epoch: int
) -> list[list[Clip]]:
    """Every clip once, in batches of clips of about the same length, in a random order."""
    draw = random.Random(f"{seed}:{epoch}")
    order = sorted(clips, key=lambda clip: (clip.n_codes // _BUCKET_CODES, draw.random()))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    draw.shuffle(batches)
    return batches


def training_spans(
    clips: Sequence[Clip], conditioning: str, *, seed: int
) -> Callable[[Clip, int], Span]:
    """The span that a training clip of `clips` is conditioned on in an epoch.

    Args:
        conditioning: `same_clip_masked`, a span of the clip itself; or `other_clip`, a span of
            another clip of its speaker, where there is one.
    """
    by_speaker: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        by_speaker[clip.speaker].append(clip)

    def span(clip: Clip, epoch: int) -> Span:
        draw = random.Random(f"{seed}:{epoch}:{clip.clip_id}")
        others = by_speaker[clip.speaker]
        if conditioning == "same_clip_masked" or len(others) == 1:
            # Half of it at most: the codes under the span are not scored, so a short clip would
            # teach nothing but its end.
            return _random_span(clip, clip.samples // 2, draw)
        other = draw.choice(others)
        while other.clip_id == clip.clip_id:
            other = draw.choice(others)
        return _random_span(other, other.samples, draw)

    return span


def _random_span(clip: Clip, longest: int, draw: random.Random) -> Span:
    """3 to 6 s of a clip, or as much as it may be."""
    length = min(draw.randint(MIN_SPAN_SAMPLES, MAX_SPAN_SAMPLES), longest)
    start = draw.randint(0, clip.samples - length)
    return Span(clip, start, start + length)


def held_out_spans(clips: Sequence[Clip]) -> Callable[[Clip], Span]:
    """The span that a held-out clip is judged with: the start of another clip of its speaker.

    The start of the clip itself only where its speaker has no other one. Which other clip follows
    from the held-out clip's id, training clips first, so that runs can be compared.
    """
    by_speaker: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        by_speaker[clip.speaker].append(clip)

    def span(clip: Clip) -> Span:
        others = [other for other in by_speaker[clip.speaker] if other.clip_id != clip.clip_id]
        trained = [other for other in others if other.split == "train"]
        pool = trained or others
        if not pool:
            return held_out_span(clip, clip)
        digest = hashlib.sha256(clip.clip_id.encode()).digest()
        return held_out_span(clip, pool[int.from_bytes(digest[:8]) % len(pool)])

    return span


def held_out_span(clip: Clip, reference: Clip) -> Span:
    """The first 4.5 s of the reference, or half of it where it is the clip itself.

    4.5 s is the length that coqui-tts validates with (dataset.py: get_prompt_slice).
    """
    available = reference.samples // (2 if reference.clip_id == clip.clip_id else 1)
    return Span(reference, 0, min((MIN_SPAN_SAMPLES + MAX_SPAN_SAMPLES) // 2, available))


def unscored_codes(clip: Clip, span: Span) -> tuple[int, int]:
    """The codes [start, end) of `clip` that the span lets it hear, in codes of 1 024 samples.

    coqui-tts 0.28.0 divides by 256 here and masks the last clip of a batch only (gpt.py, forward).
    """
    if span.clip.clip_id != clip.clip_id:
        return (0, 0)
    return (span.start // CODE_SAMPLES, ceil(span.end / CODE_SAMPLES))


def make_batch(clips: Sequence[Clip], spans: Sequence[Span], tokens: Mapping[str, Tensor]) -> Batch:
    """Read clips and spans and pad them.

    Args:
        tokens: the text tokens of each clip id.
    """
    conditioning = torch.zeros(len(clips), MAX_SPAN_SAMPLES)
    for row, span in zip(conditioning, spans, strict=True):
        row[: span.end - span.start] = pcm_to_float(span.clip.audio(span.start, span.end))
    text = [tokens[clip.clip_id] for clip in clips]
    codes = [clip.codes() for clip in clips]
    return Batch(
        clip_ids=tuple(clip.clip_id for clip in clips),
        text=torch.nn.utils.rnn.pad_sequence(text, batch_first=True),
        text_lengths=torch.tensor([len(row) for row in text]),
        codes=torch.nn.utils.rnn.pad_sequence(codes, batch_first=True),
        wav_lengths=torch.tensor([clip.samples for clip in clips]),
        conditioning=conditioning,
        unscored=tuple(unscored_codes(*pair) for pair in zip(clips, spans, strict=True)),
    )


def tokenise(clips: Iterable[Clip], base_dir: Path) -> dict[str, Tensor]:
    """The text tokens (int64) of each clip id, its language's tag first."""
    from xtts_core.model.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(base_dir)
    return {
        clip.clip_id: torch.tensor(tokenizer.encode(clip.text, clip.language)) for clip in clips
    }

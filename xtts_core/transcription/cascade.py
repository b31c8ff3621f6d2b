"""What is said in each clip of one video: the witnesses, and whom to believe.

Witnesses are the manual subtitles, `whisper_model`, `whisper_hp_model`, and the automatic captions.
A person's words are the best text, once a recogniser has told which of them the clip speaks
(`alignment`). The recogniser's own text comes next: the larger model is asked where the smaller
one's has too many unknown words, looks invented, or is not what the subtitles say. Automatic
captions, which have neither case nor punctuation, are a second witness of it, and the text only
where `use_auto_subtitles` says so or no recogniser can be had.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from xtts_core.errors import TranscriptionError
from xtts_core.settings import SAMPLE_RATE_HZ, TranscriptionSettings
from xtts_core.stage import Progress
from xtts_core.store import CorpusStore, sha256_file, sha256_json
from xtts_core.text import normalize
from xtts_core.text.vocabulary import oov_rate
from xtts_core.transcription import asr, subtitles
from xtts_core.transcription.alignment import REACH_S, Spoken, spoken_part
from xtts_core.transcription.asr import Audio, Recognised
from xtts_core.transcription.subtitles import Cue
from xtts_core.transcription.weights import find_weights, weights_sha256

T = TypeVar("T")

Source = Literal["manual-subtitle", "auto-subtitle", "whisper", "whisper-hp"]

DISAGREEMENT = "disagreement"
"""The guard of a clip whose two texts are further apart than `max_disagreement`."""
SAME_SENTENCE_S = 1.5
"""A sentence may go on after so long a pause (those of the samples last up to 1.4 s)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transcript:
    """The text of one clip; the fields are the columns of `TRANSCRIPTS_SCHEMA`."""

    segment_id: str
    text_raw: str
    text: str
    source: Source
    model: str
    oov_rate: float
    confidence: float | None
    guards: list[str] = field(default_factory=list)
    reason: str = ""
    witness: str = ""
    witness_text: str = ""
    cer: float | None = None


class Cascade:
    """One video's sources of text, each opened when the first clip needs it."""

    def __init__(
        self,
        store: CorpusStore,
        settings: TranscriptionSettings,
        video_id: str,
        language: str,
        manual: Path | None,
        automatic: Path | None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._language = language
        self._heard = _Memory(store.root / "cache" / "transcripts" / f"{video_id}.jsonl")
        self.missing_models: dict[str, TranscriptionError] = {}
        self.unreadable_subtitles: list[str] = []
        self._cues = self._read(subtitles.read_cues, manual)
        self._words = self._read(subtitles.words, automatic)

    def transcribe(
        self, segments: Sequence[Mapping[str, Any]], progress: Progress
    ) -> list[Transcript]:
        """The text of each row of the segments table, in their order."""
        small, large = self._settings.whisper_model, self._settings.whisper_hp_model
        asked = [segment for segment in segments if self._needs_ear(segment)]
        first = self._hear(small, "whisper", asked, progress)
        found = [self._choose(segment, [first.get(_id(segment))]) for segment in segments]
        if large != small:
            doubtful = [
                segment
                for segment, text in zip(segments, found, strict=True)
                if _id(segment) in first and self._doubtful(text)
            ]
            second = self._hear(large, "whisper-hp", doubtful, progress)
            for index, segment in enumerate(segments):
                if (better := second.get(_id(segment))) is not None:
                    found[index] = self._choose(segment, [better, first[_id(segment)]])
        return _without_false_stops(segments, found)

    def _needs_ear(self, segment: Mapping[str, Any]) -> bool:
        return self._settings.verify_subtitles or self._by_times(segment) is None

    def _choose(
        self, segment: Mapping[str, Any], opinions: Sequence[Transcript | None]
    ) -> Transcript:
        """The text of a clip.

        Args:
            opinions: what the recognisers that were asked heard, the best one first.
        """
        heard = [opinion for opinion in opinions if opinion is not None]
        spoken = [text for text in heard if text.text]
        written = (
            self._written_as_heard(segment, spoken) if spoken else self._unheard(segment, heard)
        )
        if written is not None:
            return written
        if not spoken or (self._settings.use_auto_subtitles and all(map(self._doubtful, spoken))):
            automatic = self._automatic(segment)
            if not heard or automatic.text:
                return automatic
        if not spoken:
            return heard[0]
        # A name that is no word of the vocabulary is right where the captions have it too.
        return min(
            (self._witnessed(segment, text) for text in spoken),
            key=lambda text: (len(text.guards), text.cer or 0.0, text.oov_rate),
        )

    def _written_as_heard(
        self, segment: Mapping[str, Any], heard: Sequence[Transcript]
    ) -> Transcript | None:
        """The manual subtitles, where what is heard agrees with them; marked where nobody's
        hearing does; None where they do not tell what the clip speaks."""
        parts = [
            (opinion, part)
            for opinion in heard
            if (part := self._part(self._cues, segment, opinion.text_raw)) and part.complete
        ]
        if not parts:
            return None
        opinion, part = min(parts, key=lambda pair: pair[1].cer)
        agrees = part.cer <= self._settings.max_disagreement
        if part.text is None:
            return None if agrees else self._disputed(opinion, "manual-subtitle", "", part.cer)
        written = replace(
            self._written(segment, part.text, "manual-subtitle"),
            witness=opinion.model,
            witness_text=opinion.text_raw,
            cer=round(part.cer, 6),
        )
        if not agrees:
            return replace(written, guards=sorted({*written.guards, DISAGREEMENT}))
        return written if written.text and not written.guards else None

    def _unheard(
        self, segment: Mapping[str, Any], heard: Sequence[Transcript]
    ) -> Transcript | None:
        """The manual subtitles of a clip in which nothing was heard, marked where a recogniser
        listened in vain."""
        written = self._by_times(segment)
        in_vain = next((text for text in heard if text.confidence is not None), None)
        if written is None or in_vain is None:
            return written
        return replace(written, guards=[DISAGREEMENT], witness=in_vain.model, cer=1.0)

    def _witnessed(self, segment: Mapping[str, Any], heard: Transcript) -> Transcript:
        """What was heard, with what the automatic captions say of it."""
        start_s, end_s = _span_s(segment)
        near = subtitles.between(self._words, start_s - REACH_S, end_s + REACH_S)
        if not near:
            return heard
        line = Cue(near[0].start_s, near[-1].end_s, " ".join(word.text for word in near))
        part = self._part([line], segment, heard.text_raw)
        if part is None or not part.complete:
            return heard
        shown = subtitles.words_between(near, start_s, end_s)
        if part.cer > self._settings.max_disagreement:
            return self._disputed(heard, "auto-subtitle", shown, part.cer)
        return replace(heard, witness="auto-subtitle", witness_text=shown, cer=round(part.cer, 6))

    def _disputed(
        self, heard: Transcript, witness: Source, witness_text: str, cer: float
    ) -> Transcript:
        return replace(
            heard,
            guards=sorted({*heard.guards, DISAGREEMENT}),
            witness=witness,
            witness_text=witness_text,
            cer=round(cer, 6),
        )

    def _part(self, cues: Sequence[Cue], segment: Mapping[str, Any], heard: str) -> Spoken | None:
        return spoken_part(
            cues, *_span_s(segment), heard, lambda text: normalize(text, self._language)
        )

    def _by_times(self, segment: Mapping[str, Any]) -> Transcript | None:
        """The manual subtitles, as far as their times alone tell what the clip speaks."""
        text = subtitles.cues_of_clip(self._cues, *_span_s(segment))
        if text is None:
            return None
        manual = self._written(segment, text, "manual-subtitle")
        return manual if manual.text and not manual.guards else None

    def _automatic(self, segment: Mapping[str, Any]) -> Transcript:
        text = subtitles.words_between(self._words, *_span_s(segment))
        return self._written(segment, text, "auto-subtitle")

    def _written(self, segment: Mapping[str, Any], text_raw: str, source: Source) -> Transcript:
        text = normalize(text_raw, self._language)
        missing = self.missing_models.get(self._settings.whisper_model)
        return Transcript(
            segment_id=_id(segment),
            text_raw=text_raw,
            text=text,
            source=source,
            model="",
            oov_rate=round(oov_rate(text_raw, self._language), 6),
            confidence=None,
            guards=asr.text_guards(text, segment["duration_s"]),
            reason="" if text else str(missing or "no caption lies in the clip"),
        )

    def _doubtful(self, text: Transcript) -> bool:
        if text.source == "manual-subtitle":
            return DISAGREEMENT in text.guards
        unknown = text.oov_rate > self._settings.oov_threshold
        return not text.text or bool(text.guards) or unknown

    def _hear(
        self,
        model: str,
        source: Source,
        segments: Sequence[Mapping[str, Any]],
        progress: Progress,
    ) -> dict[str, Transcript]:
        """What a model hears in each clip, by segment id; nothing where it cannot be had."""
        if not segments or (weights := self._find_weights(model)) is None:
            return {}
        settings = self._settings
        engine = {
            "weights": weights_sha256(weights),
            "language": self._language,
            "decoder": asr.VERSION,
            **settings.model_dump(include={"engine", "beam_size", "temperature", "device"}),
        }
        keys: dict[str, str] = {}
        unreadable: dict[str, str] = {}
        waiting: list[tuple[str, Audio]] = []
        for done, segment in enumerate(segments, 1):
            try:
                clip = self._store.root / segment["path"]
                keys[_id(segment)] = key = sha256_json({"clip": sha256_file(clip), **engine})
                if key not in self._heard:
                    waiting.append((key, _read_audio(clip, segment["path"])))
            except (TranscriptionError, OSError) as error:
                unreadable[_id(segment)] = str(error)
            if len(waiting) == asr.CLIPS_AT_ONCE or done == len(segments):
                self._listen(waiting, weights)
                waiting = []
                progress(done, len(segments), "clips")
        return {
            _id(segment): replace(
                self._written(segment, "", source), reason=unreadable[_id(segment)]
            )
            if _id(segment) in unreadable
            else self._recognised(segment, model, source, keys[_id(segment)])
            for segment in segments
        }

    def _listen(self, waiting: Sequence[tuple[str, Audio]], weights: Path) -> None:
        """Recognise some clips, and remember what was heard under their keys."""
        if not waiting:
            return
        settings = self._settings
        recogniser = asr.load_recogniser(
            settings.engine, weights, settings.device, settings.beam_size, settings.temperature
        )
        heard = recogniser.transcribe([clip for _, clip in waiting], self._language)
        for (key, _), text in zip(waiting, heard, strict=True):
            self._heard.put(key, text)

    def _recognised(
        self, segment: Mapping[str, Any], model: str, source: Source, key: str
    ) -> Transcript:
        heard = self._heard[key]
        text = normalize(heard.text, self._language)
        return Transcript(
            segment_id=_id(segment),
            text_raw=heard.text,
            text=text,
            source=source,
            model=model,
            oov_rate=round(oov_rate(heard.text, self._language), 6),
            confidence=round(heard.confidence, 6),
            guards=asr.guards(heard, text, segment["duration_s"]),
            reason="" if text else "nothing was recognised",
        )

    def _find_weights(self, model: str) -> Path | None:
        settings = self._settings
        cache = self._store.root / "cache/whisper"
        try:
            return find_weights(model, settings.engine, settings.model_dir, cache)
        except TranscriptionError as error:
            _log.warning("%s", error)
            self.missing_models[model] = error
            return None

    def _read(self, read: Callable[[Path], list[T]], path: Path | None) -> list[T]:
        if path is None:
            return []
        try:
            return read(path)
        except (TranscriptionError, OSError) as error:
            self.unreadable_subtitles.append(str(error))
            return []


class _Memory:
    """What was heard in each clip: one line of JSON a clip, added as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Recognised] = {}
        if path.is_file():
            whole = path.read_bytes()
            whole = whole[: whole.rfind(b"\n") + 1]  # a killed run may leave half a line
            os.truncate(path, len(whole))
            for number, line in enumerate(whole.split(b"\n")[:-1], 1):
                try:
                    entry = json.loads(line)
                    self._known[entry["key"]] = Recognised(**entry["heard"])
                except (ValueError, TypeError, KeyError) as error:
                    # Whatever it was is heard again.
                    _log.warning("%s: line %d cannot be read: %s", path, number, error)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Recognised:
        return self._known[key]

    def put(self, key: str, heard: Recognised) -> None:
        self._known[key] = heard
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "heard": asdict(heard)}, ensure_ascii=False)
        with self._path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _id(segment: Mapping[str, Any]) -> str:
    return str(segment["segment_id"])


def _span_s(segment: Mapping[str, Any]) -> tuple[float, float]:
    return (
        segment["start_sample"] / SAMPLE_RATE_HZ,
        segment["end_sample"] / SAMPLE_RATE_HZ,
    )


def _without_false_stops(
    segments: Sequence[Mapping[str, Any]], found: Sequence[Transcript]
) -> list[Transcript]:
    """Whisper ends most clips with a full stop, also those that end inside a sentence.

    It tells these apart itself: it writes `...`, or begins the next clip with a small letter. Of 21
    halves of sentences of the samples 15 began so, of 43 whole sentences none.
    """
    following = [*zip(segments[1:], found[1:], strict=True), None]
    return [
        replace(text, text=text.text.rstrip(".… "))
        if text.source in ("whisper", "whisper-hp")
        and (text.text_raw.endswith(("...", "…")) or _goes_on(segment, after))
        else text
        for segment, text, after in zip(segments, found, following, strict=True)
    ]


def _goes_on(
    segment: Mapping[str, Any], after: tuple[Mapping[str, Any], Transcript] | None
) -> bool:
    """Whether the sentence at the end of a clip goes on in the next one: the cut between them was
    forced, or that one soon begins with a small letter."""
    if after is None:
        return False
    pause_s = (after[0]["start_sample"] - segment["end_sample"]) / SAMPLE_RATE_HZ
    return pause_s < 0 or (pause_s <= SAME_SENTENCE_S and after[1].text_raw[:1].islower())


def _read_audio(clip: Path, name: str) -> Audio:
    """A clip as Whisper takes it: 16 kHz, mono."""
    import soundfile
    import soxr

    if not clip.is_file():
        raise TranscriptionError("The clip is missing", where=name)
    try:
        samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise TranscriptionError(f"The clip cannot be read: {error}", where=name) from error
    audio: Audio = soxr.resample(samples.mean(axis=1), rate, asr.SAMPLE_RATE_HZ)
    return audio

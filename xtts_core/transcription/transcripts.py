"""`transcripts`: what is said in each clip, where the text comes from, and how far to trust it.

The cascade: manual subtitles that fit the clip; `whisper_model`; `whisper_hp_model` where the
first text has too many unknown words or looks invented; automatic captions, which have neither
case nor punctuation, only where `use_auto_subtitles` says so or no recogniser can be had.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.errors import TranscriptionError
from xtts_core.settings import SAMPLE_RATE_HZ, DatasetSettings, TranscriptionSettings
from xtts_core.stage import (
    CheckSpec,
    Markdown,
    MetadataValue,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    forget,
    read_result,
    require,
    run_stage,
    silent,
)
from xtts_core.store import CorpusStore, atomic_file, read_json, sha256_file, sha256_json
from xtts_core.text import NORMALISER_VERSION, normalize
from xtts_core.text.vocabulary import oov_rate
from xtts_core.transcription import asr, subtitles
from xtts_core.transcription.asr import Recognised
from xtts_core.transcription.weights import find_weights, weights_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

Source = Literal["manual-subtitle", "auto-subtitle", "whisper", "whisper-hp"]

MAX_EMPTY_SHARE = 0.2
"""More clips without text than this is worth a look: music, or the wrong language."""

TRANSCRIPTS = Stage(
    name="transcripts",
    code_version="1",
    checks=(
        CheckSpec("every_segment_answered", "error", "each segment has exactly one written row"),
        CheckSpec("has_text", "error", "at least one clip has text"),
        CheckSpec("empty_share", "warn", "few clips are without text"),
        CheckSpec("oov_rate", "warn", "the mean share of unknown words is below the threshold"),
        CheckSpec("models_available", "warn", "each Whisper model that a clip needed was there"),
        CheckSpec("subtitles_readable", "warn", "the subtitles that came along could be read"),
    ),
)

TRANSCRIPTS_SCHEMA = pa.schema(
    [
        ("segment_id", pa.string()),
        ("text_raw", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("model", pa.string()),
        ("oov_rate", pa.float64()),
        ("confidence", pa.float64()),
        ("guards", pa.list_(pa.string())),
        ("reason", pa.string()),
    ]
)
"""One row a segment. `text_raw` as it was written or heard, `text` normalised; `model` empty for
subtitles; `confidence` the mean log probability, null for subtitles; `guards` the signs of an
invented text that remain; `reason` why there is no text, else empty."""

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
    guards: list[str]
    reason: str = ""


def make_transcripts(
    store: CorpusStore, settings: DatasetSettings, video_id: str, progress: Progress = silent
) -> StageResult:
    """Give every segment of a video its text.

    What a recogniser heard is kept clip by clip below `<root>/cache/transcripts`, so that a
    killed run goes on where it was. A result that lacks a model is made again once that can be had.

    Raises:
        UpstreamError: `segments` or `raw_audio` is missing or failed.
        RequestError: there is no normaliser for the video's language.
        TranscriptionError: no clip has a text, because no Whisper model can be had.
    """
    segments = require(store, "segments", video_id)
    raw_audio = require(store, "raw_audio", video_id)
    language: str = read_json(store.video(video_id))["row"]["language"]
    listed = read_json(store.raw_provenance(video_id))["subtitles"]
    use_manual = settings.transcription.use_subtitles
    manual = _best_fitting(store, listed, "manual", language) if use_manual else None
    automatic = _best_fitting(store, listed, "automatic", language)
    _forget_what_lacks_a_model(store, settings.transcription, video_id)

    def build(fingerprint: str) -> Outcome:
        rows = pq.read_table(store.segments_table(video_id)).to_pylist()
        cascade = _Cascade(store, settings.transcription, video_id, language, manual, automatic)
        transcripts = []
        for done, row in enumerate(rows, 1):
            transcripts.append(cascade.transcribe(row))
            progress(done, len(rows), "clips")
        if cascade.missing_models and not any(transcript.text for transcript in transcripts):
            raise next(iter(cascade.missing_models.values()))
        path = store.transcripts(video_id)
        table = pa.Table.from_pylist([asdict(t) for t in transcripts], schema=TRANSCRIPTS_SCHEMA)
        with atomic_file(path) as aside:
            pq.write_table(table, aside)
        return Outcome(
            uri=path,
            outputs=[path],
            verdicts=verdicts(
                transcripts,
                answered=pq.read_table(path)["segment_id"].to_pylist(),
                segment_ids=[row["segment_id"] for row in rows],
                oov_threshold=settings.transcription.oov_threshold,
                missing_models=[str(error) for error in cascade.missing_models.values()],
                unreadable_subtitles=cascade.unreadable_subtitles,
            ),
            metadata={
                **summary(transcripts),
                "models_missing": json.dumps(sorted(cascade.missing_models)),
            },
            row_count=len(transcripts),
        )

    return run_stage(
        store,
        TRANSCRIPTS,
        video_id,
        inputs={
            "transcription": settings.transcription.model_dump(mode="json"),
            "normaliser": NORMALISER_VERSION,
            "language": language,
            "segments": segments.data_version,
            "subtitles": {
                "manual": raw_audio.sha256[manual] if manual else None,
                "automatic": raw_audio.sha256[automatic] if automatic else None,
            },
        },
        built_on=(segments, raw_audio),
        build=build,
    )


def verdicts(
    transcripts: Sequence[Transcript],
    *,
    answered: Sequence[str],
    segment_ids: Sequence[str],
    oov_threshold: float,
    missing_models: Sequence[str] = (),
    unreadable_subtitles: Sequence[str] = (),
) -> list[Verdict]:
    """The checks of `transcripts` on its rows; `answered` are the segments of the written table."""
    spoken = [transcript for transcript in transcripts if transcript.text]
    empty = 1 - len(spoken) / len(transcripts) if transcripts else 1.0
    oov = sum(t.oov_rate for t in spoken) / len(spoken) if spoken else 0.0
    return [
        TRANSCRIPTS.verdict(
            "every_segment_answered",
            sorted(answered) == sorted(set(segment_ids)),
            value=len(answered),
            threshold=len(segment_ids),
        ),
        TRANSCRIPTS.verdict("has_text", bool(spoken), value=len(spoken), threshold=1),
        TRANSCRIPTS.verdict(
            "empty_share",
            empty <= MAX_EMPTY_SHARE,
            value=round(empty, 4),
            threshold=MAX_EMPTY_SHARE,
        ),
        TRANSCRIPTS.verdict(
            "oov_rate", oov <= oov_threshold, value=round(oov, 4), threshold=oov_threshold
        ),
        TRANSCRIPTS.verdict(
            "models_available",
            not missing_models,
            value=len(missing_models),
            threshold=0,
            detail="; ".join(missing_models),
        ),
        TRANSCRIPTS.verdict(
            "subtitles_readable",
            not unreadable_subtitles,
            value=len(unreadable_subtitles),
            threshold=0,
            detail="; ".join(unreadable_subtitles),
        ),
    ]


def summary(transcripts: Sequence[Transcript]) -> dict[str, MetadataValue]:
    """What Dagster plots and shows for one video."""
    spoken = [transcript for transcript in transcripts if transcript.text]
    sources = Counter(transcript.source for transcript in spoken)
    lines = ["| clip | source | unknown words | guards | text |", "|---|---|---|---|---|"]
    doubtful_first = sorted(transcripts, key=lambda t: (-len(t.guards), -t.oov_rate, t.segment_id))
    lines += [
        f"| {t.segment_id} | {t.source} | {t.oov_rate:.2f} | {', '.join(t.guards)} | "
        f"{t.text_raw.replace('|', ' ') or t.reason} |"
        for t in doubtful_first[:8]
    ]
    shares: dict[str, MetadataValue] = {
        f"share_{name.replace('-', '_')}": round(sources[name] / len(transcripts), 4)
        for name in ("manual-subtitle", "auto-subtitle", "whisper", "whisper-hp")
    }
    return {
        **shares,
        "clips_with_text": len(spoken),
        "clips_without_text": len(transcripts) - len(spoken),
        "clips_flagged": sum(bool(transcript.guards) for transcript in transcripts),
        "oov_rate_mean": round(sum(t.oov_rate for t in spoken) / max(len(spoken), 1), 4),
        "most_doubtful": Markdown("\n".join(lines)),
    }


def _best_fitting(
    store: CorpusStore, listed: Sequence[Mapping[str, str]], kind: str, language: str
) -> Path | None:
    """The subtitles of that kind whose language fits best: the same, else the same but for the
    region."""
    wanted = language.lower()
    fitting = [
        (entry["language"].lower() != wanted, entry["language"], entry["path"])
        for entry in listed
        if entry["kind"] == kind and entry["language"].lower().split("-")[0] == wanted.split("-")[0]
    ]
    return store.root / min(fitting)[2] if fitting else None


def _forget_what_lacks_a_model(
    store: CorpusStore, settings: TranscriptionSettings, video_id: str
) -> None:
    known = read_result(store, TRANSCRIPTS.name, video_id)
    missing = json.loads(str(known.metadata.get("models_missing", "[]"))) if known else []
    for model in missing:
        if model not in (settings.whisper_model, settings.whisper_hp_model):
            continue
        try:
            _weights(store, settings, model)
        except TranscriptionError as error:
            _log.info("The transcripts of %s stay as they are: %s", video_id, error)
        else:
            forget(store, TRANSCRIPTS.name, video_id)


def _weights(store: CorpusStore, settings: TranscriptionSettings, model: str) -> Path:
    return find_weights(model, settings.engine, settings.model_dir, store.root / "cache/whisper")


class _Cascade:
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
        self._weights: dict[str, Path] = {}
        self.missing_models: dict[str, TranscriptionError] = {}
        self.unreadable_subtitles: list[str] = []
        self._cues = self._read(subtitles.read_cues, manual)
        self._words = self._read(subtitles.words, automatic)

    def transcribe(self, segment: Mapping[str, Any]) -> Transcript:
        """The text of one row of the segments table."""
        manual = self._manual(segment)
        if manual is not None:
            return manual
        try:
            found = self._recognised(segment)
        except TranscriptionError as error:
            return replace(self._written(segment, "", "whisper"), reason=str(error))
        if not found or (self._settings.use_auto_subtitles and all(map(self._doubtful, found))):
            found.append(self._automatic(segment))
        return min(found, key=lambda t: (not t.text, len(t.guards), t.oov_rate))

    def _manual(self, segment: Mapping[str, Any]) -> Transcript | None:
        written = subtitles.cues_of_clip(self._cues, *_span_s(segment))
        if written is None:
            return None
        manual = self._written(segment, written, "manual-subtitle")
        return manual if manual.text and not manual.guards else None

    def _automatic(self, segment: Mapping[str, Any]) -> Transcript:
        spoken = subtitles.words_between(self._words, *_span_s(segment))
        return self._written(segment, spoken, "auto-subtitle")

    def _recognised(self, segment: Mapping[str, Any]) -> list[Transcript]:
        """What the models heard, the larger one first; empty where none can be had."""
        small, large = self._settings.whisper_model, self._settings.whisper_hp_model
        first = self._heard_by(small, "whisper", segment)
        if large == small or (first is not None and not self._doubtful(first)):
            second = None
        else:
            second = self._heard_by(large, "whisper-hp", segment)
        return [heard for heard in (second, first) if heard is not None]

    def _doubtful(self, transcript: Transcript) -> bool:
        unknown = transcript.oov_rate > self._settings.oov_threshold
        return not transcript.text or bool(transcript.guards) or unknown

    def _heard_by(
        self, model: str, source: Source, segment: Mapping[str, Any]
    ) -> Transcript | None:
        settings = self._settings
        weights = self._find_weights(model)
        if weights is None:
            return None
        clip = self._store.root / segment["path"]
        if not clip.is_file():
            raise TranscriptionError("The clip is missing", where=segment["path"])
        key = sha256_json(
            {
                "clip": sha256_file(clip),
                "weights": weights_sha256(weights),
                "language": self._language,
                **settings.model_dump(include={"engine", "beam_size", "temperature", "device"}),
            }
        )
        heard = self._heard.get(key)
        if heard is None:
            recogniser = asr.load_recogniser(
                settings.engine, weights, settings.device, settings.beam_size, settings.temperature
            )
            heard = recogniser.transcribe(_read_audio(clip, segment["path"]), self._language)
            self._heard.put(key, heard)
        text = normalize(heard.text, self._language)
        return Transcript(
            segment_id=segment["segment_id"],
            text_raw=heard.text,
            text=text,
            source=source,
            model=model,
            oov_rate=round(oov_rate(heard.text, self._language), 6),
            confidence=round(heard.confidence, 6),
            guards=asr.guards(heard, text, segment["duration_s"]),
            reason="" if text else "nothing was recognised",
        )

    def _written(self, segment: Mapping[str, Any], text_raw: str, source: Source) -> Transcript:
        text = normalize(text_raw, self._language)
        missing = self.missing_models.get(self._settings.whisper_model)
        return Transcript(
            segment_id=segment["segment_id"],
            text_raw=text_raw,
            text=text,
            source=source,
            model="",
            oov_rate=round(oov_rate(text_raw, self._language), 6),
            confidence=None,
            guards=asr.text_guards(text, segment["duration_s"]),
            reason="" if text else str(missing or "no caption lies in the clip"),
        )

    def _find_weights(self, model: str) -> Path | None:
        """The weights of a model; one that cannot be had is asked for once a video."""
        if model not in self._weights and model not in self.missing_models:
            try:
                self._weights[model] = _weights(self._store, self._settings, model)
            except TranscriptionError as error:
                _log.warning("%s", error)
                self.missing_models[model] = error
        return self._weights.get(model)

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
            # Not splitlines(), which also splits at U+2028 and its like, as a text may hold them.
            for line in whole.decode().split("\n")[:-1]:
                entry = json.loads(line)
                self._known[entry["key"]] = Recognised(**entry["heard"])

    def get(self, key: str) -> Recognised | None:
        return self._known.get(key)

    def put(self, key: str, heard: Recognised) -> None:
        self._known[key] = heard
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "heard": asdict(heard)}, ensure_ascii=False)
        with self._path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _span_s(segment: Mapping[str, Any]) -> tuple[float, float]:
    return (
        segment["start_sample"] / SAMPLE_RATE_HZ,
        segment["end_sample"] / SAMPLE_RATE_HZ,
    )


def _read_audio(clip: Path, name: str) -> NDArray[np.float32]:
    """A clip as Whisper takes it: 16 kHz, mono."""
    import soundfile
    import soxr

    try:
        samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise TranscriptionError(f"The clip cannot be read: {error}", where=name) from error
    audio: NDArray[np.float32] = soxr.resample(samples.mean(axis=1), rate, asr.SAMPLE_RATE_HZ)
    return audio

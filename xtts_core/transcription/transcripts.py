"""The asset `transcripts`: what is said in each clip, where the text comes from, and how far to
trust it (`cascade` says how it is found)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.corpus.videos import primary_language
from xtts_core.errors import TranscriptionError
from xtts_core.settings import DatasetSettings, TranscriptionSettings
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
from xtts_core.store import CorpusStore, atomic_file, read_json
from xtts_core.text import NORMALISER_VERSION
from xtts_core.transcription.cascade import DISAGREEMENT, Cascade, Transcript
from xtts_core.transcription.language import likeliest_language
from xtts_core.transcription.weights import find_weights, own_weights_state

FINAL_PUNCTUATION = (".", "?", "!", "…")
MAX_EMPTY_SHARE = 0.2
"""More clips without text than this is worth a look: music, or the wrong language."""
MAX_SHORT_SHARE = 0.2
"""More clips with a word or two than this: long pauses, or speech that was not recognised."""
CHARACTERS_PER_S = (5.0, 22.0)
WORDS_PER_S = (0.7, 4.5)
"""What is said slowly and quickly: pt-BR is read at 11 to 16 characters and 2 to 3 words a second
(the samples, and MLS Portuguese); clips with pauses have less, and a text that is not the clip's
falls outside."""
MAX_ODD_RATE_SHARE = 0.1
MAX_DISPUTED_SHARE = 0.2
"""More clips than this whose texts disagree: subtitles of another cut or a free translation."""
MIN_SUBTITLED_SHARE = 0.5
WORST_CLIPS = 10

TRANSCRIPTS = Stage(
    name="transcripts",
    code_version="3",
    checks=(
        CheckSpec("every_segment_answered", "error", "each segment has exactly one written row"),
        CheckSpec("has_text", "error", "at least one clip has text"),
        CheckSpec("empty_share", "warn", "few clips are without text"),
        CheckSpec("short_share", "warn", "few clips have a text of less than text.min_words"),
        CheckSpec("speech_rate", "warn", "nearly every text is as long as its clip takes to say"),
        CheckSpec("disagreement", "warn", "the texts of nearly every clip agree"),
        CheckSpec(
            "subtitles_used", "warn", "manual subtitles that came along give most of the texts"
        ),
        CheckSpec("language", "warn", "the texts are in the language of the video's row"),
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
        ("witness", pa.string()),
        ("witness_text", pa.string()),
        ("cer", pa.float64()),
    ],
    metadata={"xtts_schema_version": "2"},
)
"""One row a segment. `text_raw` as it was written or heard, `text` normalised and without the full
stop of a clip that ends inside a sentence; `model` empty for subtitles; `confidence` the mean log
probability, null for subtitles; `guards` the signs of a wrong text that remain; `reason` why there
is no text, else empty. `witness` is the model or the kind of subtitles whose text, `witness_text`,
was compared, and `cer` the character error rate between the two, null where there was no other."""

_log = logging.getLogger(__name__)


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
        cascade = Cascade(store, settings.transcription, video_id, language, manual, automatic)
        transcripts = cascade.transcribe(rows, progress)
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
                rows,
                settings,
                language,
                answered=pq.read_table(path)["segment_id"].to_pylist(),
                has_subtitles=manual is not None,
                missing_models=[str(error) for error in cascade.missing_models.values()],
                unreadable_subtitles=cascade.unreadable_subtitles,
            ),
            metadata={
                **summary(transcripts, settings.transcription.max_disagreement),
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
            "own_weights": _own_weights(settings.transcription),
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
    segments: Sequence[Mapping[str, Any]],
    settings: DatasetSettings,
    language: str,
    *,
    answered: Sequence[str],
    has_subtitles: bool = False,
    missing_models: Sequence[str] = (),
    unreadable_subtitles: Sequence[str] = (),
) -> list[Verdict]:
    """The checks of `transcripts` on its rows.

    Args:
        segments: the rows of the segments table that were answered.
        answered: the segments of the written table.
        has_subtitles: whether manual subtitles in the video's language came along.
    """
    spoken = [transcript for transcript in transcripts if transcript.text]
    durations_s = {row["segment_id"]: row["duration_s"] for row in segments}
    empty = 1 - _share(transcripts, lambda t: bool(t.text)) if transcripts else 1.0
    short = _share(spoken, lambda t: len(t.text.split()) < settings.text.min_words)
    odd = _share(spoken, lambda t: not _takes(t.text, durations_s[t.segment_id]))
    disputed = _share(spoken, lambda t: DISAGREEMENT in t.guards)
    subtitled = _share(spoken, lambda t: t.source == "manual-subtitle")
    spoken_in = likeliest_language((t.text for t in spoken), language)
    oov = sum(t.oov_rate for t in spoken) / len(spoken) if spoken else 0.0
    return [
        TRANSCRIPTS.verdict(
            "every_segment_answered",
            sorted(answered) == sorted(durations_s),
            value=len(answered),
            threshold=len(durations_s),
        ),
        TRANSCRIPTS.verdict("has_text", bool(spoken), value=len(spoken), threshold=1),
        TRANSCRIPTS.at_most("empty_share", empty, MAX_EMPTY_SHARE),
        TRANSCRIPTS.at_most("short_share", short, MAX_SHORT_SHARE),
        TRANSCRIPTS.at_most("speech_rate", odd, MAX_ODD_RATE_SHARE),
        TRANSCRIPTS.at_most("disagreement", disputed, MAX_DISPUTED_SHARE),
        TRANSCRIPTS.verdict(
            "subtitles_used",
            not has_subtitles or subtitled >= MIN_SUBTITLED_SHARE,
            value=round(subtitled, 4),
            threshold=MIN_SUBTITLED_SHARE,
        ),
        TRANSCRIPTS.verdict(
            "language",
            spoken_in in (None, primary_language(language)),
            value=spoken_in,
            threshold=language,
        ),
        TRANSCRIPTS.at_most("oov_rate", oov, settings.transcription.oov_threshold),
        TRANSCRIPTS.at_most("models_available", len(missing_models), 0, "; ".join(missing_models)),
        TRANSCRIPTS.at_most(
            "subtitles_readable", len(unreadable_subtitles), 0, "; ".join(unreadable_subtitles)
        ),
    ]


def summary(transcripts: Sequence[Transcript], max_disagreement: float) -> dict[str, MetadataValue]:
    """What Dagster plots and shows for one video."""
    spoken = [transcript for transcript in transcripts if transcript.text]
    sources = Counter(transcript.source for transcript in spoken)
    shares: dict[str, MetadataValue] = {
        f"share_{name.replace('-', '_')}": round(sources[name] / max(len(transcripts), 1), 4)
        for name in ("manual-subtitle", "auto-subtitle", "whisper", "whisper-hp")
    }
    compared = [transcript.cer for transcript in spoken if transcript.cer is not None]
    return {
        **shares,
        "clips_with_text": len(spoken),
        "clips_without_text": len(transcripts) - len(spoken),
        "clips_flagged": sum(bool(transcript.guards) for transcript in transcripts),
        "clips_compared": len(compared),
        "cer_mean": round(sum(compared) / max(len(compared), 1), 4),
        "share_without_final_punctuation": round(
            _share(spoken, lambda t: not t.text.endswith(FINAL_PUNCTUATION)), 4
        ),
        "oov_rate_mean": round(sum(t.oov_rate for t in spoken) / max(len(spoken), 1), 4),
        "worst_clips": Markdown(_worst(transcripts, max_disagreement)),
    }


def _worst(transcripts: Sequence[Transcript], max_disagreement: float) -> str:
    """The clips that deserve an ear, the worst first."""

    def doubt(transcript: Transcript) -> tuple[bool, int, float, str]:
        disagreement = (transcript.cer or 0.0) / max_disagreement
        return (
            bool(transcript.text),
            -len(transcript.guards),
            -max(transcript.oov_rate, disagreement),
            transcript.segment_id,
        )

    lines = [
        "| clip | source | unknown words | CER | guards | text | the other text |",
        "|---|---|---|---|---|---|---|",
    ]
    for t in sorted(transcripts, key=doubt)[:WORST_CLIPS]:
        cer = "" if t.cer is None else f"{t.cer:.2f}"
        texts = ((t.text_raw or t.reason), t.witness_text)
        lines.append(
            f"| {t.segment_id} | {t.source} | {t.oov_rate:.2f} | {cer} | {', '.join(t.guards)} | "
            + " | ".join(text.replace("|", " ") for text in texts)
            + " |"
        )
    return "\n".join(lines)


def _share(found: Sequence[Transcript], holds: Callable[[Transcript], bool]) -> float:
    return sum(map(holds, found)) / max(len(found), 1)


def _takes(text: str, duration_s: float) -> bool:
    """Whether a text can be what is said in so many seconds."""
    rates = (
        (len(text) / duration_s, CHARACTERS_PER_S),
        (len(text.split()) / duration_s, WORDS_PER_S),
    )
    return all(least <= rate <= most for rate, (least, most) in rates)


def _best_fitting(
    store: CorpusStore, listed: Sequence[Mapping[str, str]], kind: str, language: str
) -> Path | None:
    """The subtitles of that kind whose language fits best: the same, else the same but for the
    region."""
    fitting = [
        (entry["language"].lower() != language.lower(), entry["language"], entry["path"])
        for entry in listed
        if entry["kind"] == kind
        and primary_language(entry["language"]) == primary_language(language)
    ]
    return store.root / min(fitting)[2] if fitting else None


def _own_weights(settings: TranscriptionSettings) -> dict[str, tuple[int, int]]:
    """What tells that weights in the settings' own folders were replaced under the same name.

    A path that holds none is reported when a clip needs them."""
    found = {}
    for model in (settings.whisper_model, settings.whisper_hp_model):
        with suppress(TranscriptionError):
            state = own_weights_state(model, settings.engine, settings.model_dir)
            if state is not None:
                found[model] = state
    return found


def _forget_what_lacks_a_model(
    store: CorpusStore, settings: TranscriptionSettings, video_id: str
) -> None:
    known = read_result(store, TRANSCRIPTS.name, video_id)
    missing = json.loads(str(known.metadata.get("models_missing", "[]"))) if known else []
    for model in missing:
        if model not in (settings.whisper_model, settings.whisper_hp_model):
            continue
        try:
            find_weights(model, settings.engine, settings.model_dir, store.root / "cache/whisper")
        except TranscriptionError as error:
            _log.info("The transcripts of %s stay as they are: %s", video_id, error)
        else:
            forget(store, TRANSCRIPTS.name, video_id)

"""`metadata`: one row per clip, accepted or rejected with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.corpus.segments import MEASURE_COLUMNS
from xtts_core.dataset.trainability import (
    DUPLICATE_TEXT,
    REASONS,
    Candidate,
    rejection_reasons,
    surplus_copies,
)
from xtts_core.errors import DatasetError
from xtts_core.settings import DatasetSettings
from xtts_core.stage import (
    CheckSpec,
    Markdown,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    require,
    run_stage,
    silent,
)
from xtts_core.store import WHOLE, CorpusStore, atomic_file, read_json

MIN_ACCEPTED_SHARE = 0.3
"""Below this share of clips the video or the settings deserve a look. Emilia keeps 15 to 28 % of
the hours of raw podcasts (mesolitica/Malaysian-Emilia), before any segmentation."""

METADATA = Stage(
    "metadata",
    "4",
    (
        CheckSpec("every_segment_accounted", "error", "each segment is a row, once"),
        CheckSpec("has_accepted_clips", "error", "at least one clip can be trained on"),
        CheckSpec("accepted_share", "warn", "most clips are accepted"),
    ),
)

SCHEMA_VERSION = 4
_VERSION_KEY = b"xtts_schema_version"
_OLDEST_READABLE = 3
_TEXTS = pa.list_(pa.string())

_COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("clip_id", pa.string(), "the clip: `<video_id>_<number>`"),
    ("video_id", pa.string(), "the row of videos.csv that it comes from"),
    ("speaker", pa.string(), "who speaks, as videos.csv has it"),
    ("language", pa.string(), "the language of the text, such as pt-BR"),
    ("licence", pa.string(), "the licence of the video, as videos.csv has it; may be empty"),
    ("path", pa.string(), "the WAV (22 050 Hz, mono, 16 bit), relative to the corpus root"),
    ("sha256", pa.string(), "SHA-256 of the WAV"),
    ("start_sample", pa.int64(), "where it begins in raw/<video_id>.wav, in samples"),
    ("end_sample", pa.int64(), "where it ends there; the sample itself is not part of it"),
    ("duration_s", pa.float64(), "its length in seconds"),
    ("cut", pa.string(), "how its end was found; `forced`: without a pause"),
    ("overlap_s", pa.float64(), "seconds that it shares with its neighbours (forced cuts)"),
    ("rms_dbfs", pa.float64(), "mean level, dB below full scale"),
    ("peak_dbfs", pa.float64(), "highest sample, dB below full scale"),
    ("true_peak_dbtp", pa.float64(), "highest value between samples (ITU-R BS.1770), dB"),
    ("loudness_lufs", pa.float64(), "integrated loudness (ITU-R BS.1770), LUFS"),
    ("clipping_ratio", pa.float64(), "share of samples at full scale in the recording"),
    ("filled_s", pa.float64(), "seconds of silence in and beside it that stand for lost audio"),
    ("snr_db", pa.float64(), "signal-to-noise ratio, estimated, dB"),
    ("speech_ratio", pa.float64(), "share of the clip that is speech"),
    ("bandwidth_hz", pa.float64(), "highest frequency that carries speech, Hz"),
    ("reverberation_s", pa.float64(), "reverberation time, estimated, seconds"),
    ("music_ratio", pa.float64(), "share of the clip with music under the speech"),
    ("halves_similarity", pa.float64(), "cosine of the voices of its two halves"),
    ("change_similarity", pa.float64(), "cosine of its most different part and the rest"),
    ("speaker_similarity", pa.float64(), "cosine of its voice and that of most of the video"),
    ("text_raw", pa.string(), "what is said, as it was written or heard"),
    ("text", pa.string(), "the same, normalised: what training reads"),
    ("text_sha256", pa.string(), "SHA-256 of `text` in UTF-8"),
    ("text_source", pa.string(), "manual-subtitle, auto-subtitle, whisper or whisper-hp"),
    ("text_model", pa.string(), "the recogniser's weights; empty for subtitles"),
    ("text_confidence", pa.float64(), "mean log probability of the recogniser; null: subtitles"),
    ("text_guards", _TEXTS, "the signs of a wrong text that remain"),
    ("text_witness", pa.string(), "the other source that the text was compared with"),
    ("text_cer", pa.float64(), "character error rate between the two; null: no other"),
    ("oov_rate", pa.float64(), "share of words that the vocabulary does not have"),
    ("n_words", pa.int64(), "words of `text`"),
    ("n_tokens", pa.int64(), "tokens of `text` for the base model, the language's tag included"),
    ("characters_per_s", pa.float64(), "characters of `text` a second"),
    ("accepted", pa.bool_(), "whether the clip can be trained on: it has no reason"),
    ("reasons", _TEXTS, "why it is rejected: names of `REASONS`"),
)  # fmt: skip

METADATA_SCHEMA = pa.schema(
    [
        pa.field(name, dtype, metadata={"description": described})
        for name, dtype, described in _COLUMNS
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION)},
)
"""One row a clip. A measure is null where a clip has none. The speaker embedding of a clip stays
in `segments`, the witness's text in `transcripts`."""

_ADDED_IN_4 = frozenset(
    {
        "overlap_s",
        "text_sha256",
        "text_confidence",
        "text_guards",
        "text_witness",
        "characters_per_s",
    }
)

_FROM_SEGMENT = (
    "path",
    "sha256",
    "start_sample",
    "end_sample",
    "duration_s",
    "cut",
    "overlap_s",
    *MEASURE_COLUMNS,
)


def read_metadata(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A metadata file as this version's columns (all of them, or those asked for, in their order).

    A file of an earlier version is upgraded while it is read: a column that it does not have is
    null.

    Raises:
        DatasetError: the file is of a later version, of one that cannot be read any more, or
            lacks a column that its version has.
    """
    file = pq.ParquetFile(path)
    found = file.schema_arrow
    version = int((found.metadata or {}).get(_VERSION_KEY, b"0"))
    wanted = METADATA_SCHEMA.names if columns is None else list(columns)
    later = _ADDED_IN_4 if version < 4 else frozenset()
    types = {field.name: field.type for field in found}
    schema = pa.schema([METADATA_SCHEMA.field(name) for name in wanted], METADATA_SCHEMA.metadata)
    lacking = [name for name in wanted if name not in types and name not in later]
    strange = [
        f"{field.name} ({types[field.name]})"
        for field in schema
        if types.get(field.name, field.type) != field.type
    ]
    problem = ""
    if not _OLDEST_READABLE <= version <= SCHEMA_VERSION:
        problem = (
            f"has version {version} of the metadata schema, and versions {_OLDEST_READABLE} to "
            f"{SCHEMA_VERSION} can be read"
        )
    elif lacking:
        problem = f"lacks columns: {', '.join(lacking)}"
    elif strange:
        problem = f"has columns of another type: {', '.join(strange)}"
    if problem:
        raise DatasetError(
            f"The file {problem}",
            where=str(path),
            remedy="Update the platform"
            if version > SCHEMA_VERSION
            else "Materialise metadata of this video again",
        )
    table = file.read(columns=[name for name in wanted if name in types])
    for field in schema:
        if field.name not in types:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(wanted).cast(schema)


def make_metadata(
    store: CorpusStore, settings: DatasetSettings, video_id: str, progress: Progress = silent
) -> StageResult:
    """Join the catalogue row, the segments and the transcripts of one video, and judge each clip.

    Raises:
        UpstreamError: one of the stages before is missing or failed.
        DatasetError: a segment has no transcript row.
    """
    video = require(store, "videos", video_id)
    segments = require(store, "segments", video_id)
    transcripts = require(store, "transcripts", video_id)
    base = require(store, "base_model", WHOLE)

    def build(fingerprint: str) -> Outcome:
        from xtts_core.model.tokenizer import Tokenizer

        row = read_json(video.uri)["row"]
        tokenizer = Tokenizer.load(base.uri)
        texts = {
            text["segment_id"]: text
            for text in pq.read_table(store.transcripts(video_id)).to_pylist()
        }
        clips = []
        found = pq.read_table(store.segments_table(video_id)).to_pylist()
        for done, segment in enumerate(found, 1):
            transcript = texts.get(segment["segment_id"])
            if transcript is None:
                raise DatasetError(
                    "The segment has no transcript row",
                    where=f"{segment['segment_id']} in {store.transcripts(video_id)}",
                    remedy="Materialise transcripts of this video again",
                )
            clips.append(_judge(row, segment, transcript, tokenizer, settings))
            progress(done, len(found), "clips")
        for clip in surplus_copies(clips, settings.filters.max_text_copies):
            clip.update(accepted=False, reasons=[DUPLICATE_TEXT])
        table = pa.Table.from_pylist(clips, schema=METADATA_SCHEMA)
        path = store.metadata(video_id)
        with atomic_file(path) as aside:
            pq.write_table(table, aside)
        return Outcome(
            uri=path,
            outputs=[path],
            verdicts=verdicts(clips, n_segments=len(found)),
            metadata=summary(clips),
            row_count=len(clips),
        )

    return run_stage(
        store,
        METADATA,
        video_id,
        inputs={
            "filters": settings.filters.model_dump(mode="json"),
            "text": settings.text.model_dump(mode="json"),
            "videos": video.data_version,
            "segments": segments.data_version,
            "transcripts": transcripts.data_version,
            "base_model": base.data_version,
        },
        built_on=(video, segments, transcripts, base),
        build=build,
    )


def verdicts(clips: Sequence[Mapping[str, Any]], *, n_segments: int) -> list[Verdict]:
    """The checks of `metadata` on its rows."""
    distinct = len({clip["clip_id"] for clip in clips})
    accepted = sum(clip["accepted"] for clip in clips)
    share = accepted / len(clips) if clips else 0.0
    return [
        METADATA.verdict(
            "every_segment_accounted",
            distinct == len(clips) == n_segments,
            value=distinct,
            threshold=n_segments,
        ),
        METADATA.verdict("has_accepted_clips", accepted > 0, value=accepted, threshold=1),
        METADATA.verdict(
            "accepted_share",
            share >= MIN_ACCEPTED_SHARE,
            value=round(share, 4),
            threshold=MIN_ACCEPTED_SHARE,
        ),
    ]


def summary(clips: Sequence[Mapping[str, Any]]) -> dict[str, int | float | str | Markdown]:
    """What Dagster plots and shows for one video."""
    accepted = [clip for clip in clips if clip["accepted"]]
    counts = Counter(reason for clip in clips for reason in clip["reasons"])
    lines = ["| reason | clips | meaning |", "|---|---|---|"]
    lines += [f"| {name} | {counts[name]} | {REASONS[name]} |" for name in REASONS if counts[name]]
    return {
        "clips_accepted": len(accepted),
        "clips_rejected": len(clips) - len(accepted),
        "accepted_duration_s": round(sum(clip["duration_s"] for clip in accepted), 3),
        "rejections": Markdown("\n".join(lines)),
    }


def _judge(
    row: Mapping[str, Any],
    segment: Mapping[str, Any],
    transcript: Mapping[str, Any],
    tokenizer: Any,
    settings: DatasetSettings,
) -> dict[str, Any]:
    text = transcript["text"]
    tokens = tokenizer.encode(text, row["language"])
    characters_per_s = round(len(text) / segment["duration_s"], 3)
    reasons = rejection_reasons(
        Candidate(
            samples=segment["end_sample"] - segment["start_sample"],
            duration_s=segment["duration_s"],
            cut=segment["cut"],
            filled_s=segment["filled_s"],
            clipping_ratio=segment["clipping_ratio"],
            snr_db=segment["snr_db"],
            change_similarity=segment["change_similarity"],
            speaker_similarity=segment["speaker_similarity"],
            music_ratio=segment["music_ratio"],
            bandwidth_hz=segment["bandwidth_hz"],
            reverberation_s=segment["reverberation_s"],
            text=text,
            characters_per_s=characters_per_s,
            tokens=tokens,
            unknown_token=tokenizer.unknown_id,
            guards=transcript["guards"],
        ),
        settings.filters,
        settings.text,
    )
    return {
        **{name: segment[name] for name in _FROM_SEGMENT},
        "clip_id": segment["segment_id"],
        "video_id": row["video_id"],
        "speaker": row["speaker"],
        "language": row["language"],
        "licence": row["licence"],
        "text_raw": transcript["text_raw"],
        "text": text,
        "text_sha256": sha256(text.encode()).hexdigest(),
        "text_source": transcript["source"],
        "text_model": transcript["model"],
        "text_confidence": transcript["confidence"],
        "text_guards": transcript["guards"],
        "text_witness": transcript["witness"],
        "text_cer": transcript["cer"],
        "oov_rate": transcript["oov_rate"],
        "n_words": len(text.split()),
        "n_tokens": len(tokens),
        "characters_per_s": characters_per_s,
        "accepted": not reasons,
        "reasons": list(reasons),
    }

"""`metadata`: one row per clip, accepted or rejected with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.corpus.segments import MEASURE_COLUMNS
from xtts_core.dataset.trainability import REASONS, Candidate, rejection_reasons
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
    "3",
    (
        CheckSpec("every_segment_accounted", "error", "each segment is a row, once"),
        CheckSpec("has_accepted_clips", "error", "at least one clip can be trained on"),
        CheckSpec("accepted_share", "warn", "most clips are accepted"),
    ),
)

METADATA_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("start_sample", pa.int64()),
        ("end_sample", pa.int64()),
        ("duration_s", pa.float64()),
        ("cut", pa.string()),
        *((name, pa.float64()) for name in MEASURE_COLUMNS),
        ("text_raw", pa.string()),
        ("text", pa.string()),
        ("text_source", pa.string()),
        ("text_model", pa.string()),
        ("text_cer", pa.float64()),
        ("oov_rate", pa.float64()),
        ("n_words", pa.int64()),
        ("n_tokens", pa.int64()),
        ("accepted", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
    ],
    metadata={"xtts_schema_version": "3"},
)
"""The measures are those of `segments`, null where a clip has none; its speaker embedding stays
there."""

_FROM_SEGMENT = (
    "path",
    "sha256",
    "start_sample",
    "end_sample",
    "duration_s",
    "cut",
    *MEASURE_COLUMNS,
)


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
        "text_source": transcript["source"],
        "text_model": transcript["model"],
        "text_cer": transcript["cer"],
        "oov_rate": transcript["oov_rate"],
        "n_words": len(text.split()),
        "n_tokens": len(tokens),
        "accepted": not reasons,
        "reasons": list(reasons),
    }

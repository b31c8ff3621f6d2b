"""`train_val_splits`: which accepted clips are trained on and which are held out.

A clip's side is a seeded hash of its group, so that adding, changing or removing a video moves no
other clip. A group is a text: identical texts share a side, and so do neighbours whose audio
overlaps. Where the hash leaves a video of at least `MIN_CLIPS_FOR_VALIDATION` clips without a
held-out one, its group with the smallest hash goes to `val`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.dataset.metadata import METADATA_SCHEMA, read_metadata
from xtts_core.dataset.near_duplicates import near_duplicates
from xtts_core.settings import DatasetSettings, SplitSettings
from xtts_core.stage import (
    CheckSpec,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    require,
    run_stage,
    silent,
)
from xtts_core.store import CorpusStore, atomic_file

MIN_CLIPS_FOR_VALIDATION = 4
"""A video with fewer accepted clips gives them all to training unless their hash says otherwise."""

NEAR_DUPLICATE = 0.8
"""Texts that share this much of their words are taken for the same: one word of nine may differ.
A held-out text must be one that the voice has not learnt by heart."""

TRAIN_VAL_SPLITS = Stage(
    "train_val_splits",
    "2",
    (
        CheckSpec("every_accepted_clip_assigned", "error", "each accepted clip has one side"),
        CheckSpec("has_training_clips", "warn", "at least one clip is trained on"),
        CheckSpec("has_validation_clips", "warn", "at least one clip is held out"),
    ),
)

SPLIT_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), metadata={"description": "the clip, as in metadata"}),
        pa.field("split", pa.string(), metadata={"description": "train or val"}),
        pa.field("group", pa.string(), metadata={"description": "clips of one group share a side"}),
    ],
    metadata={"xtts_schema_version": "1"},
)


_READ = ("clip_id", "text", "start_sample", "end_sample", "duration_s")


def make_train_val_splits(
    store: CorpusStore, settings: DatasetSettings, video_id: str, progress: Progress = silent
) -> StageResult:
    """Assign each accepted clip of one video to `train` or `val`."""
    metadata = require(store, "metadata", video_id)

    def build(fingerprint: str) -> Outcome:
        clips = accepted_table(store, video_id, _READ).to_pylist()
        rows = assign(clips, settings.split)
        progress(len(rows), len(clips), "clips")
        path = store.split(video_id)
        with atomic_file(path) as aside:
            pq.write_table(pa.Table.from_pylist(rows, schema=SPLIT_SCHEMA), aside)
        duration_s = {clip["clip_id"]: clip["duration_s"] for clip in clips}
        held_out = [row["clip_id"] for row in rows if row["split"] == "val"]
        return Outcome(
            uri=path,
            outputs=[path],
            verdicts=verdicts(rows, [clip["clip_id"] for clip in clips]),
            metadata={
                "train_clips": len(rows) - len(held_out),
                "val_clips": len(held_out),
                "val_duration_s": round(sum(duration_s[clip] for clip in held_out), 3),
            },
            row_count=len(rows),
        )

    return run_stage(
        store,
        TRAIN_VAL_SPLITS,
        video_id,
        inputs={
            "split": settings.split.model_dump(mode="json"),
            "metadata": metadata.data_version,
        },
        built_on=(metadata,),
        build=build,
    )


def accepted_clips(store: CorpusStore, video_id: str) -> list[dict[str, Any]]:
    """The accepted rows of one video's metadata, in the order of the audio."""
    rows: list[dict[str, Any]] = accepted_table(store, video_id).to_pylist()
    return rows


def accepted_table(
    store: CorpusStore, video_id: str, columns: Sequence[str] = METADATA_SCHEMA.names
) -> pa.Table:
    """Some columns of the accepted rows of one video's metadata, in the order of the audio."""
    table = read_metadata(
        store.metadata(video_id), [*{**dict.fromkeys(columns), "accepted": 0, "start_sample": 0}]
    )
    return table.filter(table["accepted"]).sort_by("start_sample").select(list(columns))


def assign(clips: Sequence[Mapping[str, Any]], settings: SplitSettings) -> list[dict[str, str]]:
    """The side of each clip.

    Args:
        clips: rows with clip_id, text, start_sample and end_sample, of one video, in the order of
            its audio.
    """
    groups = _groups(clips)
    position = {group: _position(group, settings.seed) for group in groups}
    held_out = {group for group in position if position[group] < settings.val_share}
    if not held_out and len(clips) >= MIN_CLIPS_FOR_VALIDATION and len(position) > 1:
        held_out = {min(position, key=lambda group: position[group])}
    return [
        {
            "clip_id": clip["clip_id"],
            "split": "val" if group in held_out else "train",
            "group": hashlib.sha256(group.encode()).hexdigest()[:16],
        }
        for clip, group in zip(clips, groups, strict=True)
    ]


def verdicts(rows: Sequence[Mapping[str, str]], accepted: Iterable[str]) -> list[Verdict]:
    """The checks of `train_val_splits` on its rows."""
    wanted = sorted(accepted)
    sides = [row["split"] for row in rows]
    return [
        TRAIN_VAL_SPLITS.verdict(
            "every_accepted_clip_assigned",
            sorted(row["clip_id"] for row in rows) == wanted and set(sides) <= {"train", "val"},
            value=len(rows),
            threshold=len(wanted),
        ),
        TRAIN_VAL_SPLITS.verdict(
            "has_training_clips", "train" in sides, value=sides.count("train"), threshold=1
        ),
        TRAIN_VAL_SPLITS.verdict(
            "has_validation_clips", "val" in sides, value=sides.count("val"), threshold=1
        ),
    ]


def leaking_clips(clips: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The training clips whose text is held out too, or nearly is, with the reason.

    They are left out where all videos meet (the dataset, training), never moved: moving one would
    change a split that other runs were compared on.

    Args:
        clips: rows with clip_id, text and split, of every video.
    """
    held_out: dict[str, str] = {}
    trained: defaultdict[str, list[str]] = defaultdict(list)
    for clip in clips:
        if clip["split"] == "val":
            held_out.setdefault(clip["text"], clip["clip_id"])
        else:
            trained[clip["text"]].append(clip["clip_id"])
    reasons = {
        text: f"its text is held out as {held_out[text]}" for text in trained if text in held_out
    }
    unlike = [text for text in trained if text not in reasons]
    for text, (other, alike) in near_duplicates(unlike, held_out, NEAR_DUPLICATE).items():
        reasons[text] = f"its text is nearly that of the held-out {held_out[other]} ({alike:.2f})"
    return {
        clip: reasons[text]
        for text, copies in trained.items()
        if text in reasons
        for clip in copies
    }


def _groups(clips: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each clip's group: the smallest text of those it is tied to by text or by overlap."""
    parent = {clip["text"]: clip["text"] for clip in clips}

    def root(text: str) -> str:
        while parent[text] != text:
            text = parent[text]
        return text

    for before, after in pairwise(clips):
        if after["start_sample"] < before["end_sample"]:
            first, second = sorted((root(before["text"]), root(after["text"])))
            parent[second] = first
    return [root(clip["text"]) for clip in clips]


def _position(group: str, seed: int) -> float:
    """A number in [0, 1) that only the seed and the group decide."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64

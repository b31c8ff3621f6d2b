"""Where all videos meet: the accepted clips of every usable video with their sides."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xtts_core.dataset.metadata import METADATA_SCHEMA, read_metadata
from xtts_core.dataset.split import leaking_clips
from xtts_core.errors import DatasetError, UpstreamError
from xtts_core.stage import StageResult, usable
from xtts_core.store import CorpusStore

CLIPS_SCHEMA = METADATA_SCHEMA.append(
    pa.field("split", pa.string(), metadata={"description": "train or val"})
)


@dataclass(frozen=True)
class Dataset:
    """What can be trained on.

    `clips` has the columns of `metadata` and `split`, in the order of the videos and of their
    audio. `left_out` tells of each clip that is accepted and not among them why, `refused` of each
    video whose clips may not be used.
    """

    clips: pa.Table
    left_out: dict[str, str]
    refused: dict[str, str]


def gather(store: CorpusStore, listed: Collection[str] | None = None) -> Dataset:
    """The dataset as it stands on disk.

    Args:
        listed: the ids in videos.csv (None: every video that was prepared).
    Raises:
        DatasetError: no video can be used.
    """
    splits, refused = usable_splits(store, listed)
    clips, left_out = joined(store, [split.key for split in splits])
    return Dataset(clips, left_out, refused)


def usable_splits(
    store: CorpusStore, listed: Collection[str] | None
) -> tuple[list[StageResult], dict[str, str]]:
    """The splits that may be used, and why each other video may not be.

    Raises:
        DatasetError: there are none.
    """
    splits, refused = usable(store, "train_val_splits", listed)
    if not splits:
        raise DatasetError(
            "No video has usable splits",
            where=str(store.root),
            remedy="Materialise prepare_video for at least one video; refused: "
            + ("; ".join(f"{key}: {why}" for key, why in refused.items()) or "none"),
        )
    return splits, refused


def joined(store: CorpusStore, video_ids: Iterable[str]) -> tuple[pa.Table, dict[str, str]]:
    """The clips of some videos without those that must not be trained on, and why each is left
    out."""
    clips = pa.concat_tables(
        [CLIPS_SCHEMA.empty_table(), *(_with_sides(store, video) for video in video_ids)]
    )
    columns = clips.select(["clip_id", "text", "split"])
    left_out = leaking_clips(
        row for batch in columns.to_batches(max_chunksize=1_000) for row in batch.to_pylist()
    )
    kept = pc.invert(pc.is_in(clips["clip_id"], pa.array(left_out, pa.string())))
    return clips.filter(kept), left_out


def _with_sides(store: CorpusStore, video_id: str) -> pa.Table:
    clips = read_metadata(store.metadata(video_id))
    clips = clips.filter(clips["accepted"]).sort_by("start_sample")
    sides = pq.read_table(store.split(video_id), columns=["clip_id", "split"])
    at = pc.index_in(clips["clip_id"], sides["clip_id"].combine_chunks())
    if at.null_count:
        raise UpstreamError(
            f"The splits lack {at.null_count} accepted clips",
            where=str(store.split(video_id)),
            remedy="Materialise train_val_splits of this video again",
        )
    return clips.append_column(CLIPS_SCHEMA.field("split"), sides["split"].take(at)).cast(
        CLIPS_SCHEMA
    )

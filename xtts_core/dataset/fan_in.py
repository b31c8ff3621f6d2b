"""Where all videos meet: the accepted clips of every usable video with their sides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xtts_core.dataset.metadata import METADATA_SCHEMA
from xtts_core.dataset.split import accepted_table, leaking_clips
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


def joined(
    store: CorpusStore, video_ids: Iterable[str], columns: Sequence[str] = CLIPS_SCHEMA.names
) -> tuple[pa.Table, dict[str, str]]:
    """Some columns of the clips of some videos, without those that must not be trained on, and
    why each of these is left out."""
    read = list(dict.fromkeys((*columns, "clip_id", "text", "split")))
    schema = pa.schema([CLIPS_SCHEMA.field(name) for name in read], CLIPS_SCHEMA.metadata)
    clips = pa.concat_tables(
        [schema.empty_table(), *(_with_sides(store, video, schema) for video in video_ids)]
    )
    judged = clips.select(["clip_id", "text", "split"])
    left_out = leaking_clips(
        row for batch in judged.to_batches(max_chunksize=1_000) for row in batch.to_pylist()
    )
    kept = pc.invert(pc.is_in(clips["clip_id"], pa.array(left_out, pa.string())))
    return clips.filter(kept).select(list(columns)), left_out


def _with_sides(store: CorpusStore, video_id: str, schema: pa.Schema) -> pa.Table:
    clips = accepted_table(store, video_id, [name for name in schema.names if name != "split"])
    # read_table would look at the file as a dataset, at four times the cost.
    sides = pq.ParquetFile(store.split(video_id)).read(columns=["clip_id", "split"])
    at = pc.index_in(clips["clip_id"], sides["clip_id"].combine_chunks())
    if at.null_count:
        raise UpstreamError(
            f"The splits lack {at.null_count} accepted clips",
            where=str(store.split(video_id)),
            remedy="Materialise train_val_splits of this video again",
        )
    side = sides["split"].take(at)
    return clips.append_column(CLIPS_SCHEMA.field("split"), side).select(schema.names).cast(schema)

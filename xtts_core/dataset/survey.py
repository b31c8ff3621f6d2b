"""What the metadata say of the whole dataset: every clip counted, and some drawn to be heard."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.dataset.fan_in import joined
from xtts_core.dataset.metadata import METADATA_SCHEMA, read_metadata
from xtts_core.errors import DatasetError
from xtts_core.stage import Progress, silent, usable
from xtts_core.store import CorpusStore, read_json

Floats = npt.NDArray[np.floating[Any]]

_NAMED_AT_MOST = 20


@dataclass(frozen=True)
class Measure:
    """A column of `metadata` with what the page says of it: `decimals` are those shown."""

    column: str
    label: str
    unit: str
    decimals: int
    histogram: bool = False

    def shown(self, value: float) -> str:
        return f"{value:,.{self.decimals}f} {self.unit}".strip()

    @property
    def description(self) -> str:
        told: bytes = METADATA_SCHEMA.field(self.column).metadata[b"description"]
        return told.decode()


MEASURES = (
    Measure("duration_s", "Duration", "s", 2, histogram=True),
    Measure("characters_per_s", "Rate", "chars/s", 1, histogram=True),
    Measure("snr_db", "SNR", "dB", 1, histogram=True),
    Measure("loudness_lufs", "Loudness", "LUFS", 1, histogram=True),
    Measure("speaker_similarity", "Speaker similarity", "", 3, histogram=True),
    Measure("change_similarity", "Least alike part", "", 3),
    Measure("bandwidth_hz", "Bandwidth", "Hz", 0, histogram=True),
    Measure("reverberation_s", "Reverberation", "s", 2, histogram=True),
    Measure("music_ratio", "Music", "", 2, histogram=True),
    Measure("speech_ratio", "Speech", "", 2),
    Measure("true_peak_dbtp", "True peak", "dBTP", 1),
    Measure("clipping_ratio", "Clipped samples", "", 5),
    Measure("text_confidence", "Recogniser's confidence", "", 2),
    Measure("text_cer", "Disagreement (CER)", "", 3),
    Measure("oov_rate", "Unknown words", "", 2),
    Measure("n_tokens", "Tokens", "", 0),
)


_COUNTED = [
    "clip_id",
    "speaker",
    "text_source",
    "path",
    "duration_s",
    "accepted",
    "reasons",
]
_DRAWN = [measure for measure in MEASURES if measure.histogram]
_SURVEYED = list(dict.fromkeys([*_COUNTED, *(measure.column for measure in _DRAWN)]))


@dataclass
class Tally:
    """Counts of some clips; lengths in seconds.

    `alone` are the clips with one reason only. `raw_s` is the length of the recordings, None where
    one is not known.
    """

    clips: int = 0
    seconds: float = 0.0
    accepted: int = 0
    accepted_s: float = 0.0
    alone: int = 0
    train: int = 0
    val: int = 0
    dataset_s: float = 0.0
    left_out: int = 0
    raw_s: float | None = None

    def add(self, clip: Mapping[str, Any], side: str | None) -> None:
        self.clips += 1
        self.seconds += clip["duration_s"]
        self.accepted += clip["accepted"]
        self.accepted_s += clip["duration_s"] if clip["accepted"] else 0.0
        self.alone += len(clip["reasons"]) == 1
        self.train += side == "train"
        self.val += side == "val"
        self.dataset_s += clip["duration_s"] if side in ("train", "val") else 0.0
        self.left_out += side not in (None, "train", "val")


Lot = tuple[int, str, str]
"""A clip in the draw: the hash that decides, its video, its id."""


@dataclass
class Draw:
    """Which clips can be heard: those with the smallest hashes of the seed and their ids, so that a
    clip more or less changes little. Holds no more than it may give."""

    samples: int
    seed: int
    accepted: list[Lot] = field(default_factory=list)
    rejected: list[Lot] = field(default_factory=list)
    of_reason: dict[str, Lot] = field(default_factory=dict)

    def add(self, clips: Sequence[Mapping[str, Any]], video_id: str) -> None:
        accepted: list[Lot] = []
        rejected: list[Lot] = []
        for clip in clips:
            digest = hashlib.sha256(f"{self.seed}:{clip['clip_id']}".encode()).digest()
            lot = (int.from_bytes(digest[:8]), video_id, clip["clip_id"])
            (accepted if clip["accepted"] else rejected).append(lot)
            for reason in clip["reasons"]:
                self.of_reason[reason] = min(lot, self.of_reason.get(reason, lot))
        self.accepted = heapq.nsmallest(self.samples, [*self.accepted, *accepted])
        self.rejected = heapq.nsmallest(self.samples, [*self.rejected, *rejected])

    def chosen(self, reasons: Sequence[str]) -> dict[str, set[str]]:
        """Clip ids by video: half are rejected, or more where the accepted are few or each of
        `reasons` would not have one; the first of these come first where not all find room."""
        cover = dict.fromkeys(self.of_reason[reason] for reason in reasons)
        room = self.samples - min(self.samples // 2, len(self.accepted))
        rejected = list(dict.fromkeys([*cover, *self.rejected]))
        rejected = rejected[: min(self.samples, max(room, len(cover)))]
        clips: defaultdict[str, set[str]] = defaultdict(set)
        for _, video_id, clip_id in [
            *self.accepted[: self.samples - len(rejected)],
            *rejected,
        ]:
            clips[video_id].add(clip_id)
        return dict(sorted(clips.items()))


@dataclass
class Survey:
    """What the page tells of the whole corpus.

    `values` has an array for each video (NaN: a clip has no such measure), in step with `accepted`.
    `left_out` and `remarks` say why an accepted clip, or a video, is not in the dataset.
    """

    draw: Draw
    left_out: Mapping[str, str]
    remarks: Mapping[str, str]
    total: Tally = field(default_factory=Tally)
    videos: dict[str, Tally] = field(default_factory=dict)
    speakers: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    sources: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    reasons: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    values: defaultdict[Measure, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    accepted: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unprepared: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    n_missing: int = 0

    def add(self, store: CorpusStore, video_id: str, clips: pa.Table) -> None:
        sides = read_sides(store, video_id) if video_id not in self.remarks else {}
        video = Tally()
        rows = clips.select(_COUNTED).to_pylist()
        for clip in rows:
            side = self.left_out.get(clip["clip_id"]) or sides.get(clip["clip_id"])
            by = [
                self.total,
                video,
                self.speakers[clip["speaker"]],
                self.sources[clip["text_source"]],
                *(self.reasons[reason] for reason in clip["reasons"]),
            ]
            for tally in by:
                tally.add(clip, side)
            if not (store.root / clip["path"]).is_file():
                self.n_missing += 1
                if len(self.missing) < _NAMED_AT_MOST:
                    self.missing.append(clip["path"])
        video.raw_s = _recording_s(store, video_id)
        self.videos[video_id] = video
        self.draw.add(rows, video_id)
        self.accepted.append(clips["accepted"].to_numpy())
        for measure in _DRAWN:
            self.values[measure].append(clips[measure.column].to_numpy().astype(np.float32))

    def notes(self) -> list[str]:
        """What a person should know before the figures."""
        told = [
            ("Metadata that cannot be read", len(self.unreadable), self.unreadable),
            ("Videos of videos.csv without metadata", len(self.unprepared), self.unprepared),
            ("Videos left out: not in videos.csv", len(self.unlisted), self.unlisted),
            ("Missing clip files", self.n_missing, self.missing),
        ]
        return [
            f"{what} ({count:,}): {', '.join(named[:_NAMED_AT_MOST])}"
            + (", …" if count > _NAMED_AT_MOST else "")
            for what, count, named in told
            if count
        ]


def survey_dataset(
    store: CorpusStore,
    samples: int,
    seed: int,
    *,
    listed: Collection[str] | None = None,
    left_out: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Survey:
    """Count every clip of every video that has metadata. A metadata file that cannot be read is
    named in the survey's notes.

    Args:
        samples, seed: how many clips can be heard, and which: another seed draws others.
        listed: the ids in videos.csv (None: every video that has metadata).
        left_out: the clips that the fan-in leaves out, with the reasons (None: they are found).
        progress: told of videos.
    """
    found = sorted(path.stem for path in store.metadata("any").parent.glob("[!.]*.parquet"))
    videos = [video_id for video_id in found if listed is None or video_id in listed]
    splits, refused = usable(store, "train_val_splits", videos)
    placed = {split.key for split in splits}
    survey = Survey(
        draw=Draw(samples, seed),
        left_out=_left_out(store, sorted(placed)) if left_out is None else left_out,
        remarks={
            video_id: refused.get(video_id, "it has no splits")
            for video_id in videos
            if video_id not in placed
        },
        unprepared=sorted(set(listed or ()) - set(found)),
        unlisted=[video_id for video_id in found if video_id not in set(videos)],
    )
    for done, video_id in enumerate(videos, 1):
        try:
            clips = read_clips(store, video_id, _SURVEYED)
        except DatasetError as error:
            survey.unreadable.append(f"{video_id} ({error.what})")
        else:
            survey.add(store, video_id, clips)
        progress(done, len(videos), "videos")
    lengths = [video.raw_s for video in survey.videos.values()]
    known = [length for length in lengths if length is not None]
    survey.total.raw_s = sum(known) if len(known) == len(lengths) else None
    return survey


def read_clips(store: CorpusStore, video_id: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The clips of a video, accepted or rejected, with these columns of `metadata` (None: all).

    Raises:
        DatasetError: the file cannot be read.
    """
    path = store.metadata(video_id)
    try:
        return read_metadata(path, columns)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"It is no parquet file: {error}",
            where=str(path),
            remedy="Materialise metadata of this video again",
        ) from error


def _left_out(store: CorpusStore, video_ids: Sequence[str]) -> dict[str, str]:
    """Of the videos whose metadata can be read, the clips that the fan-in leaves out; the survey
    names the other videos."""
    readable = []
    for video_id in video_ids:
        with suppress(DatasetError):
            read_clips(store, video_id, ["clip_id"])
            readable.append(video_id)
    return joined(store, readable, ["clip_id"])[1]


def read_sides(store: CorpusStore, video_id: str) -> dict[str, str]:
    """`train` or `val` for each clip of a video's split."""
    table = pq.read_table(store.split(video_id), columns=["clip_id", "split"])
    return dict(zip(table["clip_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def _recording_s(store: CorpusStore, video_id: str) -> float | None:
    path = store.raw_provenance(video_id)
    return float(read_json(path)["duration_s"]) if path.is_file() else None

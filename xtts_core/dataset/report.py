"""The dataset as one HTML page that a person looks at and listens to.

Every clip counts in its totals, tables and histograms, whether accepted or rejected; a sample of
the clips is embedded with its audio. The page asks for nothing outside itself, equal inputs give
equal bytes, and what stands in a text stays text: Jinja escapes it, and the page's Content Security
Policy runs its own script alone.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.dataset.fan_in import joined
from xtts_core.dataset.metadata import METADATA_SCHEMA, read_metadata
from xtts_core.dataset.trainability import REASONS
from xtts_core.errors import DatasetError
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.stage import Progress, silent, usable
from xtts_core.store import CorpusStore, read_json, write_text

Floats = npt.NDArray[np.floating[Any]]

MAX_SAMPLES = 60
"""Ten seconds of audio take 80 kB of the page, so this many clips take 5 MB."""

MAX_PLAYED_S = 15.0
"""Of a longer clip the start is embedded. XTTS trains on 11.61 s at most."""

_MP3_COMPRESSION = 0.74
"""48 kbit/s: libsndfile counts from 160 kbit/s (0.0) down to 8 (1.0) below 32 kHz (mpeg_l3_encode.c
of libsndfile 1.2.2) and LAME takes the nearest rate there is."""

_BINS = 30
_TAIL = 0.005
"""The share of values on each side that lies in a histogram's end bins and does not stretch it."""

_PLOT_WIDTH, _PLOT_HEIGHT = 320.0, 96.0
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


@dataclass(frozen=True)
class ReportSummary:
    """What the page is about: all clips, those accepted, those in the dataset, and its size in
    bytes."""

    clips: int
    accepted: int
    in_dataset: int
    bytes: int


def report_path(store: CorpusStore) -> Path:
    """Where the report of a corpus lies unless it is asked for elsewhere."""
    return store.root / "reports" / "dataset.html"


def is_current(store: CorpusStore, path: Path) -> bool:
    """Whether no metadata were written since the report."""
    if not path.is_file():
        return False
    written = path.stat().st_mtime_ns
    return all(
        file.stat().st_mtime_ns <= written
        for file in store.metadata("any").parent.glob("[!.]*.parquet")
    )


def write_report(
    store: CorpusStore,
    path: Path,
    *,
    samples: int = 40,
    seed: int = 0,
    listed: Collection[str] | None = None,
    left_out: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> ReportSummary:
    """Write the report of every video that has metadata.

    A metadata file or a clip that cannot be read is named on the page.

    Args:
        samples: how many clips can be heard, at most `MAX_SAMPLES`. Half are rejected ones, and
            each reason has one as far as `samples` reach.
        seed: which ones: another seed draws others.
        listed: the ids in videos.csv (None: every video that has metadata).
        left_out: the clips that the fan-in leaves out, with the reasons (None: they are found).
        progress: told of videos.
    Raises:
        DatasetError: there is no clip, or `samples` is out of range.
    """
    if not 0 <= samples <= MAX_SAMPLES:
        raise DatasetError(
            f"{samples} clips cannot be embedded in one page",
            where="samples",
            remedy=f"Ask for 0 to {MAX_SAMPLES}",
        )
    survey = _survey(store, samples, seed, listed, left_out, progress)
    if not survey.total.clips:
        raise DatasetError(
            "No video has a clip to report on" + "".join(f"; {n}" for n in survey.notes()),
            where=str(store.metadata("*")),
            remedy="Prepare the videos first (xtts run)",
        )
    page = _template().render(
        total=survey.total,
        tables={
            "Speakers": survey.speakers,
            "Text sources": survey.sources,
        },
        videos=survey.videos,
        remarks=survey.remarks,
        notes=survey.notes(),
        reasons=sorted(survey.reasons.items(), key=lambda item: (-item[1].clips, item[0])),
        meanings=REASONS,
        histograms=[
            histogram(measure, np.concatenate(values), np.concatenate(survey.accepted))
            for measure, values in survey.values.items()
            if any(np.isfinite(part).any() for part in values)
        ],
        samples=list(_samples(store, survey)),
        measures=MEASURES,
    )
    write_text(path, page)
    total = survey.total
    return ReportSummary(total.clips, total.accepted, total.train + total.val, path.stat().st_size)


# --- every clip -------------------------------------------------------------------------------


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
        sides = _sides(store, video_id) if video_id not in self.remarks else {}
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


def _survey(
    store: CorpusStore,
    samples: int,
    seed: int,
    listed: Collection[str] | None,
    left_out: Mapping[str, str] | None,
    progress: Progress,
) -> Survey:
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
            clips = _read(store, video_id, _SURVEYED)
        except DatasetError as error:
            survey.unreadable.append(f"{video_id} ({error.what})")
        else:
            survey.add(store, video_id, clips)
        progress(done, len(videos), "videos")
    lengths = [video.raw_s for video in survey.videos.values()]
    known = [length for length in lengths if length is not None]
    survey.total.raw_s = sum(known) if len(known) == len(lengths) else None
    return survey


def _read(store: CorpusStore, video_id: str, columns: Sequence[str] | None = None) -> pa.Table:
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
            _read(store, video_id, ["clip_id"])
            readable.append(video_id)
    return joined(store, readable, ["clip_id"])[1]


def _sides(store: CorpusStore, video_id: str) -> dict[str, str]:
    table = pq.read_table(store.split(video_id), columns=["clip_id", "split"])
    return dict(zip(table["clip_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def _recording_s(store: CorpusStore, video_id: str) -> float | None:
    path = store.raw_provenance(video_id)
    return float(read_json(path)["duration_s"]) if path.is_file() else None


# --- histograms -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One bin, in units of the plot: rejected clips stand on the accepted ones."""

    x: float
    width: float
    accepted: float
    rejected: float
    told: str


@dataclass(frozen=True)
class Histogram:
    measure: Measure
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    highest: int
    median: str
    most: tuple[str, str]
    without: int
    width: float = _PLOT_WIDTH
    height: float = _PLOT_HEIGHT


def histogram(measure: Measure, values: Floats, accepted: npt.NDArray[np.bool_]) -> Histogram:
    """The accepted and the rejected clips by a measure.

    Args:
        values: of every clip; those that are not finite are counted as `without` alone.
        accepted: of every clip.
    """
    has = np.isfinite(values)
    values, accepted = values[has].astype(np.float64), accepted[has]
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    step = _round_step((high - low) / _BINS)
    first, last = floor(low / step), max(ceil(high / step), floor(low / step) + 1)
    edges = np.arange(first, last + 1) * step
    inside = np.clip(values, edges[0], edges[-1])
    kept, _ = np.histogram(inside[accepted], edges)
    dropped, _ = np.histogram(inside[~accepted], edges)
    highest = int((kept + dropped).max())
    width = _PLOT_WIDTH / len(kept)
    bars = tuple(
        Bar(
            x=round(at * width, 2),
            width=round(width * 0.9, 2),
            accepted=round(yes / highest * _PLOT_HEIGHT, 2),
            rejected=round(no / highest * _PLOT_HEIGHT, 2),
            told=f"{_span(at, edges, values)} {measure.unit}: {yes:,} accepted, {no:,} rejected",
        )
        for at, (yes, no) in enumerate(zip(kept.tolist(), dropped.tolist(), strict=True))
    )
    tick = _round_step((edges[-1] - edges[0]) / 5)
    marks = np.arange(ceil(edges[0] / tick - 1e-9), floor(edges[-1] / tick + 1e-9) + 1) * tick
    scale = _PLOT_WIDTH / (edges[-1] - edges[0])
    middle, fifth, ninety_fifth = np.quantile(values, [0.5, 0.05, 0.95])
    return Histogram(
        measure=measure,
        bars=bars,
        ticks=tuple((round((mark - edges[0]) * scale, 2), f"{mark:,.10g}") for mark in marks),
        highest=highest,
        median=measure.shown(middle),
        most=(measure.shown(fifth), measure.shown(ninety_fifth)),
        without=int((~has).sum()),
    )


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10 … times a power of ten; 1 for values that are all the same."""
    if least <= 0:
        return 1.0
    power = 10.0 ** floor(log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)


def _span(at: int, edges: Floats, values: Floats) -> str:
    """The bin's bounds; an end bin also holds what lies beyond."""
    low, high = (f"{edge:,.10g}" for edge in edges[at : at + 2])
    if at == 0 and values.min() < edges[0]:
        return f"below {high}"
    if at == len(edges) - 2 and values.max() > edges[-1]:
        return f"{low} and more"
    return f"{low} to {high}"


# --- clips to listen to -----------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A clip with its audio as a `data:` URI, or with why it cannot be heard. `begins_s` is the
    place in its recording."""

    clip: Mapping[str, Any]
    side: str
    begins_s: float
    audio: str
    problem: str
    values: Mapping[str, float]


def _samples(store: CorpusStore, survey: Survey) -> Iterator[Sample]:
    by_count = sorted(survey.reasons, key=lambda name: (-survey.reasons[name].clips, name))
    for video_id, chosen in survey.draw.chosen(by_count).items():
        clips = _read(store, video_id)
        sides = _sides(store, video_id) if video_id not in survey.remarks else {}
        for clip in clips.to_pylist():
            clip_id = clip["clip_id"]
            if clip_id not in chosen:
                continue
            audio, problem = _heard(store.root / clip["path"], clip["path"])
            yield Sample(
                clip=clip,
                side=survey.left_out.get(clip_id) or sides.get(clip_id, ""),
                begins_s=clip["start_sample"] / SAMPLE_RATE_HZ,
                audio=audio,
                problem=problem,
                values={
                    measure.column: clip[measure.column]
                    for measure in MEASURES
                    if clip[measure.column] is not None and np.isfinite(clip[measure.column])
                },
            )


def _heard(wav: Path, name: str) -> tuple[str, str]:
    """The clip as MP3 in a `data:` URI, and what is wrong or cut about it."""
    import soundfile

    if not wav.is_file():
        return "", f"the file is missing: {name}"
    try:
        with soundfile.SoundFile(wav) as file:
            rate = file.samplerate
            audio = file.read(int(MAX_PLAYED_S * rate), dtype="float32")
            cut = file.frames > len(audio)
    except soundfile.LibsndfileError as error:
        return "", f"the file cannot be read: {name} ({error})"
    if not len(audio):
        return "", f"the file has no audio: {name}"
    mp3 = io.BytesIO()
    soundfile.write(
        mp3,
        audio,
        rate,
        format="MP3",
        bitrate_mode="CONSTANT",
        compression_level=_MP3_COMPRESSION,
    )
    content = base64.b64encode(mp3.getbuffer()).decode()
    return f"data:audio/mpeg;base64,{content}", (
        f"only the first {MAX_PLAYED_S:g} s are on this page" if cut else ""
    )


# --- the page ---------------------------------------------------------------------------------


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        length_of=_length,
        share=_share,
        clock=_clock,
        count="{:,}".format,
        csp_hash=_csp_hash,
        pair=lambda value: (value, value),
    )
    source = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _length(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds >= 3_600:
        return f"{seconds / 3_600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def _share(part: float, whole: float | None) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _csp_hash(content: str) -> str:
    """What a Content Security Policy names an inline script or style by (W3C CSP 3, §2.3.1)."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

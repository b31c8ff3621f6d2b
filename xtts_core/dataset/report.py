"""The dataset as one HTML page that a person looks at and listens to.

Every clip counts in its totals, tables and histograms, whether accepted or rejected; a sample of
the clips is embedded with its audio. The page asks for nothing outside itself, equal inputs give
equal bytes, and what stands in a text stays text: Jinja escapes it, and the page's Content Security
Policy runs its own script alone.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from xtts_core.dataset.survey import (
    MEASURES,
    Floats,
    Measure,
    Survey,
    read_clips,
    read_sides,
    survey_dataset,
)
from xtts_core.dataset.trainability import REASONS
from xtts_core.errors import DatasetError
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.stage import Progress, silent
from xtts_core.store import CorpusStore, write_text

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
    survey = survey_dataset(
        store, samples, seed, listed=listed, left_out=left_out, progress=progress
    )
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
        clips = read_clips(store, video_id)
        sides = read_sides(store, video_id) if video_id not in survey.remarks else {}
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

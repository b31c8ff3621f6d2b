"""The asset `segments`: the clips of one video and the table that describes them."""

from __future__ import annotations

import hashlib
import io
import shutil
import wave
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.corpus.levels import CLIPPED, FULL_SCALE, peak_dbfs, power_dbfs
from xtts_core.corpus.loudness import (
    apply_gain,
    clip_loudness_lufs,
    settings_in_use,
    true_peak_dbtp,
    voice_gain_db,
)
from xtts_core.corpus.measures import (
    bandwidth_hz,
    music_ratio,
    power_spectrum,
    reverberation_s,
    snr_db,
)
from xtts_core.corpus.pictures import recording_picture
from xtts_core.corpus.segmentation import Segment, longest_clip, longest_speech, segment
from xtts_core.corpus.speakers import EMBEDDING_SIZE, measure_speakers, outlier_share
from xtts_core.corpus.vad import (
    Envelope,
    Region,
    measure,
    speech_under_floor,
    voice_regions,
)
from xtts_core.corpus.videos import primary_language
from xtts_core.errors import TranscriptionError
from xtts_core.settings import (
    SAMPLE_RATE_HZ,
    DatasetSettings,
    LoudnessSettings,
    SegmentationSettings,
    VadSettings,
)
from xtts_core.stage import (
    CheckSpec,
    Markdown,
    MetadataValue,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    require,
    run_stage,
    silent,
)
from xtts_core.store import (
    CorpusStore,
    atomic_dir,
    atomic_file,
    read_json,
    sha256_json,
)
from xtts_core.transcription.subtitles import read_cues

MIN_SPEECH_RATIO = 0.6
"""Clips of a reading voice are speech for 70 to 90 % of their length; a mean far below that
means that long pauses or noise were joined."""
MAX_UNDER_FLOOR = 0.1
"""More speech under `vad.floor_dbfs` than this means that the recording is faint, not that
somebody far away speaks in between."""
HOLE_REACH_S = 0.3
"""A word that a hole breaks ends a clip like any other: the longer margin of a clip, and some."""
MAX_FORCED_SHARE = 0.2
"""More forced cuts than this mean music or a noise that hides the pauses."""
MAX_OFF_TARGET_DB = 6.0
"""Clean speech peaks 20 to 25 dB over its RMS, so that the peak limit holds it down by up to 6 dB
(4 and 5.7 dB on the samples); more comes from a bang or a click inside a clip, and the whole video
is fainter than the others for it."""
MAX_OUTLIER_SHARE = 0.2
"""More clips by another voice than this mean that the row's speaker is not who mostly speaks."""
HISTOGRAM_STEP_S = 2
CLIPS_AT_ONCE = 2
"""Resampling, the spectra, hashes and the disk leave the interpreter's lock to another clip."""

SEGMENTS = Stage(
    "segments",
    "3",
    (
        CheckSpec("has_segments", "error", "at least one clip was found"),
        CheckSpec(
            "segment_window",
            "error",
            "each clip's file is as long as its row says, within the settings' window",
        ),
        CheckSpec(
            "overlap",
            "error",
            "clips overlap only where a cut was forced, by segmentation.forced_overlap_s",
        ),
        CheckSpec("speech_ratio", "warn", "the clips are mostly speech"),
        CheckSpec("speech_over_floor", "warn", "little speech is fainter than vad.floor_dbfs"),
        CheckSpec("forced_cut_share", "warn", "nearly every clip is cut in pauses"),
        CheckSpec("loudness", "warn", "the speech of the clips is near the loudness target"),
        CheckSpec("declared_speaker", "warn", "nearly every clip is by the voice of most"),
    ),
)

MEASURE_COLUMNS = (
    "rms_dbfs",
    "peak_dbfs",
    "true_peak_dbtp",
    "loudness_lufs",
    "clipping_ratio",
    "filled_s",
    "snr_db",
    "speech_ratio",
    "bandwidth_hz",
    "reverberation_s",
    "music_ratio",
    "halves_similarity",
    "change_similarity",
    "speaker_similarity",
)
"""The measures of a clip, which `metadata` carries on and judges."""

SEGMENTS_SCHEMA = pa.schema(
    [
        ("segment_id", pa.string()),
        ("path", pa.string()),
        ("start_sample", pa.int64()),
        ("end_sample", pa.int64()),
        ("duration_s", pa.float64()),
        ("cut", pa.string()),
        ("overlap_s", pa.float64()),
        *((name, pa.float64()) for name in MEASURE_COLUMNS),
        ("speaker_embedding", pa.list_(pa.float32(), EMBEDDING_SIZE)),
        ("sha256", pa.string()),
    ],
    metadata={"xtts_schema_version": "3"},
)
"""`path` is relative to the corpus root. `start_sample` and `end_sample` are samples of the
22 050 Hz file of the video. The levels are the clip's after the gain; `clipping_ratio` and what
`measures` tells are of the recording before it. `overlap_s` is what a clip shares with its
neighbours, where cuts were forced. `filled_s` is the silence in and up to 0.3 s around it that
stands for what is missing in the recording. A measure is null where it cannot be had, and those of
`speakers` are where `speakers.engine` is off. Short utterances that `segmentation.short_share` has
no room for have no row; the metadata of the asset counts them (`short_dropped`, and their seconds
in `short_dropped_s`)."""

_MEASURES = {
    "snr_db": 2,
    "loudness_lufs": 2,
    "true_peak_dbtp": 2,
    "bandwidth_hz": 0,
    "reverberation_s": 3,
    "music_ratio": 3,
    "halves_similarity": 3,
    "change_similarity": 3,
    "speaker_similarity": 3,
}
"""What is summed up for a video, and the decimals that mean something."""


def make_segments(
    store: CorpusStore, settings: DatasetSettings, video_id: str, progress: Progress = silent
) -> StageResult:
    """Find the speech of one video, cut it into clips and measure them.

    Where manual subtitles came along, the ends of their cues are hints for cuts. The clips of an
    earlier version are removed once the new table is in place.

    Raises:
        UpstreamError: raw_audio is missing or failed a blocking check.
        ModelError: the speaker encoder's weights are not installed.
    """
    raw = require(store, "raw_audio", video_id)
    provenance = read_json(store.raw_provenance(video_id))
    cue_ends = (
        _cue_ends(store, video_id, provenance) if provenance.get("subtitles_in_step", True) else []
    )
    holes_s = provenance["audio"].get("holes", [])

    def build(fingerprint: str) -> Outcome:
        wav = store.raw_audio(video_id)
        envelope = measure(wav, settings.vad, progress)
        under_floor = speech_under_floor(envelope, settings.vad)
        regions = voice_regions(envelope, settings.vad, longest_speech(settings.segmentation))
        clips, dropped = segment(regions, envelope, settings.segmentation, cue_ends)
        speech = _speech_frames(envelope, regions)
        gain_db = voice_gain_db(wav, envelope, speech, clips, settings.loudness)
        folder = store.segments_dir(video_id, fingerprint)
        # A folder of this fingerprint that no table points to is left from a killed run.
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_dir(folder) as aside:
            fade_s = settings.segmentation.fade_s
            rows = _write_clips(wav, aside, video_id, clips, envelope, speech, gain_db, fade_s)
            started = monotonic()
            files = [aside / f"{row['segment_id']}.wav" for row in rows]
            voices = measure_speakers(_samples_of(files), settings.speakers, progress)
            speaker_pass_s = monotonic() - started
        for row, voice, shared in zip(rows, voices, _overlaps(clips), strict=True):
            row["path"] = store.relative(folder / f"{row['segment_id']}.wav")
            row["filled_s"] = _filled_s(row, holes_s)
            row["overlap_s"] = round(shared / SAMPLE_RATE_HZ, 6)
            row["halves_similarity"] = voice.halves_similarity
            row["change_similarity"] = voice.change_similarity
            row["speaker_similarity"] = voice.speaker_similarity
            row["speaker_embedding"] = voice.embedding
        table = store.segments_table(video_id)
        with atomic_file(table) as aside:
            pq.write_table(pa.Table.from_pylist(rows, schema=SEGMENTS_SCHEMA), aside)
        for old in folder.parent.iterdir():
            if old != folder:
                shutil.rmtree(old)
        named = [name for name in SEGMENTS_SCHEMA.names if name != "speaker_embedding"]
        rows = pq.read_table(table, columns=named).to_pylist()
        return Outcome(
            uri=table,
            outputs=[table, *(store.root / row["path"] for row in rows)],
            verdicts=verdicts(
                rows,
                _samples_on_disk(store, rows),
                settings,
                under_floor=under_floor,
            ),
            metadata={
                **summary(rows, envelope.n_samples, gain_db, dropped),
                "cue_ends": len(cue_ends),
                "speaker_pass_s": round(speaker_pass_s, 3),
                "picture": recording_picture(wav, [(clip.start, clip.end) for clip in clips]),
            },
            row_count=len(rows),
        )

    return run_stage(
        store,
        SEGMENTS,
        video_id,
        inputs={
            "vad": _vad_in_use(settings.vad),
            "segmentation": settings.segmentation.model_dump(mode="json"),
            "loudness": settings_in_use(settings.loudness),
            "speakers": settings.speakers.engine,
            "wav": raw.sha256[store.raw_audio(video_id)],
            "cue_ends": sha256_json(cue_ends),
            "holes_s": holes_s,
        },
        built_on=(raw,),
        build=build,
    )


def verdicts(
    rows: Sequence[Mapping[str, Any]],
    samples_on_disk: Sequence[int],
    settings: DatasetSettings,
    *,
    under_floor: float = 0.0,
) -> list[Verdict]:
    """The checks of `segments` on its rows, the length of each row's file, and the share of the
    speech that is fainter than the floor."""
    outside = _outside_the_window(rows, samples_on_disk, settings.segmentation)
    overlapping = _wrongly_overlapping(rows, settings.segmentation)
    ratio = float(np.mean([row["speech_ratio"] for row in rows])) if rows else 0.0
    forced = sum(row["cut"] == "forced" for row in rows) / len(rows) if rows else 0.0
    others = outlier_share([row["speaker_similarity"] for row in rows])
    return [
        SEGMENTS.verdict("has_segments", len(rows) > 0, value=len(rows), threshold=1),
        SEGMENTS.at_most(
            "segment_window", len(outside), 0, f"the length is wrong: {', '.join(outside[:5])}"
        ),
        SEGMENTS.at_most(
            "overlap", len(overlapping), 0, f"the overlap is wrong: {', '.join(overlapping[:5])}"
        ),
        SEGMENTS.verdict(
            "speech_ratio",
            ratio >= MIN_SPEECH_RATIO,
            value=round(ratio, 4),
            threshold=MIN_SPEECH_RATIO,
        ),
        SEGMENTS.at_most(
            "speech_over_floor",
            under_floor,
            MAX_UNDER_FLOOR,
            f"{under_floor:.0%} of the speech is left out as too faint: lower vad.floor_dbfs "
            f"({settings.vad.floor_dbfs:g})",
        ),
        SEGMENTS.at_most("forced_cut_share", forced, MAX_FORCED_SHARE),
        _loudness_verdict(rows, settings.loudness),
        SEGMENTS.verdict(
            "declared_speaker",
            others is None or others <= MAX_OUTLIER_SHARE,
            value=None if others is None else round(others, 4),
            threshold=MAX_OUTLIER_SHARE,
        ),
    ]


def summary(
    rows: Sequence[Mapping[str, Any]],
    n_samples: int,
    gain_db: float,
    short_dropped: Sequence[Segment],
) -> dict[str, MetadataValue]:
    """What Dagster plots and shows for one video (`yield` is seconds kept / seconds in)."""
    durations = [row["duration_s"] for row in rows]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in _MEASURES}
    medians: dict[str, MetadataValue] = {
        f"median_{name}": round(float(np.median(values)), _MEASURES[name])
        for name, values in known.items()
        if values
    }
    return {
        "segments": len(rows),
        "forced_cuts": sum(row["cut"] == "forced" for row in rows),
        "segments_duration_s": round(sum(durations), 3),
        "mean_duration_s": round(float(np.mean(durations)), 3) if rows else 0.0,
        "yield": round(sum(durations) * SAMPLE_RATE_HZ / n_samples, 4) if n_samples else 0.0,
        "gain_db": round(gain_db, 3),
        "short_dropped": len(short_dropped),
        "short_dropped_s": round(sum(clip.samples for clip in short_dropped) / SAMPLE_RATE_HZ, 3),
        **medians,
        "durations": Markdown(_histogram(durations)),
        "measures": Markdown(_spread(known)),
    }


def _write_clips(
    wav: Path,
    folder: Path,
    video_id: str,
    clips: Sequence[Segment],
    envelope: Envelope,
    speech: npt.NDArray[np.bool_],
    gain_db: float,
    fade_s: float,
) -> list[dict[str, Any]]:
    """Write each clip and give its row, without what is told of several clips together."""

    def written(numbered: tuple[int, Segment]) -> dict[str, Any]:
        number, clip = numbered
        segment_id = f"{video_id}_{number:05d}"
        row = _write_clip(wav, folder / f"{segment_id}.wav", clip, gain_db, fade_s)
        inside = envelope.frames(clip.start, clip.end)
        return {
            "segment_id": segment_id,
            **row,
            "snr_db": round(snr_db(envelope, speech, clip), 2),
            "speech_ratio": round(float(np.mean(speech[inside])), 4),
        }

    with ThreadPoolExecutor(CLIPS_AT_ONCE, "clips") as threads:
        return list(threads.map(written, enumerate(clips, 1)))


def _write_clip(
    wav: Path, target: Path, clip: Segment, gain_db: float, fade_s: float
) -> dict[str, Any]:
    import soundfile as sf

    samples = sf.read(wav, clip.samples, clip.start, dtype="int16")[0]
    sound = apply_gain(samples, gain_db)
    _fade(sound, clip, fade_s)
    content = _wav(sound)
    target.write_bytes(content)
    return {
        "start_sample": clip.start,
        "end_sample": clip.end,
        "duration_s": round(clip.samples / SAMPLE_RATE_HZ, 6),
        "cut": clip.cut,
        **_levels(sound),
        **_recording(samples),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _levels(sound: npt.NDArray[np.int16]) -> dict[str, float]:
    """What is told of a clip as it is written."""
    wide = sound.astype(np.float32)
    mean_square = float(np.einsum("i,i", wide, wide)) / len(sound) / FULL_SCALE**2
    return {
        "rms_dbfs": round(power_dbfs(mean_square), 3),
        "peak_dbfs": round(peak_dbfs(max(int(sound.max()), -int(sound.min()))), 3),
        "true_peak_dbtp": round(true_peak_dbtp(sound), 3),
        "loudness_lufs": round(clip_loudness_lufs(sound), 3),
    }


def _recording(samples: npt.NDArray[np.int16]) -> dict[str, float | None]:
    """What is told of a clip as it was recorded."""
    clipped = int(np.count_nonzero((samples >= CLIPPED) | (samples <= -CLIPPED)))
    spectrum = power_spectrum(samples)
    return {
        "clipping_ratio": clipped / len(samples),
        "bandwidth_hz": _rounded(bandwidth_hz(spectrum), 1),
        "reverberation_s": _rounded(reverberation_s(samples), 3),
        "music_ratio": _rounded(music_ratio(spectrum), 4),
    }


def _filled_s(row: Mapping[str, Any], holes_s: Sequence[Sequence[float]]) -> float:
    """How much of the clip, and of what lies so near that a word may reach over, is a hole."""
    start_s = row["start_sample"] / SAMPLE_RATE_HZ - HOLE_REACH_S
    end_s = row["end_sample"] / SAMPLE_RATE_HZ + HOLE_REACH_S
    inside = [min(last, end_s) - max(first, start_s) for first, last in holes_s]
    return round(sum((length for length in inside if length > 0), 0.0), 3)


def _cue_ends(store: CorpusStore, video_id: str, provenance: Mapping[str, Any]) -> list[int]:
    """Where the cues of the video's manual subtitles end, in samples: of those in the language of
    its row, else of any, since a translation keeps the sentences."""
    language = read_json(store.video(video_id))["row"]["language"].lower()
    listed = provenance["subtitles"]

    def unlikeness(entry: Mapping[str, str]) -> tuple[bool, bool, str]:
        tag = entry["language"].lower()
        return primary_language(tag) != primary_language(language), tag != language, tag

    manual = sorted((entry for entry in listed if entry["kind"] == "manual"), key=unlikeness)
    if not manual:
        return []
    try:
        cues = read_cues(store.root / manual[0]["path"])
    except TranscriptionError:
        # A check of `transcripts` names the file; without hints the pauses alone decide.
        return []
    return sorted({round(cue.end_s * SAMPLE_RATE_HZ) for cue in cues})


def _vad_in_use(settings: VadSettings) -> dict[str, Any]:
    """The settings that the speech found depends on, which those of the other engine are not."""
    of_the_other = {"silero": "aggressiveness", "webrtc": "threshold"}[settings.engine]
    return settings.model_dump(mode="json", exclude={"chunk_s", of_the_other})


def _samples_of(files: Sequence[Path]) -> Iterator[npt.NDArray[np.int16]]:
    import soundfile as sf

    for file in files:
        yield sf.read(file, dtype="int16")[0]


def _overlaps(clips: Sequence[Segment]) -> list[int]:
    """The samples that each clip shares with its neighbours."""
    shared = [0] * len(clips)
    for index, (before, after) in enumerate(pairwise(clips)):
        both = max(0, before.end - after.start)
        shared[index] += both
        shared[index + 1] += both
    return shared


def _outside_the_window(
    rows: Sequence[Mapping[str, Any]],
    samples_on_disk: Sequence[int],
    settings: SegmentationSettings,
) -> list[str]:
    longest = longest_clip(settings)
    shortest = round(settings.short_min_s * SAMPLE_RATE_HZ)
    return [
        row["segment_id"]
        for row, samples in zip(rows, samples_on_disk, strict=True)
        if not shortest <= samples <= longest or samples != row["end_sample"] - row["start_sample"]
    ]


def _wrongly_overlapping(
    rows: Sequence[Mapping[str, Any]], settings: SegmentationSettings
) -> list[str]:
    """The clips that share anything with the one before but what a forced cut gives to both."""
    allowed = round(settings.forced_overlap_s * SAMPLE_RATE_HZ)
    return [
        after["segment_id"]
        for before, after in pairwise(rows)
        if (shared := before["end_sample"] - after["start_sample"]) > 0
        and not (before["cut"] == after["cut"] == "forced" and shared == allowed)
    ]


def _loudness_verdict(rows: Sequence[Mapping[str, Any]], settings: LoudnessSettings) -> Verdict:
    if settings.method == "off" or not rows:
        return SEGMENTS.verdict("loudness", True)
    seconds = np.array([row["duration_s"] for row in rows])
    if settings.method == "loudnorm":
        target = settings.loudnorm_lufs
        levels = np.array([row["loudness_lufs"] for row in rows])
        heard = seconds
    else:
        target = settings.rms_dbfs
        levels = np.array([row["rms_dbfs"] for row in rows])
        heard = seconds * [row["speech_ratio"] for row in rows]
    level = power_dbfs(float(10 ** (levels / 10) @ seconds / heard.sum()))
    passed = abs(level - target) <= MAX_OFF_TARGET_DB
    return SEGMENTS.verdict(
        "loudness",
        passed,
        value=round(level, 2),
        threshold=target,
        detail=""
        if passed
        else f"the speech is {abs(level - target):.1f} dB off the target: a loud sound in a clip "
        "would pass loudness.peak_limit_dbfs",
    )


def _samples_on_disk(store: CorpusStore, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    import soundfile as sf

    return [sf.info(store.root / row["path"]).frames for row in rows]


def _speech_frames(envelope: Envelope, regions: Sequence[Region]) -> npt.NDArray[np.bool_]:
    speech = np.zeros(len(envelope.level_dbfs), np.bool_)
    for region in regions:
        speech[envelope.frames(region.start, region.end)] = True
    return speech


def _fade(sound: npt.NDArray[np.int16], clip: Segment, fade_s: float) -> None:
    """Raised-cosine fades, in place, no longer than the margin they lie in."""
    longest = round(fade_s * SAMPLE_RATE_HZ)
    head = min(longest, clip.speech_start - clip.start)
    tail = min(longest, clip.end - clip.speech_end)
    if head:
        sound[:head] = np.rint(sound[:head] * _ramp(head))
    if tail:
        sound[-tail:] = np.rint(sound[-tail:] * _ramp(tail)[::-1])


def _ramp(samples: int) -> npt.NDArray[np.float64]:
    ramp: npt.NDArray[np.float64] = 0.5 - 0.5 * np.cos(np.pi * np.arange(samples) / samples)
    return ramp


def _wav(sound: npt.NDArray[np.int16]) -> bytes:
    """In memory, so that the content is hashed without being read again."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, len(sound), "NONE", ""))
        file.writeframesraw(sound.astype("<i2", copy=False).tobytes())
    return content.getvalue()


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(value, decimals)


def _histogram(durations: Sequence[float]) -> str:
    lines = ["| duration | clips | |", "|---|---|---|"]
    bins = [int(duration // HISTOGRAM_STEP_S) for duration in durations]
    for low in range(min(bins), max(bins) + 1) if bins else ():
        count = bins.count(low)
        bar = "█" * round(20 * count / max(bins.count(b) for b in bins))
        edge = low * HISTOGRAM_STEP_S
        lines.append(f"| {edge} to {edge + HISTOGRAM_STEP_S} s | {count} | {bar} |")
    return "\n".join(lines)


def _spread(known: Mapping[str, Sequence[float]]) -> str:
    lines = ["| measure | clips | 10 % below | median | 90 % below |", "|---|---|---|---|---|"]
    for name, values in known.items():
        if values:
            tenth, half, most = np.percentile(values, (10, 50, 90))
            figures = " | ".join(f"{value:.{_MEASURES[name]}f}" for value in (tenth, half, most))
            lines.append(f"| {name} | {len(values)} | {figures} |")
    return "\n".join(lines)

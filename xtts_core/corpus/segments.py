"""The asset `segments`: the clips of one video and the table that describes them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.corpus.levels import CLIPPED, FULL_SCALE, peak_dbfs, power_dbfs
from xtts_core.corpus.loudness import apply_gain, settings_in_use, voice_gain_db
from xtts_core.corpus.segmentation import Segment, longest_clip, longest_speech, segment
from xtts_core.corpus.vad import Envelope, Region, measure, voice_regions
from xtts_core.settings import SAMPLE_RATE_HZ, DatasetSettings, SegmentationSettings
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
from xtts_core.store import CorpusStore, atomic_dir, atomic_file, sha256_file

MIN_SPEECH_RATIO = 0.6
"""Clips of a reading voice are speech for 70 to 90 % of their length; a mean far below that
means that long pauses or noise were joined."""
MAX_FORCED_SHARE = 0.2
"""More forced cuts than this mean music or a noise that hides the pauses."""
NOISE_PERCENTILE = 10
NOISE_REACH_S = 1.0
MAX_SNR_DB = 100.0
"""What digital silence between the words is reported as."""
HISTOGRAM_STEP_S = 2

SEGMENTS = Stage(
    "segments",
    "1",
    (
        CheckSpec("has_segments", "error", "at least one clip was found"),
        CheckSpec(
            "segment_window",
            "error",
            "each clip's file is as long as its row says, within the settings' window",
        ),
        CheckSpec("speech_ratio", "warn", "the clips are mostly speech"),
        CheckSpec("forced_cut_share", "warn", "nearly every clip is cut in pauses"),
    ),
)

SEGMENTS_SCHEMA = pa.schema(
    [
        ("segment_id", pa.string()),
        ("path", pa.string()),
        ("start_sample", pa.int64()),
        ("end_sample", pa.int64()),
        ("duration_s", pa.float64()),
        ("cut", pa.string()),
        ("rms_dbfs", pa.float64()),
        ("peak_dbfs", pa.float64()),
        ("clipping_ratio", pa.float64()),
        ("snr_db", pa.float64()),
        ("speech_ratio", pa.float64()),
        ("sha256", pa.string()),
    ],
    metadata={"xtts_schema_version": "1"},
)
"""`path` is relative to the corpus root. `start_sample` and `end_sample` are samples of the
22 050 Hz file of the video. The levels are the clip's after the gain; `clipping_ratio` is of the
recording before it. Short utterances that `segmentation.short_share` has no room for have no row;
the metadata of the asset counts them (`short_dropped`, and their seconds in `short_dropped_s`)."""


def make_segments(
    store: CorpusStore, settings: DatasetSettings, video_id: str, progress: Progress = silent
) -> StageResult:
    """Find the speech of one video and cut it into clips.

    The clips of an earlier version are removed once the new table is in place.

    Raises:
        UpstreamError: raw_audio is missing or failed a blocking check.
    """
    raw = require(store, "raw_audio", video_id)

    def build(fingerprint: str) -> Outcome:
        wav = store.raw_audio(video_id)
        envelope = measure(wav, settings.vad, progress)
        regions = voice_regions(envelope, settings.vad, longest_speech(settings.segmentation))
        clips, dropped = segment(regions, envelope, settings.segmentation)
        speech = _speech_frames(envelope, regions)
        gain_db = voice_gain_db(wav, envelope, speech, clips, settings.loudness)
        folder = store.segments_dir(video_id, fingerprint)
        # A folder of this fingerprint that no table points to is left from a killed run.
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_dir(folder) as aside:
            rows = _write_clips(
                wav, aside, video_id, clips, envelope, speech, gain_db, settings.segmentation
            )
        for row in rows:
            row["path"] = store.relative(folder / f"{row['segment_id']}.wav")
        table = store.segments_table(video_id)
        with atomic_file(table) as aside:
            pq.write_table(pa.Table.from_pylist(rows, schema=SEGMENTS_SCHEMA), aside)
        for old in folder.parent.iterdir():
            if old != folder:
                shutil.rmtree(old)
        rows = pq.read_table(table).to_pylist()
        return Outcome(
            uri=table,
            outputs=[table, *(store.root / row["path"] for row in rows)],
            verdicts=verdicts(rows, _samples_on_disk(store, rows), settings.segmentation),
            metadata=summary(rows, envelope.n_samples, gain_db, dropped),
            row_count=len(rows),
        )

    return run_stage(
        store,
        SEGMENTS,
        video_id,
        inputs={
            "vad": settings.vad.model_dump(mode="json", exclude={"chunk_s"}),
            "segmentation": settings.segmentation.model_dump(mode="json"),
            "loudness": settings_in_use(settings.loudness),
            "wav": raw.sha256[store.raw_audio(video_id)],
        },
        built_on=(raw,),
        build=build,
    )


def verdicts(
    rows: Sequence[Mapping[str, Any]],
    samples_on_disk: Sequence[int],
    settings: SegmentationSettings,
) -> list[Verdict]:
    """The checks of `segments` on its rows and on the length of each row's file."""
    longest = longest_clip(settings)
    shortest = round(settings.short_min_s * SAMPLE_RATE_HZ)
    outside = [
        row["segment_id"]
        for row, samples in zip(rows, samples_on_disk, strict=True)
        if not shortest <= samples <= longest or samples != row["end_sample"] - row["start_sample"]
    ]
    ratio = float(np.mean([row["speech_ratio"] for row in rows])) if rows else 0.0
    forced = sum(row["cut"] == "forced" for row in rows) / len(rows) if rows else 0.0
    return [
        SEGMENTS.verdict("has_segments", len(rows) > 0, value=len(rows), threshold=1),
        SEGMENTS.verdict(
            "segment_window",
            not outside,
            value=len(outside),
            threshold=0,
            detail=f"the length is wrong: {', '.join(outside[:5])}" if outside else "",
        ),
        SEGMENTS.verdict(
            "speech_ratio",
            ratio >= MIN_SPEECH_RATIO,
            value=round(ratio, 4),
            threshold=MIN_SPEECH_RATIO,
        ),
        SEGMENTS.verdict(
            "forced_cut_share",
            forced <= MAX_FORCED_SHARE,
            value=round(forced, 4),
            threshold=MAX_FORCED_SHARE,
        ),
    ]


def summary(
    rows: Sequence[Mapping[str, Any]],
    n_samples: int,
    gain_db: float,
    short_dropped: Sequence[Segment],
) -> dict[str, int | float | str | Markdown]:
    """What Dagster plots and shows for one video (`yield` is seconds kept / seconds in)."""
    durations = [row["duration_s"] for row in rows]
    return {
        "segments": len(rows),
        "forced_cuts": sum(row["cut"] == "forced" for row in rows),
        "segments_duration_s": round(sum(durations), 3),
        "mean_duration_s": round(float(np.mean(durations)), 3) if rows else 0.0,
        "median_snr_db": round(float(np.median([row["snr_db"] for row in rows])), 2)
        if rows
        else 0.0,
        "yield": round(sum(durations) * SAMPLE_RATE_HZ / n_samples, 4) if n_samples else 0.0,
        "gain_db": round(gain_db, 3),
        "short_dropped": len(short_dropped),
        "short_dropped_s": round(sum(clip.samples for clip in short_dropped) / SAMPLE_RATE_HZ, 3),
        "durations": Markdown(_histogram(durations)),
    }


def snr_db(envelope: Envelope, speech: npt.NDArray[np.bool_], clip: Segment) -> float:
    """The power of the clip's speech over that of the background, in dB, 0 to 100.

    The background is the 10th percentile of the levels in the clip and a second around it, so
    one that comes and goes faster than that is not seen.
    """
    inside = envelope.frames(clip.start, clip.end)
    voice = envelope.level_dbfs[inside][speech[inside]].astype(np.float64)
    reach = round(NOISE_REACH_S * SAMPLE_RATE_HZ)
    around = envelope.frames(max(0, clip.start - reach), clip.end + reach)
    if len(voice) == 0:
        return 0.0
    noise = 10 ** (float(np.percentile(envelope.level_dbfs[around], NOISE_PERCENTILE)) / 10)
    clean = max(float(np.power(10.0, voice / 10).mean()) - noise, 0.0)
    return min(MAX_SNR_DB, max(0.0, power_dbfs(clean) - power_dbfs(noise)))


def _write_clips(
    wav: Path,
    folder: Path,
    video_id: str,
    clips: Sequence[Segment],
    envelope: Envelope,
    speech: npt.NDArray[np.bool_],
    gain_db: float,
    settings: SegmentationSettings,
) -> list[dict[str, Any]]:
    import soundfile as sf

    rows = []
    with sf.SoundFile(wav) as recording:
        for number, clip in enumerate(clips, 1):
            recording.seek(clip.start)
            samples = recording.read(clip.samples, dtype="int16")
            sound = apply_gain(samples, gain_db)
            _fade(sound, clip, settings.fade_s)
            segment_id = f"{video_id}_{number:05d}"
            file = folder / f"{segment_id}.wav"
            sf.write(file, sound, SAMPLE_RATE_HZ, subtype="PCM_16")
            inside = envelope.frames(clip.start, clip.end)
            wide = sound.astype(np.int32)
            rows.append(
                {
                    "segment_id": segment_id,
                    "start_sample": clip.start,
                    "end_sample": clip.end,
                    "duration_s": round(clip.samples / SAMPLE_RATE_HZ, 6),
                    "cut": clip.cut,
                    "rms_dbfs": round(power_dbfs(float(np.mean((sound / FULL_SCALE) ** 2))), 3),
                    "peak_dbfs": round(peak_dbfs(int(np.abs(wide).max())), 3),
                    "clipping_ratio": float(np.mean(np.abs(samples.astype(np.int32)) >= CLIPPED)),
                    "snr_db": round(snr_db(envelope, speech, clip), 2),
                    "speech_ratio": round(float(np.mean(speech[inside])), 4),
                    "sha256": sha256_file(file),
                }
            )
    return rows


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


def _histogram(durations: Sequence[float]) -> str:
    lines = ["| duration | clips | |", "|---|---|---|"]
    bins = [int(duration // HISTOGRAM_STEP_S) for duration in durations]
    for low in range(min(bins), max(bins) + 1) if bins else ():
        count = bins.count(low)
        bar = "█" * round(20 * count / max(bins.count(b) for b in bins))
        edge = low * HISTOGRAM_STEP_S
        lines.append(f"| {edge} to {edge + HISTOGRAM_STEP_S} s | {count} | {bar} |")
    return "\n".join(lines)

"""`ljspeech_dataset`: the accepted clips of every video in the LJSpeech layout.

`metadata.csv` holds `id|raw text|normalised text` (Ito & Johnson, The LJ Speech Dataset, 2017);
`metadata_train.csv` and `metadata_val.csv` hold the two sides; `wavs/` the clips, as hard links
where the file system allows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from xtts_core.dataset.split import accepted_clips, leaking_clips
from xtts_core.errors import DatasetError
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
    usable,
)
from xtts_core.store import WHOLE, CorpusStore, write_text

LJSPEECH_DATASET = Stage(
    "ljspeech_dataset",
    "1",
    (
        CheckSpec("files_present", "error", "every line of metadata.csv has its WAV"),
        CheckSpec("no_text_on_both_sides", "error", "no training text is also held out"),
        CheckSpec("every_video_included", "warn", "no video was refused"),
    ),
)


def make_ljspeech_dataset(
    store: CorpusStore, listed: Collection[str] | None = None, progress: Progress = silent
) -> StageResult:
    """Write the accepted clips of every video whose splits may be used.

    Args:
        listed: the ids in videos.csv (None: every video that was prepared).
    Raises:
        DatasetError: no video can be used.
    """
    splits, refused = usable(store, "train_val_splits", listed)
    metadata = {split.key: require(store, "metadata", split.key) for split in splits}
    if not splits:
        raise DatasetError(
            "No video has usable splits",
            where=str(store.root),
            remedy="Materialise prepare_video for at least one video; refused: "
            + ("; ".join(f"{key}: {why}" for key, why in refused.items()) or "none"),
        )

    def build(fingerprint: str) -> Outcome:
        clips = [clip for split in splits for clip in split_clips(store, split.key)]
        leaks = leaking_clips(clips)
        kept = [clip for clip in clips if clip["clip_id"] not in leaks]
        folder = store.ljspeech_dir
        wavs = _link_wavs(store, kept, progress)
        listings = {
            "metadata_train.csv": [clip for clip in kept if clip["split"] == "train"],
            "metadata_val.csv": [clip for clip in kept if clip["split"] == "val"],
            "metadata.csv": kept,
        }
        for name, rows in listings.items():
            write_text(folder / name, "".join(_line(clip) for clip in rows))
        for stray in set((folder / "wavs").glob("*.wav")) - set(wavs):
            stray.unlink()
        return Outcome(
            uri=folder,
            outputs=[*(folder / name for name in listings), *wavs],
            verdicts=verdicts(kept, wavs, refused),
            metadata={
                "train_clips": len(listings["metadata_train.csv"]),
                "val_clips": len(listings["metadata_val.csv"]),
                "videos": len(splits),
                "duration_s": round(sum(clip["duration_s"] for clip in kept), 3),
                "left_out": Markdown(_left_out(leaks, refused)),
            },
            row_count=len(kept),
        )

    return run_stage(
        store,
        LJSPEECH_DATASET,
        WHOLE,
        inputs={
            "splits": {split.key: split.data_version for split in splits},
            "metadata": {key: result.data_version for key, result in metadata.items()},
            "refused": refused,
        },
        build=build,
    )


def split_clips(store: CorpusStore, video_id: str) -> list[dict[str, Any]]:
    """The accepted metadata rows of one video, each with its `split`."""
    side = {
        row["clip_id"]: row["split"] for row in pq.read_table(store.split(video_id)).to_pylist()
    }
    return [{**clip, "split": side[clip["clip_id"]]} for clip in accepted_clips(store, video_id)]


def verdicts(
    clips: Sequence[Mapping[str, Any]], wavs: Sequence[Path], refused: Mapping[str, str]
) -> list[Verdict]:
    """The checks of `ljspeech_dataset` on what was written."""
    missing = [path.name for path in wavs if not path.is_file()]
    leaks = leaking_clips(clips)
    return [
        LJSPEECH_DATASET.verdict(
            "files_present",
            not missing and len(wavs) == len(clips),
            value=len(wavs) - len(missing),
            threshold=len(clips),
        ),
        LJSPEECH_DATASET.verdict("no_text_on_both_sides", not leaks, value=len(leaks), threshold=0),
        LJSPEECH_DATASET.verdict(
            "every_video_included",
            not refused,
            value=len(refused),
            threshold=0,
            detail="; ".join(f"{key}: {why}" for key, why in refused.items()),
        ),
    ]


def _link_wavs(
    store: CorpusStore, clips: Sequence[Mapping[str, Any]], progress: Progress
) -> list[Path]:
    folder = store.ljspeech_dir / "wavs"
    folder.mkdir(parents=True, exist_ok=True)
    wavs = []
    for done, clip in enumerate(clips, 1):
        target = folder / f"{clip['clip_id']}.wav"
        _link(store.root / clip["path"], target)
        wavs.append(target)
        progress(done, len(clips), "clips")
    return wavs


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where links are not to be had."""
    if target.exists() and target.samefile(source):
        return
    aside = target.with_name(f".{target.name}")
    aside.unlink(missing_ok=True)
    try:
        os.link(source, aside)
    except OSError:
        shutil.copyfile(source, aside)
    aside.replace(target)


def _line(clip: Mapping[str, Any]) -> str:
    raw = " ".join(clip["text_raw"].replace("|", " ").split())
    return f"{clip['clip_id']}|{raw}|{clip['text']}\n"


def _left_out(leaks: Mapping[str, str], refused: Mapping[str, str]) -> str:
    lines = ["| clip or video | why it is left out |", "|---|---|"]
    lines += [f"| {clip} | its text is held out as {other} |" for clip, other in leaks.items()]
    lines += [f"| {video} | {why} |" for video, why in refused.items()]
    return "\n".join(lines)

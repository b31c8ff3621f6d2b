"""`ljspeech_dataset`: the accepted clips of every video in the LJSpeech layout.

`metadata.csv` holds `id|raw text|normalised text` (Ito & Johnson, The LJ Speech Dataset, 2017);
`metadata_train.csv` and `metadata_val.csv` hold the two sides; `wavs/` the clips, as hard links
where the file system allows. `left_out.csv` names each accepted clip that is not among them, with
the reason (`id|reason`).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from xtts_core.dataset.fan_in import joined, usable_splits
from xtts_core.stage import (
    CheckSpec,
    Markdown,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    run_stage,
    silent,
)
from xtts_core.store import WHOLE, CorpusStore, atomic_file, write_text

LJSPEECH_DATASET = Stage(
    "ljspeech_dataset",
    "2",
    (
        CheckSpec("files_present", "error", "every line of metadata.csv has its WAV"),
        CheckSpec("has_training_clips", "error", "at least one clip is trained on"),
        CheckSpec("no_text_on_both_sides", "error", "no training text is also held out"),
        CheckSpec("every_video_included", "warn", "no video was refused"),
    ),
)

_LEFT_OUT = "left_out.csv"
_MOST_LINES = 200
_READ = ("clip_id", "path", "sha256", "duration_s", "text_raw", "text", "split")
_LISTINGS = {
    "metadata_train.csv": ("train",),
    "metadata_val.csv": ("val",),
    "metadata.csv": ("train", "val"),
}


def make_ljspeech_dataset(
    store: CorpusStore, listed: Collection[str] | None = None, progress: Progress = silent
) -> StageResult:
    """Write the accepted clips of every video whose splits may be used.

    Args:
        listed: the ids in videos.csv (None: every video that was prepared).
    Raises:
        DatasetError: no video can be used.
    """
    splits, refused = usable_splits(store, listed)

    def build(fingerprint: str) -> Outcome:
        clips, left_out = joined(store, [split.key for split in splits], _READ)
        folder = store.ljspeech_dir
        wavs = link_wavs(store, clips, folder / "wavs", progress)
        listings = [*write_listings(clips, folder), folder / _LEFT_OUT]
        write_text(listings[-1], "".join(f"{clip}|{why}\n" for clip, why in left_out.items()))
        for stray in set((folder / "wavs").glob("*.wav")) - set(wavs):
            stray.unlink()
        sides = Counter(clips["split"].to_pylist())
        return Outcome(
            uri=folder,
            outputs=[*listings, *wavs],
            sha256=dict(zip(wavs, clips["sha256"].to_pylist(), strict=True)),
            verdicts=verdicts(clips, wavs, refused),
            metadata={
                "train_clips": sides["train"],
                "val_clips": sides["val"],
                "videos": len(splits),
                "duration_s": round(pc.sum(clips["duration_s"]).as_py() or 0.0, 3),
                "left_out_clips": len(left_out),
                "left_out": Markdown(left_out_table(left_out, refused)),
            },
            row_count=len(clips),
        )

    return run_stage(
        store,
        LJSPEECH_DATASET,
        WHOLE,
        inputs={
            "splits": {split.key: split.data_version for split in splits},
            "metadata": {split.key: split.built_on[f"metadata/{split.key}"] for split in splits},
            "refused": refused,
        },
        build=build,
    )


def read_left_out(store: CorpusStore) -> dict[str, str]:
    """Each accepted clip that is not in the dataset as it was written last, with the reason."""
    lines = (store.ljspeech_dir / _LEFT_OUT).read_text(encoding="utf-8").splitlines()
    return dict(line.split("|", 1) for line in lines)


def verdicts(clips: pa.Table, wavs: Sequence[Path], refused: Mapping[str, str]) -> list[Verdict]:
    """The checks of `ljspeech_dataset` on what was written."""
    missing = [path.name for path in wavs if not path.is_file()]
    texts: dict[str, set[str]] = {"train": set(), "val": set()}
    for side, text in zip(clips["split"].to_pylist(), clips["text"].to_pylist(), strict=True):
        texts[side].add(text)
    leaks = texts["train"] & texts["val"]
    trained = clips["split"].to_pylist().count("train")
    return [
        LJSPEECH_DATASET.verdict(
            "files_present",
            not missing and len(wavs) == len(clips),
            value=len(wavs) - len(missing),
            threshold=len(clips),
        ),
        LJSPEECH_DATASET.verdict("has_training_clips", trained > 0, value=trained, threshold=1),
        LJSPEECH_DATASET.verdict("no_text_on_both_sides", not leaks, value=len(leaks), threshold=0),
        LJSPEECH_DATASET.verdict(
            "every_video_included",
            not refused,
            value=len(refused),
            threshold=0,
            detail="; ".join(f"{key}: {why}" for key, why in refused.items()),
        ),
    ]


def write_listings(clips: pa.Table, folder: Path) -> list[Path]:
    """Write `metadata.csv` and those of the two sides; `clips` has clip_id, text_raw, text and
    split."""
    columns = (clips[name].to_pylist() for name in ("clip_id", "text_raw", "text"))
    lines = list(zip(clips["split"].to_pylist(), map(_line, *columns), strict=True))
    for name, sides in _LISTINGS.items():
        write_text(folder / name, "".join(line for side, line in lines if side in sides))
    return [folder / name for name in _LISTINGS]


def link_wavs(
    store: CorpusStore,
    clips: pa.Table,
    folder: Path,
    progress: Progress = silent,
    *,
    copies: bool = False,
) -> list[Path]:
    """Put the WAV of each clip into `folder` as `<clip_id>.wav`: a hard link, or a copy where links
    are not to be had or `copies` are asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    wavs = [Path(f"{folder}/{clip_id}.wav") for clip_id in clips["clip_id"].to_pylist()]
    for done, (path, wav) in enumerate(zip(clips["path"].to_pylist(), wavs, strict=True), 1):
        if copies:
            _copy(f"{store.root}/{path}", wav)
        else:
            _link(f"{store.root}/{path}", str(wav))
        progress(done, len(clips), "clips")
    return wavs


def left_out_table(left_out: Mapping[str, str], refused: Mapping[str, str]) -> str:
    """Markdown: each video and clip that is left out, and why; of many the first."""
    lines = ["| clip or video | why it is left out |", "|---|---|"]
    lines += [f"| {name} | {why} |" for name, why in {**refused, **left_out}.items()]
    more = len(lines) - _MOST_LINES
    return "\n".join(lines[:_MOST_LINES] + ([f"| … | and {more} more |"] if more > 0 else []))


def _link(source: str, target: str) -> None:
    """Make `target` the same file as `source`, or a copy where links are not to be had."""
    try:
        os.link(source, target)
        return
    except FileExistsError:
        if Path(source).samefile(target):
            return
        Path(target).unlink()
        _link(source, target)
    except OSError:
        _copy(source, Path(target))


def _copy(source: str, target: Path) -> None:
    with atomic_file(target) as aside:
        shutil.copyfile(source, aside)


def _line(clip_id: str, text_raw: str, text: str) -> str:
    cells = (" ".join(cell.replace("|", " ").split()) for cell in (text_raw, text))
    return "|".join((clip_id, *cells)) + "\n"

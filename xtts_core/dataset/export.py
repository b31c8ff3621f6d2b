"""The dataset for people who train elsewhere: as LJSpeech, or for Hugging Face `datasets`.

What is exported is what `ljspeech_dataset` holds: the accepted clips of every usable video but
those that are left out across the split. The audio is that of the corpus, byte for byte, so that
`sha256` can be checked anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from xtts_core.dataset.fan_in import Dataset, gather
from xtts_core.dataset.ljspeech import link_wavs, write_listings
from xtts_core.errors import DatasetError
from xtts_core.settings import SAMPLE_RATE_HZ
from xtts_core.stage import Progress, silent
from xtts_core.store import CorpusStore, atomic_dir, sha256_file

SHARD_BYTES = 500_000_000
"""`datasets` writes shards of about this size (its config's MAX_SHARD_SIZE)."""
_ROW_GROUP = 100
_SIDES = {"train": "train", "validation": "val"}

_COLUMNS = (
    "clip_id",
    "video_id",
    "speaker",
    "language",
    "licence",
    "text_raw",
    "text",
    "text_source",
    "duration_s",
    "sha256",
    "snr_db",
    "loudness_lufs",
    "bandwidth_hz",
    "reverberation_s",
    "music_ratio",
    "speaker_similarity",
    "characters_per_s",
    "oov_rate",
)
_HUB_LICENCES = frozenset(
    {"cc0-1.0", "pddl", "odbl", "odc-by", "mit", "apache-2.0"}
    | {f"cc-by{kind}-{v}" for kind in ("", "-sa", "-nc", "-nc-sa") for v in ("3.0", "4.0")}
    | {f"cc-by-{v}" for v in ("2.0", "2.5")}
)
"""What a dataset card may give as `license` (huggingface.co/docs/hub/repositories-licenses); any
other one is `other`, with its name."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Export:
    """What was written: the clips of each side, and of how many speakers; and why clips (`rejected`
    because of their files, `left_out` across the split) and videos (`refused`) are not in it."""

    train: int
    val: int
    speakers: int
    rejected: dict[str, str]
    left_out: dict[str, str]
    refused: dict[str, str]


def export_ljspeech(
    store: CorpusStore,
    destination: Path,
    listed: Collection[str] | None = None,
    progress: Progress = silent,
    *,
    link: bool = False,
) -> Export:
    """Write the LJSpeech layout into a new folder, and `clips.csv` (UTF-8, with a header) with what
    it has no place for: the speaker, video, language, licence and SHA-256 of each clip.

    Args:
        listed: the ids in videos.csv (None: every video that was prepared).
        link: hard links instead of copies, where the file system allows.
    Raises:
        DatasetError: the folder is not empty or cannot be written, or there is nothing to export.
    """

    def write(folder: Path, clips: pa.Table) -> None:
        link_wavs(store, clips, folder / "wavs", progress, copies=not link)
        write_listings(clips, folder)
        columns = ["clip_id", "speaker", "video_id", "language", "licence", "sha256"]
        pacsv.write_csv(clips.select(columns), folder / "clips.csv")

    return _export(store, destination, listed, progress, write)


def export_hf(
    store: CorpusStore,
    destination: Path,
    listed: Collection[str] | None = None,
    progress: Progress = silent,
) -> Export:
    """Write a folder that `datasets.load_dataset` reads: parquet files with the audio in them, the
    splits `train` and `validation`, and a dataset card.

    Args:
        listed: the ids in videos.csv (None: every video that was prepared).
    Raises:
        DatasetError: the folder is not empty or cannot be written, or there is nothing to export.
    """

    def write(folder: Path, clips: pa.Table) -> None:
        (folder / "data").mkdir()
        done = 0
        for split, side in _SIDES.items():
            rows = clips.filter(pc.equal(clips["split"], side))
            shards = list(_shards(store, rows))
            for number, shard in enumerate(shards):
                name = f"{split}-{number:05}-of-{len(shards):05}.parquet"
                _write_shard(store, shard, folder / "data" / name)
                done += len(shard)
                progress(done, len(clips), "clips")
        (folder / "README.md").write_text(_card(clips), encoding="utf-8")

    return _export(store, destination, listed, progress, write)


def _export(
    store: CorpusStore,
    destination: Path,
    listed: Collection[str] | None,
    progress: Progress,
    write: Callable[[Path, pa.Table], None],
) -> Export:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise DatasetError(
            "The destination is not an empty folder",
            where=str(destination),
            remedy="Name a new folder, or empty this one",
        )
    dataset = gather(store, listed)
    clips, rejected = _intact(store, dataset, progress)
    if not len(clips):
        raise DatasetError(
            "There is no clip to export",
            where="; ".join(rejected.values()) or str(store.root),
            remedy="See xtts dataset show",
        )
    try:
        if destination.is_dir():
            destination.rmdir()
        with atomic_dir(destination) as aside:
            write(aside, clips)
    except OSError as error:
        raise DatasetError(
            f"The export cannot be written ({error.strerror or error})",
            where=str(destination),
            remedy="Name a folder that you may write to, on a disk with room for it",
        ) from error
    sides = clips["split"].to_pylist()
    return Export(
        train=sides.count("train"),
        val=sides.count("val"),
        speakers=len(set(clips["speaker"].to_pylist())),
        rejected=rejected,
        left_out=dataset.left_out,
        refused=dataset.refused,
    )


def _intact(
    store: CorpusStore, dataset: Dataset, progress: Progress
) -> tuple[pa.Table, dict[str, str]]:
    """The clips whose WAV is what the metadata say, and why each other one is not exported."""
    clips = dataset.clips
    rejected = {}
    columns = (clips[name].to_pylist() for name in ("clip_id", "path", "sha256"))
    for done, (clip_id, path, sha256) in enumerate(zip(*columns, strict=True), 1):
        wav = store.root / path
        if not wav.is_file():
            rejected[clip_id] = f"{wav} is missing"
        elif sha256_file(wav) != sha256:
            rejected[clip_id] = f"{wav} was changed since its metadata were made"
        progress(done, len(clips), "clips checked")
    kept = pc.invert(pc.is_in(clips["clip_id"], pa.array(rejected, pa.string())))
    return clips.filter(kept), rejected


def _shards(store: CorpusStore, clips: pa.Table) -> Iterator[pa.Table]:
    """The clips in stretches of about `SHARD_BYTES` of audio."""
    sizes = [(store.root / path).stat().st_size for path in clips["path"].to_pylist()]
    numbers = [(total - 1) // SHARD_BYTES for total in accumulate(sizes)]
    for number in sorted(set(numbers)):
        first = numbers.index(number)
        yield clips.slice(first, numbers.count(number))


def _write_shard(store: CorpusStore, clips: pa.Table, path: Path) -> None:
    schema = _hf_schema(clips.schema)
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, len(clips), _ROW_GROUP):
            rows = clips.slice(first, _ROW_GROUP)
            audio = [
                {"bytes": (store.root / wav).read_bytes(), "path": f"{clip_id}.wav"}
                for clip_id, wav in zip(
                    rows["clip_id"].to_pylist(), rows["path"].to_pylist(), strict=True
                )
            ]
            columns = [pa.array(audio, _AUDIO), *(rows[name] for name in _COLUMNS)]
            writer.write_table(pa.table(columns, schema=schema))


def _hf_schema(schema: pa.Schema) -> pa.Schema:
    """With the features in the metadata, as `datasets` writes them (arrow_writer.py)."""
    fields = [pa.field("audio", _AUDIO), *(pa.field(n, schema.field(n).type) for n in _COLUMNS)]
    features: dict[str, Any] = {"audio": {"sampling_rate": SAMPLE_RATE_HZ, "_type": "Audio"}}
    for field in fields[1:]:
        dtype = "float64" if pa.types.is_floating(field.type) else "string"
        features[field.name] = {"dtype": dtype, "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def _card(clips: pa.Table) -> str:
    """The dataset card: YAML that the hub reads, and what a person wants to know."""
    hours = (pc.sum(clips["duration_s"]).as_py() or 0.0) / 3_600
    sides = clips["split"].to_pylist()
    licences = _by_video(clips, "licence")
    languages = sorted({name.split("-")[0] for name in clips["language"].to_pylist()})
    speakers = sorted(set(clips["speaker"].to_pylist()))
    present = [split for split, side in _SIDES.items() if side in sides]
    lines = [
        "---",
        "language:",
        *(f"- {language}" for language in languages),
        *_licence(clips),
        "task_categories:",
        "- text-to-speech",
        "size_categories:",
        f"- {next((name for most, name in _SIZES if len(clips) < most), '1M<n<10M')}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *(f"  - split: {s}\n    path: data/{s}-*" for s in present),
        "---",
        "",
        f"{len(clips)} clips, {hours:.2f} hours, 22 050 Hz mono: {sides.count('train')} to train "
        f"on, {sides.count('val')} held out.",
        "",
        f"Speakers: {', '.join(speakers)}.",
        "",
        "`text` is normalised (numbers are words, lower case), `text_raw` is what was written or "
        "heard.",
        "",
        "| video | clips | licence |",
        "|---|---|---|",
        *(
            f"| {video} | {count} | {_cell(said) or 'not stated'} |"
            for video, said, count in licences
        ),
        "",
    ]
    return "\n".join(lines)


def _licence(clips: pa.Table) -> list[str]:
    """The licence in the card's YAML; none unless all videos have the same one."""
    said = set(clips["licence"].to_pylist())
    name = said.pop() if len(said) == 1 else ""
    if not name:
        return []
    if name.lower() in _HUB_LICENCES:
        return [f"license: {name.lower()}"]
    return ["license: other", f"license_name: {json.dumps(name, ensure_ascii=False)}"]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _by_video(clips: pa.Table, column: str) -> Sequence[tuple[str, str, int]]:
    groups = clips.group_by(["video_id", column]).aggregate([("clip_id", "count")])
    columns = (groups[name].to_pylist() for name in ("video_id", column, "clip_id_count"))
    return sorted(zip(*columns, strict=True))

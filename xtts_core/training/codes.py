"""`audio_codes`: each accepted clip as the DVAE's codes, once, instead of on every training step.

The clips of a video lie in shards, safetensors files of at most 64 clips. A shard holds for each
clip `<sha256 of its WAV>.codes` (int16, one code for 1 024 samples) and `<sha256>.audio` (int16
samples at 22 050 Hz, from which training draws its conditioning spans), and its name follows from
the DVAE and the clips in it. The index beside them, a Parquet file written last, has a row a clip:
what training needs to know of it, and its shard.

A shard is written as soon as its clips are coded, so a killed run goes on after the last one. A
clip that an earlier shard of the same DVAE holds is copied from there and not coded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtts_core.dataset.metadata import METADATA_SCHEMA
from xtts_core.dataset.split import accepted_clips
from xtts_core.errors import DatasetError, UpstreamError
from xtts_core.settings import SAMPLE_RATE_HZ, TrainingSettings
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
from xtts_core.store import WHOLE, CorpusStore, atomic_file, sha256_file, sha256_json

if TYPE_CHECKING:
    from torch import Tensor

CODE_SAMPLES = 1024
"""Samples of a code: the DVAE halves the 256-sample frames of its mel twice."""

SHARD_CLIPS = 64
"""At most this many clips a shard: of 11 s they take 31 MB, which is what is held in memory."""

_CODING_VERSION = "1"
"""Bumped when a clip gives other codes than before: no shard of an earlier one is used again."""

AUDIO_CODES = Stage(
    "audio_codes",
    "2",
    (
        CheckSpec("every_clip_coded", "error", "each accepted clip of the splits has its codes"),
        CheckSpec("codes_in_range", "error", "each code is one of the DVAE's"),
        CheckSpec("code_length_matches_audio", "error", "one code for each 1 024 samples"),
    ),
)

_KEPT = (
    "clip_id",
    "video_id",
    "speaker",
    "language",
    "text",
    "duration_s",
    "path",
    "sha256",
    "snr_db",
    "bandwidth_hz",
    "speaker_similarity",
)

INDEX_SCHEMA = pa.schema(
    [
        *(METADATA_SCHEMA.field(name) for name in _KEPT),
        pa.field("split", pa.string(), metadata={"description": "train or val"}),
        pa.field("n_codes", pa.int64(), metadata={"description": "codes that the DVAE gave"}),
        pa.field("samples", pa.int64(), metadata={"description": "samples at 22 050 Hz"}),
        pa.field(
            "shard",
            pa.string(),
            metadata={"description": "its tensors: a file in the folder `<video_id>` beside"},
        ),
    ],
    metadata={"xtts_schema_version": "1"},
)


@dataclass(frozen=True)
class CodedClip:
    """What the checks look at: how many samples went in, how many codes came out, their range."""

    clip_id: str
    samples: int
    codes: int
    lowest: int
    highest: int


@dataclass(frozen=True)
class CodedClips:
    """`tensors` by name; `rejected` gives the clips that could not be coded with the reason."""

    tensors: dict[str, Tensor]
    rejected: dict[str, str]


def make_audio_codes(
    store: CorpusStore,
    settings: TrainingSettings,
    video_id: str,
    progress: Progress = silent,
) -> StageResult:
    """Code the accepted clips of one video with the base model's DVAE.

    Raises:
        UpstreamError: metadata, splits or the base model are missing or failed, or the splits are
            not those of the metadata.
        DatasetError: the video has no accepted clip, or none that can be read.
    """
    metadata = require(store, "metadata", video_id)
    splits = require(store, "train_val_splits", video_id)
    base = required_base(store, settings)
    dvae = dvae_hash(base)

    def build(fingerprint: str) -> Outcome:
        clips = described_clips(store, video_id)
        rejected = {
            clip["clip_id"]: why
            for clip in clips
            if (why := _unreadable(store.root / clip["path"], clip["sha256"]))
        }
        readable = [clip for clip in clips if clip["clip_id"] not in rejected]
        if not readable:
            raise DatasetError(
                "No clip could be coded",
                where=f"{video_id}: " + "; ".join(rejected.values()),
                remedy="Materialise segments of this video again",
            )
        folder = store.audio_codes_dir(base.uri.name, video_id)
        coder = Coder(base.uri)
        wavs = {clip["sha256"]: store.root / clip["path"] for clip in readable}
        shards = _write_shards(folder, wavs, dvae, coder, progress)
        found = {tensors.sha256: tensors for path in shards for tensors in _coded(path)}
        rows = [
            {
                **clip,
                "n_codes": found[clip["sha256"]].codes,
                "samples": found[clip["sha256"]].samples,
                "shard": found[clip["sha256"]].shard,
            }
            for clip in readable
        ]
        coded = [
            CodedClip(clip["clip_id"], one.samples, one.codes, one.lowest, one.highest)
            for clip in readable
            for one in [found[clip["sha256"]]]
        ]
        index = store.audio_codes(base.uri.name, video_id)
        with atomic_file(index) as aside:
            pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), aside)
        for stray in set(folder.iterdir()) - set(shards):
            stray.unlink()
        # Until version 1 a video's codes were one file.
        index.with_suffix(".safetensors").unlink(missing_ok=True)
        return Outcome(
            uri=index,
            outputs=[index, *shards],
            verdicts=verdicts(coded, rejected, n_tokens=coder.n_tokens),
            metadata={
                "clips": len(coded),
                "clips_coded": coder.coded,
                "codes": sum(clip.codes for clip in coded),
                "duration_s": round(sum(clip.samples for clip in coded) / SAMPLE_RATE_HZ, 3),
                "train_clips": sum(clip["split"] == "train" for clip in readable),
                "val_clips": sum(clip["split"] == "val" for clip in readable),
                "shards": len(shards),
                "bytes": sum(path.stat().st_size for path in shards),
                "rejected": Markdown(_table(rejected)),
            },
            row_count=len(coded),
        )

    return run_stage(
        store,
        AUDIO_CODES,
        video_id,
        inputs={
            "base": settings.base_model.name,
            "dvae": dvae,
            "metadata": metadata.data_version,
            "train_val_splits": splits.data_version,
        },
        built_on=(metadata, splits, base),
        build=build,
    )


def dvae_hash(base: StageResult) -> str:
    """What the codes of a clip follow from beside its audio: the DVAE's weights and the statistics
    of its mel. Base models that differ in other files share it."""
    from xtts_core.model.loading import DVAE_FILE, MEL_STATS_FILE

    files = {name: base.sha256[base.uri / name] for name in (DVAE_FILE, MEL_STATS_FILE)}
    return sha256_json({"coding": _CODING_VERSION, **files})


def required_base(store: CorpusStore, settings: TrainingSettings) -> StageResult:
    """The base model that the settings name.

    Raises:
        UpstreamError: it is missing or failed, or another one was materialised last.
    """
    base = require(store, "base_model", WHOLE)
    if base.uri.name != settings.base_model.name:
        raise UpstreamError(
            f"The base model is {base.uri.name}, and {settings.base_model.name} is asked for",
            where=str(store.record("base_model", WHOLE)),
            remedy="Materialise base_model again",
        )
    return base


def verdicts(
    coded: Sequence[CodedClip], rejected: Mapping[str, str], *, n_tokens: int
) -> list[Verdict]:
    """The checks of `audio_codes`.

    Args:
        rejected: clips that could not be coded, with the reason.
        n_tokens: how many different codes the DVAE has.
    """
    outside = [c.clip_id for c in coded if c.lowest < 0 or c.highest >= n_tokens]
    # The mel has one frame more than whole hops, so a clip may end in one code more.
    wrong = [c.clip_id for c in coded if c.codes - ceil(c.samples / CODE_SAMPLES) not in (0, 1)]
    return [
        AUDIO_CODES.verdict(
            "every_clip_coded",
            not rejected,
            value=len(coded),
            threshold=len(coded) + len(rejected),
            detail="; ".join(f"{clip}: {why}" for clip, why in rejected.items()),
        ),
        AUDIO_CODES.verdict(
            "codes_in_range",
            not outside,
            value=max(c.highest for c in coded),
            threshold=n_tokens - 1,
            detail=", ".join(outside),
        ),
        AUDIO_CODES.verdict(
            "code_length_matches_audio",
            not wrong,
            value=len(wrong),
            threshold=0,
            detail=", ".join(wrong),
        ),
    ]


def described_clips(store: CorpusStore, video_id: str) -> list[dict[str, Any]]:
    """What training needs to know of each accepted clip of a video: the columns of
    `INDEX_SCHEMA` but for those that only coding tells.

    Raises:
        UpstreamError: the splits lack one of them.
        DatasetError: the video has no accepted clip.
    """
    side = {
        row["clip_id"]: row["split"] for row in pq.read_table(store.split(video_id)).to_pylist()
    }
    accepted = accepted_clips(store, video_id)
    if lacking := [row["clip_id"] for row in accepted if row["clip_id"] not in side]:
        raise UpstreamError(
            f"The splits lack accepted clips: {', '.join(lacking)}",
            where=str(store.split(video_id)),
            remedy="Materialise train_val_splits of this video again",
        )
    clips = [
        {
            **{name: row[name] for name in _KEPT},
            "split": side[row["clip_id"]],
        }
        for row in accepted
    ]
    if not clips:
        raise DatasetError(
            "The video has no accepted clip",
            where=str(store.metadata(video_id)),
            remedy="See the reasons in its metadata, and mend the source or the settings",
        )
    return clips


class Coder:
    """The DVAE of a base model, loaded for the first clip; `coded` counts the clips."""

    def __init__(self, base_dir: Path) -> None:
        self._base_dir = base_dir
        self.coded = 0

    @cached_property
    def n_tokens(self) -> int:
        """How many different codes the DVAE has."""
        from xtts_core.model.loading import read_config

        return int(read_config(self._base_dir).model_args.gpt_num_audio_tokens) - 2

    @cached_property
    def _modules(self) -> tuple[Any, Any]:
        from xtts_core.model.loading import load_dvae, load_mel_stats
        from xtts_core.training.mel import code_mel

        return load_dvae(self._base_dir, "cpu"), code_mel(load_mel_stats(self._base_dir))

    def tensors(self, path: Path, sha256: str) -> dict[str, Tensor]:
        """The clip's `<sha256>.codes` and `<sha256>.audio`.

        Raises:
            DatasetError: see `_check_clip`.
        """
        audio = _read_clip(path, sha256)
        self.coded += 1
        return {f"{sha256}.codes": self.codes(audio), f"{sha256}.audio": audio}

    def codes(self, audio: Tensor) -> Tensor:
        """(n_codes,) int16 of one clip, (samples,) int16 at 22 050 Hz. In a batch the padding would
        change the last codes of the shorter clips."""
        import torch

        from xtts_core.training.mel import pcm_to_float

        dvae, mel = self._modules
        with torch.no_grad():
            found: Tensor = dvae.get_codebook_indices(mel(pcm_to_float(audio)[None]))[0]
        return found.to(torch.int16)


def code_clips(
    store: CorpusStore, base_dir: Path, clips: Sequence[Mapping[str, Any]]
) -> CodedClips:
    """Read and code some clips, and keep them in memory.

    Args:
        clips: rows with clip_id, path and sha256.
    """
    coder = Coder(base_dir)
    tensors: dict[str, Tensor] = {}
    rejected: dict[str, str] = {}
    for clip in clips:
        try:
            tensors.update(coder.tensors(store.root / clip["path"], clip["sha256"]))
        except DatasetError as error:
            rejected[clip["clip_id"]] = str(error)
    return CodedClips(tensors, rejected)


def _write_shards(
    folder: Path, wavs: Mapping[str, Path], dvae: str, coder: Coder, progress: Progress
) -> list[Path]:
    """The shards of some clips, each written unless it is there.

    Args:
        wavs: the file of each clip by its SHA-256, in the order of the audio.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    held = _held(folder, dvae)
    whole = set(held.values())
    order = list(wavs)
    shards: list[Path] = []
    done = 0
    for first in range(0, len(order), SHARD_CLIPS):
        group = order[first : first + SHARD_CLIPS]
        path = folder / f"{sha256_json([dvae, *group])[:32]}.safetensors"
        shards.append(path)
        if path in whole:
            done += len(group)
            progress(done, len(order), "clips")
            continue
        tensors: dict[str, Tensor] = {}
        for sha256 in group:
            if sha256 in held:
                with safe_open(held[sha256], framework="pt") as file:
                    tensors |= {name: file.get_tensor(name) for name in _names(sha256)}
            else:
                tensors |= coder.tensors(wavs[sha256], sha256)
            done += 1
            progress(done, len(order), "clips")
        # One key only: the header's order of several is not fixed, and the file is hashed.
        header = {"xtts": json.dumps({"dvae": dvae, "sha256": _digest(tensors.items())})}
        with atomic_file(path) as aside:
            save_file(tensors, aside, metadata=header)
    return shards


def _held(folder: Path, dvae: str) -> dict[str, Path]:
    """The shard of each clip, by the SHA-256 of its WAV, in those of this DVAE that are whole."""
    from safetensors import SafetensorError, safe_open

    held: dict[str, Path] = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("xtts", "{}"))
                names = list(file.keys())
                digest = _digest((name, file.get_tensor(name)) for name in sorted(names))
        except (SafetensorError, ValueError):
            # Damaged: its clips are coded again.
            continue
        if header == {"dvae": dvae, "sha256": digest}:
            held |= dict.fromkeys((name.split(".")[0] for name in names), path)
    return held


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over the names and contents of a shard's tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Coded:
    """What a shard holds of one clip."""

    sha256: str
    shard: str
    samples: int
    codes: int
    lowest: int
    highest: int


def _coded(shard: Path) -> list[_Coded]:
    from safetensors import safe_open

    found = []
    with safe_open(shard, framework="pt") as file:
        for sha256 in sorted({name.split(".")[0] for name in file.keys()}):  # noqa: SIM118
            codes_name, audio_name = _names(sha256)
            codes = file.get_tensor(codes_name)
            found.append(
                _Coded(
                    sha256=sha256,
                    shard=shard.name,
                    samples=file.get_slice(audio_name).get_shape()[0],
                    codes=len(codes),
                    lowest=int(codes.min()),
                    highest=int(codes.max()),
                )
            )
    return found


def _names(sha256: str) -> tuple[str, str]:
    return f"{sha256}.codes", f"{sha256}.audio"


def _unreadable(path: Path, sha256: str) -> str:
    """Why a clip cannot be coded; empty where it can."""
    try:
        _check_clip(path, sha256)
    except DatasetError as error:
        return str(error)
    return ""


def _check_clip(path: Path, sha256: str) -> None:
    """Have a clip that can be coded, or say why it cannot.

    Raises:
        DatasetError: it is missing, was changed since its metadata, or is not 22 050 Hz mono.
    """
    import soundfile

    if not path.is_file():
        raise DatasetError("The clip is missing", where=str(path))
    if sha256_file(path) != sha256:
        raise DatasetError("The clip was changed since its metadata were made", where=str(path))
    found = soundfile.info(path)
    if found.samplerate != SAMPLE_RATE_HZ or found.channels != 1:
        raise DatasetError(
            f"The clip is not {SAMPLE_RATE_HZ} Hz mono (it has {found.samplerate} Hz, "
            f"{found.channels} channels)",
            where=str(path),
        )


def _read_clip(path: Path, sha256: str) -> Tensor:
    """A clip's int16 samples.

    Raises:
        DatasetError: see `_check_clip`.
    """
    import soundfile
    import torch

    _check_clip(path, sha256)
    return torch.from_numpy(soundfile.read(path, dtype="int16")[0])


def _table(rejected: Mapping[str, str]) -> str:
    lines = ["| clip | why it has no codes |", "|---|---|"]
    return "\n".join(lines + [f"| {clip} | {why} |" for clip, why in rejected.items()])

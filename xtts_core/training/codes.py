"""`audio_codes`: each accepted clip as the DVAE's codes, once, instead of on every training step.

One safetensors file a video holds for each clip `<clip_id>.codes` (int16, one code for 1 024
samples) and `<clip_id>.audio` (int16 samples at 22 050 Hz, from which training draws its
conditioning spans). Its header's `clips` says what training needs to know of them, so that the
file stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

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
from xtts_core.store import WHOLE, CorpusStore, atomic_file, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

CODE_SAMPLES = 1024
"""Samples of a code: the DVAE halves the 256-sample frames of its mel twice."""

AUDIO_CODES = Stage(
    "audio_codes",
    "1",
    (
        CheckSpec("every_clip_coded", "error", "each accepted clip of the splits has its codes"),
        CheckSpec("codes_in_range", "error", "each code is one of the DVAE's"),
        CheckSpec("code_length_matches_audio", "error", "one code for each 1 024 samples"),
    ),
)

_KEPT = ("clip_id", "video_id", "speaker", "language", "text", "duration_s", "path", "sha256")


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
    """`tensors` by name; `rejected` gives the clips that could not be coded with the reason;
    `n_tokens` is how many different codes the DVAE has."""

    tensors: dict[str, Tensor]
    coded: list[CodedClip]
    rejected: dict[str, str]
    n_tokens: int


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

    def build(fingerprint: str) -> Outcome:
        from safetensors.torch import save_file

        clips = described_clips(store, video_id)
        result = code_clips(store, base.uri, clips, progress)
        if not result.coded:
            raise DatasetError(
                "No clip could be coded",
                where=f"{video_id}: " + "; ".join(result.rejected.values()),
                remedy="Materialise segments of this video again",
            )
        described = [clip for clip in clips if clip["clip_id"] not in result.rejected]
        path = store.audio_codes(base.uri.name, video_id)
        with atomic_file(path) as aside:
            # One key only: the header's order of several is not fixed, and the file is hashed.
            header = {"clips": json.dumps(described, ensure_ascii=False)}
            save_file(result.tensors, aside, metadata=header)
        return Outcome(
            uri=path,
            outputs=[path],
            verdicts=verdicts(result.coded, result.rejected, n_tokens=result.n_tokens),
            metadata={
                "clips": len(result.coded),
                "codes": sum(clip.codes for clip in result.coded),
                "duration_s": round(sum(c.samples for c in result.coded) / SAMPLE_RATE_HZ, 3),
                "train_clips": sum(clip["split"] == "train" for clip in described),
                "val_clips": sum(clip["split"] == "val" for clip in described),
                "bytes": path.stat().st_size,
                "rejected": Markdown(_table(result.rejected)),
            },
            row_count=len(result.coded),
        )

    return run_stage(
        store,
        AUDIO_CODES,
        video_id,
        inputs={
            "base": settings.base_model.name,
            "metadata": metadata.data_version,
            "train_val_splits": splits.data_version,
            "base_model": base.data_version,
        },
        built_on=(metadata, splits, base),
        build=build,
    )


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
    """What training needs to know of each accepted clip of a video: the rows of the header.

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
            "snr_db": row["snr_db"],
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


def code_clips(
    store: CorpusStore,
    base_dir: Path,
    clips: Sequence[Mapping[str, Any]],
    progress: Progress = silent,
) -> CodedClips:
    """Read and code clips one by one.

    Args:
        clips: rows with clip_id, path and sha256.
    """
    import torch

    from xtts_core.model.loading import load_dvae, load_mel_stats
    from xtts_core.training.mel import code_mel, pcm_to_float

    dvae = load_dvae(base_dir, "cpu")
    mel = code_mel(load_mel_stats(base_dir))
    tensors: dict[str, Tensor] = {}
    coded: list[CodedClip] = []
    rejected: dict[str, str] = {}
    for done, clip in enumerate(clips, 1):
        clip_id = clip["clip_id"]
        try:
            audio = _read_clip(store.root / clip["path"], clip["sha256"])
        except DatasetError as error:
            rejected[clip_id] = str(error)
            continue
        with torch.no_grad():
            # One clip at a time: the padding of a batch changes the last codes of shorter clips.
            codes = dvae.get_codebook_indices(mel(pcm_to_float(audio)[None]))[0]
        tensors[f"{clip_id}.codes"] = codes.to(torch.int16)
        tensors[f"{clip_id}.audio"] = audio
        coded.append(CodedClip(clip_id, len(audio), len(codes), int(codes.min()), int(codes.max())))
        progress(done, len(clips), "clips")
    return CodedClips(tensors, coded, rejected, dvae.num_tokens)


def _read_clip(path: Path, sha256: str) -> Tensor:
    """A clip's int16 samples.

    Raises:
        DatasetError: it is missing, was changed since its metadata, or is not 22 050 Hz mono.
    """
    import soundfile
    import torch

    if not path.is_file():
        raise DatasetError("The clip is missing", where=str(path))
    if sha256_file(path) != sha256:
        raise DatasetError("The clip was changed since its metadata were made", where=str(path))
    samples, rate_hz = soundfile.read(path, dtype="int16")
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise DatasetError(
            f"The clip is not {SAMPLE_RATE_HZ} Hz mono (it has {rate_hz} Hz)", where=str(path)
        )
    return torch.from_numpy(samples)


def _table(rejected: Mapping[str, str]) -> str:
    lines = ["| clip | why it has no codes |", "|---|---|"]
    return "\n".join(lines + [f"| {clip} | {why} |" for clip, why in rejected.items()])

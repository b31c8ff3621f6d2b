"""`scorecard`: the current checkpoint against its base, over every evaluated video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from xtts_core.errors import DatasetError
from xtts_core.evaluation.samples import EVALUATION_SAMPLES
from xtts_core.model.checkpoint import read_manifest
from xtts_core.settings import TrainingSettings
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
from xtts_core.store import WHOLE, CorpusStore, read_json, write_json
from xtts_core.training.finetuned_checkpoint import FINETUNED_CHECKPOINT

SCORECARD = Stage(
    "scorecard",
    "1",
    (
        CheckSpec("every_video_evaluated", "warn", "each video trained on was evaluated"),
        CheckSpec(
            "not_worse_than_base", "error", "loss on held-out clips over that of the base model"
        ),
    ),
)


def make_scorecard(
    store: CorpusStore, settings: TrainingSettings, progress: Progress = silent
) -> StageResult:
    """Sum up the evaluations of the current checkpoint.

    Raises:
        UpstreamError: there is no checkpoint that may be used.
        DatasetError: none of its videos has an evaluated sentence.
    """
    checkpoint = require(store, FINETUNED_CHECKPOINT.name, WHOLE)
    version = checkpoint.uri.name
    evaluated, refused = usable(store, EVALUATION_SAMPLES.name)
    current = [result for result in evaluated if result.uri.parent.name == version]
    for result in evaluated:
        if result not in current:
            refused[result.key] = f"evaluated for the checkpoint {result.uri.parent.name}"
    for video_id in read_manifest(checkpoint.uri).lineage["videos"]:
        if video_id not in refused and video_id not in {result.key for result in current}:
            refused[video_id] = "not evaluated"

    def build(fingerprint: str) -> Outcome:
        clips = []
        for done, result in enumerate(current, 1):
            measured = read_json(result.uri / "measures.json")
            clips += [{**clip, "video_id": result.key} for clip in measured["clips"]]
            progress(done, len(current), "videos")
        if not clips:
            raise DatasetError(
                "No held-out sentence was evaluated",
                where=f"checkpoint {version}",
                remedy="Materialise evaluation_samples; refused: "
                + ("; ".join(f"{key}: {why}" for key, why in refused.items()) or "none"),
            )
        card = score(version, clips, refused)
        path = store.scorecard(version)
        write_json(path, card)
        return Outcome(
            uri=path,
            outputs=[path],
            verdicts=verdicts(card, max_loss_ratio=settings.evaluation.max_loss_ratio),
            metadata={
                "version": version,
                "base_loss": card["base_loss"],
                "finetuned_loss": card["finetuned_loss"],
                "loss_ratio": card["loss_ratio"],
                "sentences": card["sentences"],
                "videos": len(card["videos"]),
                "scores": Markdown(_table(card)),
            },
            row_count=card["sentences"],
        )

    return run_stage(
        store,
        SCORECARD,
        WHOLE,
        inputs={
            "max_loss_ratio": settings.evaluation.max_loss_ratio,
            "finetuned_checkpoint": checkpoint.data_version,
            "evaluation_samples": {result.key: result.data_version for result in current},
            "refused": refused,
        },
        build=build,
    )


def score(
    version: str, clips: Sequence[Mapping[str, Any]], refused: Mapping[str, str]
) -> dict[str, Any]:
    """What scorecard.json holds.

    Args:
        clips: rows of measures.json with their `video_id`.
    """
    videos = {}
    for video_id in sorted({clip["video_id"] for clip in clips}):
        videos[video_id] = _losses([clip for clip in clips if clip["video_id"] == video_id])
    return {"version": version, **_losses(clips), "videos": videos, "refused": dict(refused)}


def verdicts(card: Mapping[str, Any], *, max_loss_ratio: float) -> list[Verdict]:
    """The checks of `scorecard`; not_worse_than_base is the gate of the release."""
    refused = card["refused"]
    return [
        SCORECARD.verdict(
            "every_video_evaluated",
            not refused,
            value=len(refused),
            threshold=0,
            detail="; ".join(f"{video}: {why}" for video, why in refused.items()),
        ),
        SCORECARD.verdict(
            "not_worse_than_base",
            card["loss_ratio"] <= max_loss_ratio,
            value=card["loss_ratio"],
            threshold=max_loss_ratio,
        ),
    ]


def _losses(clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    base = fmean(clip["base"]["loss"] for clip in clips)
    finetuned = fmean(clip["finetuned"]["loss"] for clip in clips)
    return {
        "sentences": len(clips),
        "base_loss": round(base, 6),
        "finetuned_loss": round(finetuned, 6),
        "loss_ratio": round(finetuned / base, 6),
    }


def _table(card: Mapping[str, Any]) -> str:
    lines = [
        "| video | sentences | loss base | loss fine-tuned | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, row in [*card["videos"].items(), ("all", card)]:
        lines.append(
            f"| {name} | {row['sentences']} | {row['base_loss']:.4f} "
            f"| {row['finetuned_loss']:.4f} | {row['loss_ratio']:.4f} |"
        )
    lines += [f"| {video} | {why} | | | |" for video, why in card["refused"].items()]
    return "\n".join(lines)

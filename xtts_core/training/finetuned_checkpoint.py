"""`finetuned_checkpoint`: the base model fine-tuned on every usable video, as a new version."""

from __future__ import annotations

import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from xtts_core.dataset.ljspeech import left_out_table
from xtts_core.dataset.split import leaking_clips
from xtts_core.errors import DatasetError, TrainingError
from xtts_core.model.checkpoint import (
    LICENCE_FILE,
    Manifest,
    read_manifest,
    verify,
    write_checkpoint,
)
from xtts_core.settings import SAMPLE_RATE_HZ, EngineSettings, TrainingSettings
from xtts_core.stage import (
    CheckSpec,
    Markdown,
    Outcome,
    Progress,
    Stage,
    StageResult,
    Verdict,
    judge_again,
    require,
    run_stage,
    silent,
    usable,
)
from xtts_core.store import WHOLE, CorpusStore, read_json
from xtts_core.training.codes import AUDIO_CODES, required_base
from xtts_core.training.job import TrainingJob, TrainingReport
from xtts_core.training.process import run_training

if TYPE_CHECKING:
    from torch import Tensor

    from xtts_core.training.data import Clip

FINETUNED_CHECKPOINT = Stage(
    "finetuned_checkpoint",
    "2",
    (
        CheckSpec("weights_finite", "error", "every weight is a finite number"),
        CheckSpec("speaks", "error", "it loads, and speaks a held-out sentence that can be heard"),
        CheckSpec("no_clip_skipped", "error", "every training clip was trained on"),
        CheckSpec(
            "validation_loss_improved", "warn", "held-out clips fit better than with the base"
        ),
        CheckSpec(
            "other_speech_kept",
            "warn",
            "other languages in another voice are predicted about as well as by the base",
        ),
        CheckSpec("licence_present", "error", "the base model's licence travels with the weights"),
    ),
)

MIN_REFERENCES = 3
MAX_REFERENCES = 5
REFERENCE_TOTAL_S = 30.0
"""XTTS conditions on at most 30 s (max_ref_len of its config)."""
_REFERENCE_S = (3.0, 11.0)
SILENCE_DBFS = -60.0
"""As audio.silence_floor_dbfs."""
_RISE = "loss_rise_"


def make_finetuned_checkpoint(
    store: CorpusStore,
    settings: TrainingSettings,
    progress: Progress = silent,
    log: Callable[[str], None] | None = None,
    listed: Collection[str] | None = None,
) -> StageResult:
    """Train in a process of its own and write `checkpoints/<version>/`.

    A run that was killed goes on from its last saved state. Videos whose codes may not be used
    are named in the metadata and left out.

    Args:
        log: told what a person would like to read, a line at a time.
        listed: the ids in videos.csv (None: every video): the others are left out too.
    Raises:
        UpstreamError: the base model is missing or failed.
        DatasetError: no video is usable, or no clip is held out.
        TrainingError: another training runs on this corpus, or this one failed.
    """
    base = required_base(store, settings)
    codes, refused = usable(store, AUDIO_CODES.name, listed)
    for other in [result for result in codes if result.uri.parent.name != base.uri.name]:
        codes.remove(other)
        refused[other.key] = f"its codes are of the base model {other.uri.parent.name}"
    if not codes:
        raise DatasetError(
            "No video has usable audio codes",
            where=str(store.root),
            remedy="Materialise audio_codes; refused: "
            + ("; ".join(f"{key}: {why}" for key, why in refused.items()) or "none"),
        )

    def build(fingerprint: str) -> Outcome:
        from xtts_core.training.data import read_clips

        files = tuple(store.audio_codes(base.uri.name, result.key) for result in codes)
        clips = read_clips(files)
        leaks = leaking_clips(
            {"clip_id": clip.clip_id, "text": clip.text, "split": clip.split} for clip in clips
        )
        clips = [clip for clip in clips if clip.clip_id not in leaks]
        licences = {
            result.key: read_json(store.video(result.key))["row"]["licence"] for result in codes
        }
        job = TrainingJob(
            base_dir=base.uri,
            codes=files,
            left_out=tuple(sorted(leaks)),
            run_dir=store.training_dir(fingerprint),
            settings=settings,
        )
        job.run_dir.mkdir(parents=True, exist_ok=True)
        report = run_training(job, progress, log or (lambda line: None))
        state = merged_state(base.uri, job.weights)
        base_manifest = read_manifest(base.uri)
        lineage = {
            "videos": {result.key: result.data_version for result in codes},
            "licences": licences,
            "refused": refused,
            "left_out": leaks,
            "base_model": base.data_version,
            "fingerprint": fingerprint,
            "git_revision": git_revision(),
        }
        with tempfile.TemporaryDirectory(dir=job.run_dir) as folder:
            checkpoint = write_checkpoint(
                store.checkpoints_dir,
                base_dir=base.uri,
                state=state,
                adapter_dir=job.adapter,
                voices=_write_references(clips, Path(folder)),
                settings=settings.model_dump(mode="json"),
                lineage=lineage,
                metrics={"trained": _trained(settings), **_metrics(report)},
                licence=base_manifest.licence,
                created_at=datetime.now(UTC),
            )
        return Outcome(
            uri=checkpoint,
            outputs=sorted(path for path in checkpoint.rglob("*") if path.is_file()),
            verdicts=verdicts(
                report,
                clips,
                weights_finite=_finite(state),
                max_loss_rise=settings.forgetting.max_loss_rise,
                loudness_dbfs=spoken_level_dbfs(checkpoint, clips, settings.device),
                base=base_manifest,
                written=verify(checkpoint),
            ),
            metadata={
                "version": checkpoint.name,
                "trained": _trained(settings),
                **_metrics(report),
                "loss_ratio": report.val_loss / report.base_val_loss,
                "videos": len(codes),
                "losses": Markdown(_loss_table(report)),
                "left_out": Markdown(left_out_table(leaks, refused)),
            },
        )

    lock = store.lock("training", timeout_s=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(
            "Another training runs on this corpus",
            where=lock.lock_file,
            remedy="Wait for it or stop it; the lock ends with its process",
        ) from None
    try:
        result = run_stage(
            store,
            FINETUNED_CHECKPOINT,
            WHOLE,
            inputs={
                "base": settings.base_model.name,
                **learning_inputs(settings),
                "base_model": base.data_version,
                "audio_codes": {result.key: result.data_version for result in codes},
            },
            build=build,
        )
        _drop_states(store.training_dir(result.fingerprint))
        if result.skipped:
            result = _forgetting_judged_again(store, result, settings.forgetting.max_loss_rise)
    finally:
        lock.release()
    return result


def learning_inputs(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that the weights follow from: nothing of an adapter or of an augmentation that
    is off, one learning rate, and nothing that only trades time for memory."""
    lora, augmentation = settings.lora, settings.augmentation
    unused = {
        "learning_rate_full" if lora.enabled else "learning_rate_lora",
        "gradient_checkpointing",
    }
    return {
        "lora": lora.model_dump(mode="json") if lora.enabled else {"enabled": False},
        "augmentation": augmentation.model_dump(mode="json") if augmentation.share else None,
        "optimisation": settings.optimisation.model_dump(mode="json", exclude=unused),
        "patience_epochs": settings.checkpoints.patience_epochs,
    }


def current_checkpoint(store: CorpusStore) -> Path:
    """The folder of the newest checkpoint that passed its blocking checks.

    Raises:
        UpstreamError: there is none.
    """
    return require(store, FINETUNED_CHECKPOINT.name, WHOLE).uri


def verdicts(
    report: TrainingReport,
    clips: Sequence[Clip],
    *,
    weights_finite: bool,
    max_loss_rise: float,
    loudness_dbfs: float,
    base: Manifest,
    written: Manifest,
) -> list[Verdict]:
    """The checks of `finetuned_checkpoint`.

    Args:
        clips: the clips that training was given, both sides.
        max_loss_rise: how much the loss on other speech may rise, in nats a code.
        loudness_dbfs: what `spoken_level_dbfs` found.
        base, written: the manifests of the base model and of the checkpoint, whose files were
            verified.
    """
    given = sum(clip.split == "train" for clip in clips)
    return [
        FINETUNED_CHECKPOINT.verdict("weights_finite", weights_finite),
        FINETUNED_CHECKPOINT.verdict(
            "speaks",
            loudness_dbfs > SILENCE_DBFS,
            value=round(loudness_dbfs, 1),
            threshold=SILENCE_DBFS,
        ),
        FINETUNED_CHECKPOINT.verdict(
            "no_clip_skipped",
            report.train_clips == given,
            value=report.train_clips,
            threshold=given,
        ),
        FINETUNED_CHECKPOINT.verdict(
            "validation_loss_improved",
            report.val_loss < report.base_val_loss,
            value=report.val_loss,
            threshold=report.base_val_loss,
        ),
        _forgetting(
            {probe.language: probe.after - probe.before for probe in report.probes}, max_loss_rise
        ),
        FINETUNED_CHECKPOINT.verdict(
            "licence_present",
            bool(base.licence)
            and written.licence == base.licence
            and written.files.get(LICENCE_FILE) == base.files.get(LICENCE_FILE),
            value=written.licence,
            threshold=base.licence,
        ),
    ]


def _forgetting(rises: Mapping[str, float], max_loss_rise: float) -> Verdict:
    return FINETUNED_CHECKPOINT.at_most(
        "other_speech_kept",
        max(rises.values(), default=0.0),
        max_loss_rise,
        detail="the loss rose by "
        + ", ".join(f"{rise:.3f} ({language})" for language, rise in sorted(rises.items()))
        + " nats a code; lower the learning rate or the epochs, or train an adapter",
    )


def spoken_level_dbfs(checkpoint: Path, clips: Sequence[Clip], device: str) -> float:
    """The level of the first held-out sentence, spoken in its speaker's voice or the first one that
    there is; minus infinity where a sample is no number.

    Raises:
        ModelError: the checkpoint does not load.
    """
    import numpy as np

    from xtts_core.model.engine import Engine, read_reference
    from xtts_core.model.sampling import Sampling

    engine = Engine.load(checkpoint, EngineSettings.model_validate({"device": device}))
    said = next(clip for clip in clips if clip.split == "val")
    voices = engine.voices()
    references = voices.get(said.speaker) or next(iter(voices.values()))
    voice = engine.latents([read_reference(path) for path in references])
    audio = engine.synthesize(said.text, said.language, voice, Sampling(seed=0))
    level = np.square(audio, dtype=np.float64).mean() if np.isfinite(audio).all() else 0.0
    return float(10 * np.log10(level)) if level else float("-inf")


def merged_state(base_dir: Path, trained: Path) -> dict[str, Tensor]:
    """The base model's tensors with the trained ones in their places.

    Raises:
        TrainingError: a trained tensor has no place in the base model.
    """
    from safetensors.torch import load_file

    from xtts_core.model.loading import MODEL_FILE, read_tensors

    state = read_tensors(base_dir / MODEL_FILE)
    weights = load_file(trained)
    strangers = sorted(
        name for name in weights if name not in state or state[name].shape != weights[name].shape
    )
    if strangers:
        raise TrainingError(
            f"The trained weights do not fit the base model: {', '.join(strangers[:5])}",
            where=str(trained),
            remedy="Materialise the base model again, then train again",
        )
    return {**state, **weights}


def reference_clips(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """The 3 to 5 best training clips of each speaker (where it has as many): more than three only
    while they stay within 30 s."""
    by_speaker: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.split == "train":
            by_speaker[clip.speaker].append(clip)
    chosen = {}
    for speaker, candidates in sorted(by_speaker.items()):
        candidates.sort(
            key=lambda c: reference_rank(
                c.clip_id, c.duration_s, c.snr_db, c.bandwidth_hz, c.speaker_similarity
            )
        )
        best = candidates[:MIN_REFERENCES]
        for clip in candidates[MIN_REFERENCES:MAX_REFERENCES]:
            if sum(c.duration_s for c in best) + clip.duration_s <= REFERENCE_TOTAL_S:
                best.append(clip)
        chosen[speaker] = best
    return chosen


def reference_rank(
    clip_id: str,
    duration_s: float,
    snr_db: float,
    bandwidth_hz: float | None,
    speaker_similarity: float | None,
) -> tuple[bool, float, str]:
    """How well a clip serves as a voice's reference, the best first: those of 3 to 11 s, then by
    what is clean, bright and most like the speaker's other clips, each as a share of its range
    (0 to 60 dB, 0 to 11 025 Hz, a cosine of 0.8 to 1). A measure that is missing counts as nought.
    """
    shortest, longest = _REFERENCE_S
    quality = (
        _share(snr_db, 0.0, 60.0)
        + _share(bandwidth_hz, 0.0, SAMPLE_RATE_HZ / 2)
        + _share(speaker_similarity, 0.8, 1.0)
    )
    return (not shortest <= duration_s <= longest, -quality, clip_id)


def _share(value: float | None, low: float, high: float) -> float:
    return 0.0 if value is None else min(max((value - low) / (high - low), 0.0), 1.0)


def git_revision() -> str | None:
    """The commit of this code, or None where it is not a clone or git is not installed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _write_references(clips: Sequence[Clip], folder: Path) -> dict[str, list[Path]]:
    import soundfile

    voices: dict[str, list[Path]] = {}
    for speaker, chosen in reference_clips(clips).items():
        voices[speaker] = [folder / f"{clip.clip_id}.wav" for clip in chosen]
        for clip, path in zip(chosen, voices[speaker], strict=True):
            soundfile.write(path, clip.audio().numpy(), SAMPLE_RATE_HZ, subtype="PCM_16")
    return voices


def _finite(state: Mapping[str, Tensor]) -> bool:
    return all(
        bool(tensor.isfinite().all()) for tensor in state.values() if tensor.is_floating_point()
    )


def _trained(settings: TrainingSettings) -> str:
    lora, optimisation = settings.lora, settings.optimisation
    if not lora.enabled:
        return f"all weights, at a rate of {optimisation.learning_rate_full:g}"
    return (
        f"LoRA of rank {lora.rank} and alpha {lora.alpha:g} on {', '.join(lora.targets)}, "
        f"at a rate of {optimisation.learning_rate_lora:g}"
    )


def _metrics(report: TrainingReport) -> dict[str, Any]:
    return {
        "base_val_loss": report.base_val_loss,
        "val_loss": report.val_loss,
        "best_epoch": report.best_epoch,
        "epochs": report.history[-1].epoch,
        "steps": report.steps,
        "train_clips": report.train_clips,
        "val_clips": report.val_clips,
        "trainable_parameters": report.trainable_parameters,
        "training_s": report.seconds,
        "device": report.device,
        "precision": report.precision,
        "processes": report.processes,
        **{f"{_RISE}{probe.language}": probe.after - probe.before for probe in report.probes},
    }


def _forgetting_judged_again(
    store: CorpusStore, result: StageResult, max_loss_rise: float
) -> StageResult:
    """A limit of the check is no reason to train again."""
    rises = {
        name.removeprefix(_RISE): float(value)
        for name, value in result.metadata.items()
        if name.startswith(_RISE) and not isinstance(value, Markdown)
    }
    return judge_again(store, result, _forgetting(rises, max_loss_rise))


def _drop_states(run_dir: Path) -> None:
    """Free what only an unfinished run needs; the curves and the log stay."""
    for name in ("states", "best", "result"):
        rmtree(run_dir / name, ignore_errors=True)
    for probes in run_dir.glob("probes-*.safetensors"):
        probes.unlink()


def _loss_table(report: TrainingReport) -> str:
    lines = ["| epoch | train | validation | text | audio |", "|---|---|---|---|---|"]
    for row in report.history:
        train = "" if row.train is None else f"{row.train:.4f}"
        lines.append(
            f"| {row.epoch} | {train} | {row.validation:.4f} | {row.validation_text:.4f} "
            f"| {row.validation_audio:.4f} |"
        )
    return "\n".join(lines)

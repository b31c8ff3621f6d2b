"""`evaluation_samples`: held-out sentences spoken by the base and the fine-tuned model.

Each sentence is spoken in its speaker's voice, taken from a training clip, and its own recording
is scored under both models. `evaluation/<version>/<id>/` holds `<clip>.base.wav`,
`<clip>.finetuned.wav` and `measures.json`, written last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from xtts_core.errors import DatasetError
from xtts_core.settings import NATIVE_RATE_HZ, TrainingSettings
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
from xtts_core.store import WHOLE, CorpusStore, atomic_file, read_json, sha256_file, write_json
from xtts_core.training.codes import code_clips, described_clips, required_base
from xtts_core.training.finetuned_checkpoint import FINETUNED_CHECKPOINT, reference_rank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xtts_core.model.engine import Engine
    from xtts_core.training.data import Clip

MIN_RMS_DBFS = -80.0
"""Below this a sample is taken for silence; 16-bit dither lies at about -98 dBFS."""
SILENCE_DBFS = -50.0
"""A frame of 20 ms below this counts as silence: 10 dB under the VAD's floor for recordings."""

EVALUATION_SAMPLES = Stage(
    "evaluation_samples",
    "1",
    (
        CheckSpec("samples_audible", "error", "every sample is finite and above -80 dBFS"),
        CheckSpec("reference_is_another_clip", "error", "no evaluated clip is a reference"),
        CheckSpec("loss_not_worse", "warn", "held-out clips fit at least as well as with the base"),
    ),
)

_MODELS = ("base", "finetuned")


def make_evaluation_samples(
    store: CorpusStore, settings: TrainingSettings, video_id: str, progress: Progress = silent
) -> StageResult:
    """Speak and score up to `max_sentences_per_video` held-out clips of one video.

    A video without held-out clips gives empty measures that say so.

    Raises:
        UpstreamError: a stage before is missing or failed.
        DatasetError: a clip that is needed cannot be read.
    """
    checkpoint = require(store, FINETUNED_CHECKPOINT.name, WHOLE)
    base = required_base(store, settings)
    metadata = require(store, "metadata", video_id)
    splits = require(store, "train_val_splits", video_id)

    def build(fingerprint: str) -> Outcome:
        folder = store.evaluation_dir(checkpoint.uri.name, video_id)
        folder.mkdir(parents=True, exist_ok=True)
        clips = described_clips(store, video_id)
        held_out = [clip for clip in clips if clip["split"] == "val"]
        chosen = held_out[: settings.evaluation.max_sentences_per_video]
        rows: list[dict[str, Any]] = []
        wavs: list[Path] = []
        spent_s = 0.0
        if chosen:
            coded = _read(store, base.uri, [*chosen, _reference_row(clips)])
            voices = {
                "base": load_voice(base.uri, settings),
                "finetuned": load_voice(checkpoint.uri, settings),
            }
            reference = coded.pop()
            for done, clip in enumerate(coded, 1):
                row: dict[str, Any] = {
                    "clip_id": clip.clip_id,
                    "text": clip.text,
                    "reference": reference.clip_id,
                    "recorded_duration_s": round(clip.duration_s, 4),
                }
                for name in _MODELS:
                    started = monotonic()
                    audio = voices[name].speak(clip, reference, settings.optimisation.seed)
                    spent_s += monotonic() - started
                    path = folder / f"{clip.clip_id}.{name}.wav"
                    _write_wav(path, audio)
                    wavs.append(path)
                    row[name] = {
                        **voices[name].losses(clip, reference, settings),
                        **audio_measures(audio, clip.text),
                    }
                rows.append(row)
                progress(done, len(chosen), "sentences")
        measures = folder / "measures.json"
        write_json(
            measures,
            {
                "version": checkpoint.uri.name,
                "video_id": video_id,
                "held_out_clips": len(held_out),
                "reason": "" if rows else "the video has no held-out clip",
                "clips": rows,
            },
        )
        for stray in set(folder.glob("*.wav")) - set(wavs):
            stray.unlink()
        return Outcome(
            uri=folder,
            outputs=[measures, *wavs],
            verdicts=verdicts(read_json(measures)["clips"]),
            metadata={"version": checkpoint.uri.name, **_summary(rows, spent_s)},
            row_count=len(rows),
        )

    return run_stage(
        store,
        EVALUATION_SAMPLES,
        video_id,
        inputs={
            "max_sentences_per_video": settings.evaluation.max_sentences_per_video,
            "seed": settings.optimisation.seed,
            "text_loss_weight": settings.optimisation.text_loss_weight,
            "audio_loss_weight": settings.optimisation.audio_loss_weight,
            "finetuned_checkpoint": checkpoint.data_version,
            "base_model": base.data_version,
            "metadata": metadata.data_version,
            "train_val_splits": splits.data_version,
        },
        build=build,
    )


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The checks of `evaluation_samples` on the rows of measures.json."""
    spoken = [row[name] for row in rows for name in _MODELS]
    quiet = [
        f"{row['clip_id']}.{name}"
        for row in rows
        for name in _MODELS
        if not (row[name]["finite"] and row[name]["rms_dbfs"] > MIN_RMS_DBFS)
    ]
    evaluated = {row["clip_id"] for row in rows}
    own = [row["clip_id"] for row in rows if row["reference"] in evaluated]
    base, finetuned = (
        fmean(row[name]["loss"] for row in rows) if rows else 0.0 for name in _MODELS
    )
    return [
        EVALUATION_SAMPLES.verdict(
            "samples_audible",
            not quiet,
            value=len(spoken) - len(quiet),
            threshold=len(spoken),
            detail=", ".join(quiet),
        ),
        EVALUATION_SAMPLES.verdict(
            "reference_is_another_clip", not own, value=len(own), threshold=0, detail=", ".join(own)
        ),
        EVALUATION_SAMPLES.verdict(
            "loss_not_worse", finetuned <= base, value=finetuned, threshold=base
        ),
    ]


def audio_measures(audio: NDArray[np.float32], text: str) -> dict[str, Any]:
    """What can be told of spoken audio (24 000 Hz, mono) without a model."""
    frame = NATIVE_RATE_HZ // 50
    whole = np.pad(audio.astype(np.float64), (0, -len(audio) % frame))
    frame_dbfs = _dbfs(whole.reshape(-1, frame))
    duration_s = len(audio) / NATIVE_RATE_HZ
    return {
        "duration_s": round(duration_s, 4),
        "seconds_per_character": round(duration_s / len(text), 5),
        "rms_dbfs": round(float(_dbfs(audio.astype(np.float64)[None])[0]), 3),
        "silence_share": round(float((frame_dbfs < SILENCE_DBFS).mean()), 4),
        "finite": bool(np.isfinite(audio).all()),
    }


def _dbfs(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """The level of each row; digital silence is -200."""
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum((frames**2).mean(axis=1), 1e-20))
    return levels


# --- the models -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voice:
    """A loaded model that speaks a sentence and scores a recording."""

    gpt: Any
    mel: Any
    engine: Engine
    directory: Path

    def speak(self, clip: Clip, reference: Clip, seed: int) -> NDArray[np.float32]:
        """The clip's text in the reference's voice: mono float32 at 24 000 Hz."""
        from xtts_core.model.sampling import Sampling
        from xtts_core.training.mel import pcm_to_float

        latents = self.engine.latents([pcm_to_float(reference.audio()).numpy()])
        return self.engine.synthesize(clip.text, clip.language, latents, Sampling(seed=seed))

    def losses(self, clip: Clip, reference: Clip, settings: TrainingSettings) -> dict[str, float]:
        """The clip's loss given its own codes, conditioned on the start of the reference: the
        weighted sum that training minimises, and its parts."""
        import torch

        from xtts_core.training.data import held_out_span, make_batch, tokenise
        from xtts_core.training.loss import text_and_audio_loss

        tokens = tokenise([clip], self.directory)
        batch = make_batch([clip], [held_out_span(clip, reference)], tokens)
        device = next(self.gpt.parameters()).device
        with torch.no_grad():
            text, audio = text_and_audio_loss(self.gpt, self.mel, batch.to(device))
        weights = settings.optimisation
        total = weights.text_loss_weight * text + weights.audio_loss_weight * audio
        return {
            "loss": round(total.item(), 6),
            "text_loss": round(text.item(), 6),
            "audio_loss": round(audio.item(), 6),
        }


def load_voice(directory: Path, settings: TrainingSettings) -> Voice:
    """A base model or checkpoint, verified; the last two stay loaded, since evaluation asks for
    the same two once a video."""
    from xtts_core.model.checkpoint import MANIFEST_FILE

    return _load_voice(directory, sha256_file(directory / MANIFEST_FILE), settings.device)


@lru_cache(maxsize=2)
def _load_voice(directory: Path, manifest_sha256: str, device: str) -> Voice:
    from xtts_core.model.checkpoint import verify
    from xtts_core.model.engine import Engine
    from xtts_core.model.loading import load_model, resolve_device
    from xtts_core.model.tokenizer import Tokenizer
    from xtts_core.training.mel import conditioning_mel

    verify(directory)
    where = resolve_device(device)
    model = load_model(directory, where)
    return Voice(
        gpt=model.gpt,
        mel=conditioning_mel(model.mel_stats),
        engine=Engine(model, Tokenizer.load(directory), manifest_sha256[:8], {}),
        directory=directory,
    )


# --- clips and files --------------------------------------------------------------------------


def _reference_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The best training clip of the video (one video has one speaker)."""
    return min(
        (row for row in rows if row["split"] == "train"),
        key=lambda row: reference_rank(
            row["clip_id"],
            row["duration_s"],
            row["snr_db"],
            row["bandwidth_hz"],
            row["speaker_similarity"],
        ),
    )


def _read(store: CorpusStore, base_dir: Path, rows: Sequence[Mapping[str, Any]]) -> list[Clip]:
    from xtts_core.training.data import Clip, LoadedTensors

    result = code_clips(store, base_dir, rows)
    if result.rejected:
        raise DatasetError(
            "A clip that is to be evaluated cannot be read",
            where="; ".join(result.rejected.values()),
            remedy="Materialise segments and metadata of this video again",
        )
    tensors = LoadedTensors(result.tensors)
    return [Clip.of(row, tensors) for row in rows]


def _write_wav(path: Path, audio: NDArray[np.float32]) -> None:
    import soundfile

    with atomic_file(path) as aside:
        soundfile.write(aside, np.clip(audio, -1, 1), NATIVE_RATE_HZ, subtype="PCM_16")


def _summary(rows: Sequence[Mapping[str, Any]], spent_s: float) -> dict[str, MetadataValue]:
    if not rows:
        return {"sentences": 0, "reason": "the video has no held-out clip"}
    spoken_s = sum(row[name]["duration_s"] for row in rows for name in _MODELS)
    lines = [
        "| clip | text | loss base | loss fine-tuned | s base | s fine-tuned | s recorded |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['clip_id']} | {row['text']} | {row['base']['loss']:.4f} "
        f"| {row['finetuned']['loss']:.4f} | {row['base']['duration_s']:.2f} "
        f"| {row['finetuned']['duration_s']:.2f} | {row['recorded_duration_s']:.2f} |"
        for row in rows
    ]
    return {
        "sentences": len(rows),
        "base_loss": fmean(row["base"]["loss"] for row in rows),
        "finetuned_loss": fmean(row["finetuned"]["loss"] for row in rows),
        "spoken_s": round(spoken_s, 3),
        "real_time_factor": round(spent_s / spoken_s, 4),
        "samples": Markdown("\n".join(lines)),
    }

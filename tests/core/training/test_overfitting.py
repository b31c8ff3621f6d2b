"""Four short clips are learnt by heart, and said again by coqui-tts's own greedy decoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from xtts_core.model.loading import load_mel_stats, load_model
from xtts_core.settings import SAMPLE_RATE_HZ, TrainingSettings
from xtts_core.training.codes import Coder
from xtts_core.training.data import (
    Batch,
    Clip,
    held_out_spans,
    make_batch,
    read_clips,
    tokenise,
)
from xtts_core.training.finetuned_checkpoint import merged_state
from xtts_core.training.job import TrainingJob
from xtts_core.training.lora import LAYERS_FILE
from xtts_core.training.mel import conditioning_mel
from xtts_core.training.trainer import train

SAMPLES = 2 * SAMPLE_RATE_HZ
LORA: dict[str, Any] = {
    "lora": {
        **{"enabled": True, "rank": 32, "alpha": 64, "dropout": 0},
        **{"train_heads": True, "train_embeddings": True},
    },
    "optimisation": {"epochs": 60, "learning_rate_lora": 1e-2},
}
FULL: dict[str, Any] = {
    "lora": {"enabled": False},
    "optimisation": {"epochs": 50, "learning_rate_full": 6e-3, "batch_size": 2},
}


def memorised(job: TrainingJob, folder: Path, settings: dict[str, Any]) -> TrainingJob:
    """Train on the first two seconds and five words of four clips; one of them judges it."""
    index = job.codes[-1]
    coder = Coder(job.base_dir)
    clips = {clip.clip_id: clip for clip in read_clips([index])}
    rows = [row for row in pq.read_table(index).to_pylist() if row["split"] == "train"][:4]
    tensors = {}
    for row in rows:
        audio = clips[row["clip_id"]].audio(0, SAMPLES).clone()
        tensors[f"{row['sha256']}.audio"] = audio
        tensors[f"{row['sha256']}.codes"] = coder.codes(audio).to(torch.int16)
        row |= {"shard": "four.safetensors", "text": " ".join(row["text"].split()[:5])}
    shards = folder / "four"
    shards.mkdir()
    save_file(tensors, shards / "four.safetensors")
    judge = {**rows[0], "split": "val"}
    table = pa.Table.from_pylist([*rows, judge], schema=pq.read_schema(index))
    pq.write_table(table, folder / "four.parquet")
    job = replace(
        job,
        codes=(folder / "four.parquet",),
        settings=TrainingSettings.model_validate(
            {
                **settings,
                "device": "cpu",
                "base_model": {"name": "tiny"},
                "optimisation": {
                    **{"batch_size": 4, "gradient_accumulation": 1, "warmup_steps": 10},
                    **{"conditioning": "other_clip", **settings["optimisation"]},
                },
                "forgetting": {"sentences": 0},
                "logging": {"samples": 0},
                "checkpoints": {"patience_epochs": 1_000},
            }
        ),
    )
    train(job, lambda event: None)
    return job


def learnt(job: TrainingJob) -> list[tuple[Clip, Batch]]:
    clips = read_clips(job.codes)
    span, tokens = held_out_spans(clips), tokenise(clips, job.base_dir)
    trained = [clip for clip in clips if clip.split == "train"]
    return [(clip, make_batch([clip], [span(clip)], tokens)) for clip in trained]


def merged(job: TrainingJob) -> Any:
    model = load_model(job.base_dir)
    model.load_state_dict(merged_state(job.base_dir, job.weights))
    model.eval()  # Which is what makes coqui-tts's GPT ready to generate.
    return model.gpt


@torch.no_grad()
def voice(job: TrainingJob, batch: Batch) -> torch.Tensor:
    """The mel of its span, as coqui-tts's `GPT.forward` takes it."""
    mel: torch.Tensor = conditioning_mel(load_mel_stats(job.base_dir))(batch.conditioning)
    return mel[:, None]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(LORA, id="LoRA, merged"),
        pytest.param(FULL, id="full", marks=pytest.mark.long),
    ],
)
def test_what_was_learnt_by_heart_is_said_again_and_ends_by_itself(
    job: TrainingJob, tmp_path: Path, settings: dict[str, Any]
) -> None:
    job = memorised(job, tmp_path, settings)
    gpt = merged(job)
    wrong = codes = 0
    for clip, batch in learnt(job):
        with torch.no_grad():
            latents = gpt.get_style_emb(voice(job, batch)).transpose(1, 2)
            said = gpt.generate(
                latents, batch.text, do_sample=False, num_beams=1, repetition_penalty=1.0
            )[0].tolist()
        expected = clip.codes().tolist()
        assert said.pop() == gpt.stop_audio_token
        pairs = zip(said, expected, strict=False)
        wrong += sum(a != b for a, b in pairs) + abs(len(said) - len(expected))
        codes += len(expected)
    assert codes == 4 * 44
    assert wrong < 0.02 * codes


@torch.no_grad()
def test_the_exported_weights_and_the_adapter_beside_the_base_model_agree(
    job: TrainingJob, tmp_path: Path
) -> None:
    quick = {**LORA, "optimisation": {**LORA["optimisation"], "epochs": 5}}
    with torch.enable_grad():
        job = memorised(job, tmp_path, quick)
    assert job.adapter is not None
    base, beside = (load_model(job.base_dir).gpt.eval() for _ in range(2))
    missing = beside.load_state_dict(load_file(job.adapter / LAYERS_FILE), strict=False)
    assert not missing.unexpected_keys
    PeftModel.from_pretrained(beside.gpt, job.adapter).eval()
    ours = merged(job)

    def logits(gpt: Any, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = gpt(
            batch.text,
            batch.text_lengths,
            batch.codes,
            batch.wav_lengths,
            cond_mels=voice(job, batch),
        )[2]
        return found

    for _, batch in learnt(job):
        found, expected = logits(ours, batch), logits(beside, batch)
        peak = expected.abs().max()
        assert (found - expected).abs().max() <= 1e-5 * peak
        assert (found - logits(base, batch)).abs().max() > 0.1 * peak

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xtts_core.dataset.fan_in import gather
from xtts_core.errors import DatasetError, SettingsError, TrainingError
from xtts_core.model.loading import MODEL_FILE, load_mel_stats, load_model
from xtts_core.settings import TrainingSettings
from xtts_core.stage import silent
from xtts_core.store import CorpusStore, write_json
from xtts_core.training.data import held_out_spans, make_batch, read_clips, tokenise
from xtts_core.training.job import EpochLosses, TrainingJob, TrainingReport
from xtts_core.training.lora import EMBEDDINGS, HEADS, LAYERS_FILE
from xtts_core.training.loss import text_and_audio_loss
from xtts_core.training.mel import conditioning_mel
from xtts_core.training.process import run_training
from xtts_core.training.states import Curve
from xtts_core.training.trainer import learning_rate_factor, read_data, train


def with_settings(job: TrainingJob, **sections: dict[str, Any]) -> TrainingJob:
    raw = job.settings.model_dump(mode="json")
    for name, values in sections.items():
        raw[name] = {**raw[name], **values}
    settings = TrainingSettings.model_validate_json(json.dumps(raw))
    return replace(job, settings=settings)


def run(job: TrainingJob) -> tuple[TrainingReport, list[Mapping[str, Any]]]:
    events: list[Mapping[str, Any]] = []
    return train(job, events.append), events


def step_losses(events: list[Mapping[str, Any]]) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


def start_process(job: TrainingJob) -> subprocess.Popen[str]:
    """The run in a process of its own, as the asset starts it."""
    write_json(job.run_dir / "job.json", job.to_json())
    return subprocess.Popen(
        [sys.executable, "-m", "xtts_core.training", job.run_dir / "job.json", "--end-with-stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def trained_clips(job: TrainingJob) -> list[str]:
    return [clip.clip_id for clip in read_clips(job.codes) if clip.split == "train"]


def with_a_nan(base_dir: Path, tmp_path: Path) -> Path:
    """A copy of the base model with one weight that is no number."""
    broken = tmp_path / "broken"
    shutil.copytree(base_dir, broken)
    state = load_file(broken / MODEL_FILE)
    state["gpt.final_norm.weight"][0] = float("nan")
    save_file(state, broken / MODEL_FILE)
    return broken


def losses(*validation: float) -> tuple[EpochLosses, ...]:
    return tuple(EpochLosses(i, 1.0, loss, loss, loss) for i, loss in enumerate(validation))


def test_a_run_killed_amid_an_epoch_goes_on_with_the_losses_of_an_unbroken_one(
    job: TrainingJob, tmp_path: Path
) -> None:
    job = with_settings(job, optimisation={"batch_size": 2, "gradient_accumulation": 1})
    killed = replace(job, run_dir=tmp_path / "killed")
    seen: list[Mapping[str, Any]] = []
    with start_process(killed) as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(json.loads(line))
            if (seen[-1]["event"], seen[-1].get("step")) == ("saved", 6):
                os.kill(process.pid, signal.SIGKILL)
                break
    assert not killed.report.exists()
    half_written = killed.states_dir / ".half-written"
    half_written.mkdir()
    (half_written / "weights.safetensors").write_bytes(b"half")
    (killed.best_dir / ".half-written.safetensors").write_bytes(b"half")

    report, later = run(killed)
    unbroken, events = run(job)
    assert later[0]["event"] == "start"
    assert (later[0]["epoch"], later[0]["step"], unbroken.steps) == (1, 6, 12)
    whole = step_losses(events)
    assert list(step_losses(later)) == list(range(7, 13))
    assert step_losses(seen) | step_losses(later) == pytest.approx(whole, rel=1e-6)
    assert [row.validation for row in report.history] == pytest.approx(
        [row.validation for row in unbroken.history], rel=1e-6
    )
    assert [row.train for row in report.history[1:]] == pytest.approx(
        [row.train for row in unbroken.history[1:]], rel=1e-6
    )
    for name, tensor in load_file(job.weights).items():
        torch.testing.assert_close(load_file(killed.weights)[name], tensor)
    assert not half_written.exists()
    assert not list(killed.best_dir.glob(".*"))


def test_two_processes_have_the_losses_of_one(job: TrainingJob, tmp_path: Path) -> None:
    # Five batches of an epoch in steps of two: in the last step one process has none.
    job = with_settings(job, optimisation={"batch_size": 2, "epochs": 2})
    job = replace(job, left_out=(trained_clips(job)[0],))
    shared = replace(job, run_dir=tmp_path / "shared")
    shared.run_dir.mkdir()
    shared = replace(shared, settings=shared.settings.model_copy(update={"processes": 2}))
    told: list[str] = []
    together = run_training(shared, silent, told.append)
    alone, _ = run(job)
    assert (alone.processes, together.processes) == (1, 2)
    assert "2 processes" in told[0]
    for ours, theirs in zip(together.history, alone.history, strict=True):
        assert ours.train == pytest.approx(theirs.train, abs=1e-5)
        assert ours.validation == pytest.approx(theirs.validation, abs=1e-5)
    for name, tensor in load_file(job.weights).items():
        torch.testing.assert_close(load_file(shared.weights)[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.long
def test_of_two_processes_the_one_that_fails_is_heard(job: TrainingJob, tmp_path: Path) -> None:
    broken = with_settings(
        replace(job, base_dir=with_a_nan(job.base_dir, tmp_path)),
        optimisation={"batch_size": 2},
    )
    broken = replace(broken, settings=broken.settings.model_copy(update={"processes": 2}))
    broken.run_dir.mkdir()
    with pytest.raises(TrainingError, match="not a finite number"):
        run_training(broken, silent, lambda line: None)


@pytest.mark.long
def test_of_two_processes_one_that_is_killed_ends_the_run_with_the_setting_to_lower(
    job: TrainingJob,
) -> None:
    job = with_settings(job, optimisation={"epochs": 500, "gradient_accumulation": 2})
    job = replace(job, settings=job.settings.model_copy(update={"processes": 2}))
    job.run_dir.mkdir()

    def kill_the_other(line: str) -> None:
        if line.startswith("epoch 1"):
            for process in psutil.Process().children(recursive=True):
                if process.environ().get("RANK") == "1":
                    process.kill()

    with pytest.raises(TrainingError, match="memory ran out"):
        run_training(job, silent, kill_the_other)


@pytest.mark.parametrize("lora", [True, False])
def test_layers_computed_twice_give_the_same_losses(
    job: TrainingJob, tmp_path: Path, lora: bool
) -> None:
    job = with_settings(job, lora={"enabled": lora}, optimisation={"epochs": 1})
    saving = with_settings(
        replace(job, run_dir=tmp_path / "saving"), optimisation={"gradient_checkpointing": True}
    )
    plain, saved = run(job)[0], run(saving)[0]
    assert saved.history[1].train == pytest.approx(plain.history[1].train, rel=1e-6)
    assert saved.val_loss == pytest.approx(plain.val_loss, rel=1e-6)


def test_half_precision_follows_the_curve_of_full_precision(
    job: TrainingJob, tmp_path: Path
) -> None:
    half = with_settings(
        replace(job, run_dir=tmp_path / "half"), optimisation={"precision": "bf16"}
    )
    whole, report = run(job)[0], run(half)[0]
    assert (whole.precision, report.precision) == ("fp32", "bf16")
    assert report.history != whole.history
    assert report.val_loss == pytest.approx(whole.val_loss, rel=0.02)


def test_fp16_without_a_gpu_is_refused(job: TrainingJob) -> None:
    with pytest.raises(SettingsError, match="fp16 needs a GPU"):
        run(with_settings(job, optimisation={"precision": "fp16"}))


def test_heads_and_embeddings_are_trained_beside_the_adapter_where_that_is_asked_for(
    job: TrainingJob,
) -> None:
    job = with_settings(
        job,
        lora={"train_heads": True, "train_embeddings": True},
        optimisation={"epochs": 1},
    )
    run(job)
    base = load_file(job.base_dir / MODEL_FILE)
    weights = load_file(job.weights)
    changed = {name for name, tensor in weights.items() if not torch.equal(tensor, base[name])}
    beside = {f"gpt.{name}" for name in load_file(job.result_dir / "adapter" / LAYERS_FILE)}
    assert {name for name in changed if not name.startswith("gpt.gpt.h.")} == beside
    assert {name.split(".")[1] for name in beside} == {*HEADS, *EMBEDDINGS}


def test_the_voice_of_another_clip_leaves_no_code_out(job: TrainingJob) -> None:
    other = read_data(with_settings(job, optimisation={"conditioning": "other_clip"}))
    same = read_data(job)
    for data, scored in ((other, True), (same, False)):
        batches = [data.batch(clips, 1) for step in data.epoch(1) for clips in step]
        unscored = {span for batch in batches for span in batch.unscored}
        assert (unscored == {(0, 0)}) is scored


def test_augmentation_changes_what_is_trained_on_and_not_what_it_is_judged_by(
    job: TrainingJob, tmp_path: Path
) -> None:
    plain = with_settings(job, optimisation={"epochs": 1})
    changed = with_settings(
        replace(plain, run_dir=tmp_path / "changed"),
        augmentation={"share": 1.0, "max_stretch": 0.1, "max_pitch_semitones": 1.0},
    )
    (before, _), (after, events) = run(plain), run(changed)
    assert after.history[0] == before.history[0]
    assert after.history[1].train != before.history[1].train
    assert [e["event"] for e in events[:2]] == ["start", "warning"]
    assert "another speaker's" in events[1]["what"]


def test_a_disk_without_room_for_the_run_is_refused_with_what_it_needs(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(job.run_dir.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(
        TrainingError, match=r"needs 0\.\d\d GB on this disk, and 0\.00 GB are free"
    ):
        run(job)


def test_a_state_that_cannot_be_written_leaves_the_last_one_and_the_run_goes_on_from_it(
    job: TrainingJob, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk: the write itself fails."""
    job = with_settings(job, lora={"enabled": False}, optimisation={"batch_size": 2})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(event: Mapping[str, Any]) -> None:
        if event["event"] == "saved" and event["step"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))

    try:
        with pytest.raises(TrainingError, match=r"It cannot be written: .*File too large"):
            train(job, fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    kept = ["step-00000001", "step-00000002"]
    assert [path.name for path in sorted(job.states_dir.iterdir())] == kept
    report, later = run(job)
    unbroken, _ = run(replace(job, run_dir=tmp_path / "unbroken"))
    assert later[0]["step"] == 2
    assert report.history == unbroken.history


def test_memory_that_runs_out_is_explained_with_the_setting_to_lower(job: TrainingJob) -> None:
    job.run_dir.mkdir()
    write_json(job.run_dir / "job.json", job.to_json())
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from xtts_core.training.job import TrainingJob\n"
        "from xtts_core.training.trainer import train\n"
        "def tell(event):\n"
        "    if event['event'] == 'step':\n"
        "        used = int(Path('/proc/self/statm').read_text().split()[0]) * 4096\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (used + 10_000_000,) * 2)\n"
        "train(TrainingJob.read(Path(sys.argv[1])), tell)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, job.run_dir / "job.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Memory ran out" in ended.stderr
    assert "gradient_checkpointing" in ended.stderr


def test_a_training_process_ends_when_its_parent_does(job: TrainingJob) -> None:
    with start_process(job) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 1
    assert not job.report.exists()


@pytest.mark.parametrize("lora", [True, False])
def test_the_losses_fall_and_the_exported_weights_have_the_reported_loss(
    job: TrainingJob, lora: bool
) -> None:
    job = with_settings(job, lora={"enabled": lora}, optimisation={"epochs": 2})
    report, events = run(job)
    assert report.history[2].validation < report.history[0].validation
    assert report.history[2].train is not None
    assert report.history[1].train is not None
    assert report.history[2].train < report.history[1].train
    assert (report.train_clips, report.val_clips) == (8, 2)
    assert report == TrainingReport.read(job.report)
    assert (job.adapter is not None and job.adapter.is_dir()) == lora
    assert {event["event"] for event in events} == {"start", "step", "epoch", "saved"}

    model = load_model(job.base_dir)
    model.load_state_dict(load_file(job.weights), strict=False)
    clips = read_clips(job.codes)
    span = held_out_spans(clips)
    mel = conditioning_mel(load_mel_stats(job.base_dir))
    found = []
    for clip in [clip for clip in clips if clip.split == "val"]:
        batch = make_batch([clip], [span(clip)], tokenise([clip], job.base_dir))
        with torch.no_grad():
            text, audio = text_and_audio_loss(model.gpt, mel, batch)
        found.append((0.01 * text + audio).item())
    assert sum(found) / len(found) == pytest.approx(report.val_loss, rel=1e-5)


def test_a_finished_run_is_not_trained_again(job: TrainingJob) -> None:
    report, _ = run(with_settings(job, optimisation={"epochs": 1}))
    again, events = run(with_settings(job, optimisation={"epochs": 1}))
    assert again == report
    assert events == []


def test_only_the_newest_states_are_kept(job: TrainingJob) -> None:
    run(with_settings(job, checkpoints={"keep": 2}, optimisation={"batch_size": 8}))
    assert sorted(path.name for path in job.states_dir.iterdir()) == [
        "step-00000002",
        "step-00000003",
    ]


def test_tensorboard_shows_losses_and_held_out_sentences(job: TrainingJob) -> None:
    run(
        with_settings(
            job,
            logging={"samples": 1, "sample_every_epochs": 1},
            optimisation={"epochs": 1, "gradient_accumulation": 1},
        )
    )
    events = EventAccumulator(str(job.run_dir / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == {
        "train/loss",
        "train/learning_rate",
        "train/gradient_norm",
        "train/clips_per_second",
        "train/epoch_loss",
        "validation/loss",
        "validation/text_loss",
        "validation/audio_loss",
    }
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert [event.step for event in events.Scalars("validation/loss")] == [0, 2]
    held_out = next(clip for clip in read_clips(job.codes) if clip.split == "val")
    assert tags["audio"] == [f"samples/{held_out.clip_id}"]
    assert tags["images"] == [f"samples/{held_out.clip_id}"]


def test_spoken_samples_change_no_loss(job: TrainingJob, tmp_path: Path) -> None:
    quiet = with_settings(job, optimisation={"epochs": 2})
    loud = with_settings(
        replace(quiet, run_dir=tmp_path / "loud"), logging={"samples": 1, "sample_every_epochs": 1}
    )
    assert step_losses(run(quiet)[1]) == step_losses(run(loud)[1])


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_clips(
    job: TrainingJob, tmp_path: Path
) -> None:
    held_out = next(clip for clip in read_clips(job.codes) if clip.split == "val")
    with pytest.raises(TrainingError, match=f"{held_out.clip_id}.*not a finite number"):
        run(replace(job, base_dir=with_a_nan(job.base_dir, tmp_path)))


def test_a_corpus_with_nothing_held_out_is_refused(job: TrainingJob) -> None:
    held_out = tuple(clip.clip_id for clip in read_clips(job.codes) if clip.split == "val")
    with pytest.raises(DatasetError, match="8 clips to train on and 0 to judge it by"):
        run(replace(job, left_out=held_out))


def test_an_epoch_of_the_trainer_has_every_accepted_clip_once(
    job: TrainingJob, corpus: CorpusStore
) -> None:
    accepted = Counter(
        row["clip_id"]
        for video_id in ("cidade-alex", "feira-dora")
        for row in pq.read_table(corpus.metadata(video_id)).to_pylist()
        if row["accepted"]
    )
    left_out = gather(corpus).left_out
    data = read_data(replace(job, left_out=tuple(left_out)))
    batches = [data.batch(clips, epoch=1) for step in data.epoch(1) for clips in step]
    touched = Counter(clip for batch in [*batches, *data.validation()] for clip in batch.clip_ids)
    assert touched == accepted - Counter(left_out)
    assert touched.total() == 10


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001


def test_a_short_run_reaches_its_rate_in_half_of_its_steps() -> None:
    assert [learning_rate_factor(step, 4, 100) for step in range(4)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.5]
    )
    assert learning_rate_factor(0, 1, 100) == 1.0


def test_training_ends_when_the_validation_loss_has_stopped_falling() -> None:
    settings = TrainingSettings.model_validate(
        {"optimisation": {"epochs": 9}, "checkpoints": {"patience_epochs": 2}}
    )
    assert not Curve(history=losses(5.0)).ended(settings)
    assert not Curve(history=losses(5.0, 4.0, 4.1)).ended(settings)
    assert Curve(history=losses(5.0, 4.0, 4.1, 4.2)).ended(settings)
    assert not Curve(history=losses(5.0, 4.0, 4.1, 3.9)).ended(settings)
    assert Curve(history=losses(*range(10, 0, -1))).ended(settings)


def test_the_base_model_s_own_loss_is_no_candidate_for_the_best_epoch() -> None:
    assert Curve(history=losses(1.0, 3.0, 2.0)).best_epoch == 2

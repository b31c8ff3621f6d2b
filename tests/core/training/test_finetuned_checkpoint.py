from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from xtts_core.errors import (
    DatasetError,
    SettingsError,
    TrainingError,
    UpstreamError,
)
from xtts_core.model.checkpoint import (
    LICENCE_FILE,
    FileEntry,
    Manifest,
    Origin,
    describe_files,
    read_manifest,
    verify,
    write_manifest,
)
from xtts_core.model.loading import MODEL_FILE, load_model
from xtts_core.stage import read_result, silent
from xtts_core.store import WHOLE, CorpusStore, read_json, write_json
from xtts_core.training.data import Clip, LoadedTensors, read_clips
from xtts_core.training.finetuned_checkpoint import (
    FINETUNED_CHECKPOINT,
    current_checkpoint,
    learning_inputs,
    make_finetuned_checkpoint,
    merged_state,
    reference_clips,
    spoken_level_dbfs,
    verdicts,
)
from xtts_core.training.job import EpochLosses, ProbeLosses, TrainingJob, TrainingReport
from xtts_core.training.process import run_training


def clip(clip_id: str, seconds: float, snr_db: float, **changed: Any) -> Clip:
    return replace(
        Clip(
            clip_id=clip_id,
            video_id="v",
            speaker="ana",
            language="pt",
            text="bom dia",
            sha256=clip_id,
            split="train",
            snr_db=snr_db,
            bandwidth_hz=None,
            speaker_similarity=None,
            samples=round(seconds * 22_050),
            tensors=LoadedTensors({}),
        ),
        **changed,
    )


def report(**changed: Any) -> TrainingReport:
    return replace(
        TrainingReport(
            history=(
                EpochLosses(0, None, 7.0, 6.0, 6.9),
                EpochLosses(1, 6.5, 6.0, 5.0, 5.9),
            ),
            probes=(ProbeLosses("en", 4.0, 4.2), ProbeLosses("es", 4.0, 3.9)),
            best_epoch=1,
            steps=3,
            train_clips=2,
            val_clips=1,
            trainable_parameters=10,
            device="cpu",
            precision="fp32",
            processes=1,
            seconds=1.0,
        ),
        **changed,
    )


def test_the_checkpoint_is_whole_and_says_where_it_comes_from(
    corpus: CorpusStore, trained: Any
) -> None:
    checkpoint = current_checkpoint(corpus)
    manifest = verify(checkpoint)
    assert trained.result.blocked == ()
    assert trained.result.metadata["version"] == checkpoint.name
    assert manifest.licence == "Apache-2.0"
    assert manifest.base_model.name == "tiny"
    assert manifest.lineage["videos"].keys() == {"cidade-alex", "feira-dora"}
    assert manifest.lineage["licences"] == {"cidade-alex": "CC0-1.0", "feira-dora": ""}
    assert manifest.lineage["fingerprint"] == trained.result.fingerprint
    assert manifest.metrics["val_loss"] < manifest.metrics["base_val_loss"]
    assert (manifest.metrics["train_clips"], manifest.metrics["epochs"]) == (8, 3)
    assert manifest.settings["lora"]["rank"] == 8
    assert (checkpoint / "adapter" / "adapter_model.safetensors").is_file()


def test_the_checkpoint_speaks_and_a_silenced_one_is_found_out(
    corpus: CorpusStore, trained: Any, tmp_path: Path
) -> None:
    checkpoint = current_checkpoint(corpus)
    clips = read_clips(
        [corpus.audio_codes("tiny", video) for video in ("cidade-alex", "feira-dora")]
    )
    (told,) = [v for v in trained.result.verdicts if v.check == "speaks"]
    assert told.passed
    assert told.value == round(spoken_level_dbfs(checkpoint, clips, "cpu"), 1)
    mute = shutil.copytree(checkpoint, tmp_path / "mute")
    state = load_file(mute / MODEL_FILE)
    for name, tensor in state.items():
        if "waveform_decoder.conv_post" in name:
            tensor.zero_()
    save_file(state, mute / MODEL_FILE)
    files = {MODEL_FILE: describe_files(mute)[MODEL_FILE]}
    found = read_manifest(mute)
    write_manifest(mute, found.model_copy(update={"files": {**found.files, **files}}))
    assert spoken_level_dbfs(mute, clips, "cpu") == float("-inf")


def test_the_trained_gpt_replaces_the_base_s_and_nothing_else_changes(
    corpus: CorpusStore, trained: Any
) -> None:
    base = load_file(corpus.base_model("tiny") / MODEL_FILE)
    tuned = load_file(current_checkpoint(corpus) / MODEL_FILE)
    assert base.keys() == tuned.keys()
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert changed
    assert all(name.startswith("gpt.gpt.h.") and name.endswith(".weight") for name in changed)
    load_model(current_checkpoint(corpus))


def test_every_speaker_has_reference_clips_that_were_trained_on(
    corpus: CorpusStore, trained: Any
) -> None:
    checkpoint = current_checkpoint(corpus)
    voices = verify(checkpoint).voices
    known = {
        clip.clip_id: clip
        for video_id in ("cidade-alex", "feira-dora")
        for clip in read_clips([corpus.audio_codes("tiny", video_id)])
    }
    assert voices.keys() == {"alex", "dora"}
    for speaker, paths in voices.items():
        assert 3 <= len(paths) <= 5
        for path in paths:
            source = known[Path(path).stem]
            audio, rate = soundfile.read(checkpoint / path, dtype="int16")
            assert (source.speaker, source.split, rate) == (speaker, "train", 22_050)
            assert torch.equal(torch.from_numpy(audio), source.audio())


def test_progress_and_a_readable_log_come_from_the_process(trained: Any) -> None:
    assert trained.steps[0] == (0, 3)
    assert trained.steps[-1] == (3, 3)
    assert any("cpu, fp32" in line for line in trained.lines)
    assert any(line.startswith("epoch 0: base model, validation") for line in trained.lines)
    assert any(line.startswith("epoch 3: train") for line in trained.lines)


def test_equal_inputs_make_no_second_checkpoint(
    corpus: CorpusStore, trained: Any, quick_settings: Callable[..., Any]
) -> None:
    again = make_finetuned_checkpoint(corpus, quick_settings())
    assert again.skipped
    assert again.data_version == trained.result.data_version
    assert len(list(corpus.checkpoints_dir.iterdir())) == 1


def test_another_limit_of_forgetting_judges_the_checkpoint_again_without_training(
    trained: Any, own_corpus: CorpusStore, quick_settings: Callable[..., Any]
) -> None:
    path = own_corpus.record("finetuned_checkpoint", WHOLE)
    record = read_json(path)
    record["metadata"] |= {"loss_rise_en": 0.1, "loss_rise_es": 0.3}
    write_json(path, record)

    def verdict(max_loss_rise: float) -> Any:
        settings = quick_settings()
        section = settings.forgetting.model_copy(update={"max_loss_rise": max_loss_rise})
        result = make_finetuned_checkpoint(
            own_corpus, settings.model_copy(update={"forgetting": section})
        )
        assert result.data_version == trained.result.data_version
        assert read_result(own_corpus, "finetuned_checkpoint", WHOLE) == result
        return next(v for v in result.verdicts if v.check == "other_speech_kept")

    strict, lenient = verdict(0.2), verdict(0.4)
    assert (strict.passed, strict.value, strict.threshold) == (False, 0.3, 0.2)
    assert "rose by 0.100 (en), 0.300 (es) nats a code" in strict.description
    assert (lenient.passed, lenient.value, lenient.threshold) == (True, 0.3, 0.4)


def test_what_only_an_unfinished_run_needs_is_gone_and_the_curves_stay(
    corpus: CorpusStore, trained: Any
) -> None:
    run_dir = corpus.training_dir(trained.result.fingerprint)
    assert {path.name for path in run_dir.iterdir() if path.is_dir()} == {"tensorboard"}
    assert (run_dir / "training.log").read_text().count("event=epoch") == 4


def test_a_second_training_at_the_same_time_is_refused(
    corpus: CorpusStore, quick_settings: Callable[..., Any]
) -> None:
    with (
        corpus.lock("training"),
        pytest.raises(TrainingError, match=r"training\.lock: Another training runs"),
    ):
        make_finetuned_checkpoint(corpus, quick_settings(epochs=1))


def test_without_usable_codes_each_video_is_named_with_its_reason(
    own_corpus: CorpusStore, quick_settings: Callable[..., Any]
) -> None:
    own_corpus.audio_codes("tiny", "feira-dora").unlink()
    blocked = own_corpus.verdicts("audio_codes", "cidade-alex")
    found = read_json(blocked)
    found["checks"][0]["passed"] = False
    write_json(blocked, found)
    with pytest.raises(
        DatasetError, match=r"cidade-alex.*every_clip_coded.*feira-dora.*lacks a file"
    ):
        make_finetuned_checkpoint(own_corpus, quick_settings())


def test_a_video_whose_row_was_removed_is_left_out_and_named(
    own_corpus: CorpusStore, quick_settings: Callable[..., Any]
) -> None:
    with pytest.raises(DatasetError, match=r"cidade-alex: its row is not in videos\.csv"):
        make_finetuned_checkpoint(own_corpus, quick_settings(), listed=())


def test_only_settings_that_are_used_ask_for_another_training(
    quick_settings: Callable[..., Any],
) -> None:
    def inputs(*, lora: dict[str, Any], **optimisation: Any) -> dict[str, Any]:
        settings = quick_settings(**optimisation)
        section = settings.lora.model_copy(update=lora)
        return learning_inputs(settings.model_copy(update={"lora": section}))

    on, off = {"enabled": True}, {"enabled": False}
    assert inputs(lora=on) == inputs(lora=on, learning_rate_full=0.5)
    assert inputs(lora=on) != inputs(lora=on, learning_rate_lora=0.5)
    assert inputs(lora=on) != inputs(lora={**on, "rank": 3})
    assert inputs(lora=off) == inputs(lora={**off, "rank": 3}, learning_rate_lora=0.5)
    assert inputs(lora=off) != inputs(lora=off, learning_rate_full=0.5)


def test_codes_of_another_base_model_are_refused(
    own_corpus: CorpusStore, quick_settings: Callable[..., Any]
) -> None:
    base = own_corpus.base_model("tiny")
    renamed = base.with_name("small")
    base.rename(renamed)
    record = own_corpus.record("base_model", "@")
    record.write_text(record.read_text().replace("models/tiny", "models/small"))
    settings = quick_settings().model_copy(
        update={"base_model": quick_settings().base_model.model_copy(update={"name": "small"})}
    )
    with pytest.raises(DatasetError, match="feira-dora: its codes are of the base model tiny"):
        make_finetuned_checkpoint(own_corpus, settings)


def test_there_is_no_current_checkpoint_before_the_first_training(own_corpus: CorpusStore) -> None:
    own_corpus.record(FINETUNED_CHECKPOINT.name, "@").unlink(missing_ok=True)
    with pytest.raises(UpstreamError, match="finetuned_checkpoint has not been made"):
        current_checkpoint(own_corpus)
    assert read_result(own_corpus, FINETUNED_CHECKPOINT.name, "@") is None


def test_an_error_of_the_training_process_keeps_its_kind(job: TrainingJob) -> None:
    lora = job.settings.lora.model_copy(update={"targets": ("q_proj",)})
    job = replace(job, settings=job.settings.model_copy(update={"lora": lora}))
    job.run_dir.mkdir()
    with pytest.raises(SettingsError, match=r"lora\.targets in training\.yaml"):
        run_training(job, silent, lambda line: None)
    assert "q_proj" in (job.run_dir / "training.log").read_text()


def test_an_interrupted_parent_takes_the_training_process_with_it(job: TrainingJob) -> None:
    # Too many epochs to end by itself before it is interrupted.
    optimisation = job.settings.optimisation.model_copy(update={"epochs": 1_000})
    job = replace(job, settings=job.settings.model_copy(update={"optimisation": optimisation}))
    job.run_dir.mkdir()

    def interrupt(line: str) -> None:
        if line.startswith("epoch 0"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(job, silent, interrupt)
    log = (job.run_dir / "training.log").read_text()
    assert "event=start" in log
    assert "event=epoch" in log, "an event is in the log before it is told"
    assert "event=done" not in log
    with FileLock(job.run_dir / "lock", timeout=60):
        assert not job.report.exists()


def test_trained_weights_of_another_shape_are_refused(corpus: CorpusStore, tmp_path: Path) -> None:
    save_file({"gpt.final_norm.weight": torch.ones(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(TrainingError, match=r"gpt\.final_norm\.weight"):
        merged_state(corpus.base_model("tiny"), tmp_path / "weights.safetensors")


def test_the_best_references_are_clean_and_neither_short_nor_long() -> None:
    clips = [
        clip("too-short", 1.5, 60.0),
        clip("noisy", 8.0, 10.0),
        clip("clean", 8.0, 40.0),
        clip("cleaner", 8.0, 50.0),
        clip("good", 8.0, 30.0),
        clip("held-out", 8.0, 70.0, split="val"),
        clip("hers", 2.0, 5.0, speaker="bia"),
    ]
    chosen = reference_clips(clips)
    assert [c.clip_id for c in chosen["ana"]] == ["cleaner", "clean", "good", "too-short"]
    assert [c.clip_id for c in chosen["bia"]] == ["hers"]


def test_of_equally_clean_clips_the_brightest_and_most_like_the_speaker_is_the_reference() -> None:
    clips = [
        clip("unknown", 8.0, 30.0),
        clip("dull", 8.0, 30.0, bandwidth_hz=5_000.0, speaker_similarity=0.95),
        clip("unlike", 8.0, 30.0, bandwidth_hz=10_000.0, speaker_similarity=0.84),
        clip("best", 8.0, 30.0, bandwidth_hz=10_000.0, speaker_similarity=0.95),
    ]
    chosen = reference_clips(clips)["ana"]
    assert [c.clip_id for c in chosen] == ["best", "dull", "unlike"]


def manifest(licence: str, **files: FileEntry) -> Manifest:
    origin = Origin(name="tiny", source="s", revision="1")
    return Manifest(kind="base", licence=licence, base_model=origin, files=files)


LICENCE = {LICENCE_FILE: FileEntry(sha256="1", size=1)}
OTHER_LICENCE = {LICENCE_FILE: FileEntry(sha256="2", size=1)}


@pytest.mark.parametrize(
    ("changed", "finite", "level", "written", "failed"),
    [
        ({}, True, -20.0, manifest("CPML", **LICENCE), set()),
        ({}, False, -20.0, manifest("CPML", **LICENCE), {"weights_finite"}),
        ({}, True, -70.0, manifest("CPML", **LICENCE), {"speaks"}),
        ({}, True, float("-inf"), manifest("CPML", **LICENCE), {"speaks"}),
        ({}, True, -20.0, manifest("", **LICENCE), {"licence_present"}),
        ({}, True, -20.0, manifest("CPML"), {"licence_present"}),
        ({}, True, -20.0, manifest("CPML", **OTHER_LICENCE), {"licence_present"}),
        (
            {"probes": (ProbeLosses("en", 4.0, 4.1), ProbeLosses("es", 4.0, 4.6))},
            True,
            -20.0,
            manifest("CPML", **LICENCE),
            {"other_speech_kept"},
        ),
        ({"train_clips": 1}, True, -20.0, manifest("CPML", **LICENCE), {"no_clip_skipped"}),
        ({"best_epoch": 0}, True, -20.0, manifest("CPML", **LICENCE), {"validation_loss_improved"}),
    ],
)
def test_a_checkpoint_is_judged_by_weights_voice_clips_loss_and_licence(
    changed: dict[str, Any], finite: bool, level: float, written: Manifest, failed: set[str]
) -> None:
    clips = [clip("a", 5, 20), clip("b", 5, 20), clip("c", 5, 20, split="val")]
    base = manifest("CPML", **LICENCE)
    found = verdicts(
        report(**changed),
        clips,
        weights_finite=finite,
        max_loss_rise=0.5,
        loudness_dbfs=level,
        base=base,
        written=written,
    )
    assert {verdict.check for verdict in found if not verdict.passed} == failed
    assert {v.check for v in found if v.severity == "warn"} == {
        "validation_loss_improved",
        "other_speech_kept",
    }


def test_a_job_survives_its_file(job: TrainingJob, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job.to_json()))
    assert TrainingJob.read(path) == job

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from xtts_core.model.hub import SPEAKERS_FILE
from xtts_core.model.loading import load_mel_stats, load_model
from xtts_core.settings import TrainingSettings
from xtts_core.training.data import held_out_spans, read_clips
from xtts_core.training.forgetting import SENTENCES, Probes, speak_probes
from xtts_core.training.job import TrainingJob
from xtts_core.training.loss import text_and_audio_loss
from xtts_core.training.mel import conditioning_mel
from xtts_core.training.trainer import train


def with_settings(job: TrainingJob, **sections: dict[str, Any]) -> TrainingJob:
    raw = job.settings.model_dump(mode="json")
    for name, values in sections.items():
        raw[name] = {**raw[name], **values}
    return replace(job, settings=TrainingSettings.model_validate_json(json.dumps(raw)))


@pytest.fixture
def speak(job: TrainingJob) -> Callable[[Path, Path], None]:
    def write(base_dir: Path, path: Path) -> None:
        speak_probes(load_model(base_dir), base_dir, read_clips(job.codes), 2, path)

    return write


def test_every_language_has_the_same_number_of_different_sentences() -> None:
    assert {len(set(sentences)) for sentences in SENTENCES.values()} == {8}
    assert {"en", "es"} < SENTENCES.keys()


def test_the_base_model_says_the_same_each_time(
    job: TrainingJob, tmp_path: Path, speak: Callable[[Path, Path], None]
) -> None:
    for name in ("a", "b"):
        speak(job.base_dir, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    probes = Probes(tmp_path / "a", job.base_dir)
    assert probes.languages == ["en", "es", "pt"]
    for language in probes.languages:
        batches = list(probes.batches(language))
        assert [len(batch.clip_ids) for batch in batches] == [1, 1]
        assert all(batch.unscored == ((0, 0),) for batch in batches)


def test_a_studio_voice_is_taken_where_the_base_model_has_one(
    job: TrainingJob, tmp_path: Path, speak: Callable[[Path, Path], None]
) -> None:
    base_dir = tmp_path / "base"
    base_dir.mkdir()
    for file in job.base_dir.iterdir():
        (base_dir / file.name).symlink_to(file)
    speak(base_dir, tmp_path / "corpus-voice")
    torch.manual_seed(0)
    voice = {
        "Ana/gpt_cond_latent": torch.randn(1, 32, load_model(base_dir).gpt.model_dim),
        "Ana/speaker_embedding": torch.randn(1, 512, 1),
    }
    save_file(voice, base_dir / SPEAKERS_FILE)
    speak(base_dir, tmp_path / "studio-voice")
    spoken, studio = (load_file(tmp_path / name) for name in ("corpus-voice", "studio-voice"))
    assert spoken.keys() == studio.keys()
    assert not any(torch.equal(spoken[name], studio[name]) for name in spoken)


def test_the_loss_before_is_the_base_model_s_and_the_one_after_the_checkpoint_s(
    job: TrainingJob,
) -> None:
    job = with_settings(job, forgetting={"sentences": 2}, optimisation={"epochs": 2})
    report = train(job, lambda event: None)
    probes = Probes(job.probes, job.base_dir)
    mel = conditioning_mel(load_mel_stats(job.base_dir))
    assert [probe.language for probe in report.probes] == ["en", "es", "pt"]

    def loss(model: Any, language: str) -> float:
        with torch.no_grad():
            found = [text_and_audio_loss(model.gpt, mel, b)[1] for b in probes.batches(language)]
        return float(torch.stack(found).mean())

    base, tuned = load_model(job.base_dir), load_model(job.base_dir)
    tuned.load_state_dict(load_file(job.weights), strict=False)
    for probe in report.probes:
        assert probe.before == pytest.approx(loss(base, probe.language), abs=1e-5)
        assert probe.after == pytest.approx(loss(tuned, probe.language), abs=1e-5)
        assert probe.before != probe.after


def test_measuring_it_changes_no_step(job: TrainingJob, tmp_path: Path) -> None:
    with_probes = with_settings(
        replace(job, run_dir=tmp_path / "probed"), forgetting={"sentences": 1}
    )
    assert train(job, lambda event: None).history == train(with_probes, lambda e: None).history


def test_the_voice_of_a_sentence_comes_from_another_one(
    job: TrainingJob, tmp_path: Path, speak: Callable[[Path, Path], None]
) -> None:
    speak(job.base_dir, tmp_path / "probes")
    probes = Probes(tmp_path / "probes", job.base_dir)
    span = held_out_spans(probes.clips)
    assert all(span(clip).clip.clip_id != clip.clip_id for clip in probes.clips)

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from xtts_core.errors import ModelError
from xtts_core.model.coqui_checkpoint import SPEAKERS_FILE
from xtts_core.model.engine import Engine
from xtts_core.model.loading import load_mel_stats, load_model
from xtts_core.settings import SAMPLE_RATE_HZ, TrainingSettings
from xtts_core.training.data import read_clips
from xtts_core.training.forgetting import SENTENCES, Probes, speak_probes
from xtts_core.training.job import TrainingJob
from xtts_core.training.lora import add_lora, merge_lora
from xtts_core.training.loss import text_and_audio_loss
from xtts_core.training.mel import conditioning_mel, pcm_to_float
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


def test_the_voice_is_not_one_that_training_hears(
    job: TrainingJob, tmp_path: Path, speak: Callable[[Path, Path], None], monkeypatch: Any
) -> None:
    heard: list[Any] = []
    latents = Engine.latents

    def spy(engine: Engine, references: Any) -> Any:
        heard.extend(references)
        return latents(engine, references)

    monkeypatch.setattr(Engine, "latents", spy)
    speak(job.base_dir, tmp_path / "probes")
    own = pcm_to_float(read_clips(job.codes)[0].audio()).numpy()

    def pitch_hz(audio: Any) -> float:
        return float(np.nanmedian(librosa.pyin(audio, fmin=60, fmax=600, sr=SAMPLE_RATE_HZ)[0]))

    # Five semitones.
    assert pitch_hz(heard[0]) == pytest.approx(pitch_hz(own) * 2 ** (5 / 12), rel=0.03)


def test_each_sentence_is_told_before_it_is_spoken(job: TrainingJob, tmp_path: Path) -> None:
    told: list[tuple[float, float | None]] = []
    model = load_model(job.base_dir)
    speak_probes(
        model,
        job.base_dir,
        read_clips(job.codes),
        1,
        tmp_path / "probes",
        lambda done, total, unit: told.append((done, total)),
    )
    assert told == [(0, 3), (1, 3), (2, 3)]


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
    assert not torch.equal(spoken["reference"], studio["reference"])


def test_the_loss_before_is_the_base_model_s_and_the_one_after_the_checkpoint_s(
    job: TrainingJob,
) -> None:
    job = with_settings(
        job,
        forgetting={"sentences": 2},
        lora={"enabled": False},
        optimisation={"epochs": 2, "learning_rate_full": 1e-2},
    )
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
        assert probe.after > probe.before + 0.1


def test_measuring_it_changes_no_step(job: TrainingJob, tmp_path: Path) -> None:
    with_probes = with_settings(
        replace(job, run_dir=tmp_path / "probed"), forgetting={"sentences": 1}
    )
    assert train(job, lambda event: None).history == train(with_probes, lambda e: None).history


def test_the_codes_are_drawn_from_what_coqui_tts_predicts_for_them(
    job: TrainingJob, tmp_path: Path, speak: Callable[[Path, Path], None]
) -> None:
    speak(job.base_dir, tmp_path / "probes")
    gpt = load_model(job.base_dir).gpt
    mel = conditioning_mel(load_mel_stats(job.base_dir))
    probes = Probes(tmp_path / "probes", job.base_dir)
    names = [n for n in load_file(tmp_path / "probes") if n != "reference"]
    batches = {b.clip_ids[0]: b for language in probes.languages for b in probes.batches(language)}
    assert batches.keys() == set(names)
    entropies, losses = [], []
    for batch in batches.values():
        n = batch.codes.shape[1]
        with torch.no_grad():
            voice = mel(batch.conditioning)[:, None]
            logits = gpt(
                batch.text, batch.text_lengths, batch.codes, batch.wav_lengths, cond_mels=voice
            )[2][0, :, :n]
            losses.append(text_and_audio_loss(gpt, mel, batch)[1])
        said = logits.log_softmax(dim=0)
        assert losses[-1] == pytest.approx(-said.gather(0, batch.codes).mean().item(), abs=1e-5)
        entropies.append(-(said.exp() * said).sum(dim=0).mean())
    # A draw at temperature 0.75 from the best 50 has a loss of 5.8 here, and the entropy is 6.78.
    assert torch.stack(losses).mean().item() == pytest.approx(
        torch.stack(entropies).mean().item(), abs=0.1
    )


def test_an_adapter_loses_the_same_beside_the_weights_and_merged(
    job: TrainingJob, tmp_path: Path, speak: Callable[[Path, Path], None]
) -> None:
    speak(job.base_dir, tmp_path / "probes")
    gpt = load_model(job.base_dir).gpt
    mel = conditioning_mel(load_mel_stats(job.base_dir))
    batch = next(Probes(tmp_path / "probes", job.base_dir).batches("es"))

    def loss() -> float:
        with torch.no_grad():
            return float(text_and_audio_loss(gpt.eval(), mel, batch)[1])

    untouched = loss()
    adapter = add_lora(gpt, job.settings.lora)
    assert loss() == pytest.approx(untouched, abs=1e-6)
    torch.manual_seed(0)
    for name, parameter in gpt.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    beside = loss()
    merge_lora(adapter)
    assert beside > untouched + 0.01
    assert loss() == pytest.approx(beside, abs=1e-5)


def test_speaking_leaves_the_model_and_the_random_state_as_they_were(
    job: TrainingJob, tmp_path: Path
) -> None:
    model = load_model(job.base_dir)
    model.gpt.train()
    names, state = set(model.state_dict()), torch.get_rng_state()
    speak_probes(model, job.base_dir, read_clips(job.codes), 1, tmp_path / "probes")
    assert model.gpt.training
    assert set(model.state_dict()) == names
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_says_nothing_is_named(job: TrainingJob, tmp_path: Path) -> None:
    model = load_model(job.base_dir)
    with torch.no_grad():
        model.gpt.mel_head.bias[model.gpt.stop_audio_token] = 1e4
    with pytest.raises(ModelError, match="before it has said anything to 'The baker"):
        speak_probes(model, job.base_dir, read_clips(job.codes), 1, tmp_path / "probes")
    assert not (tmp_path / "probes").exists()

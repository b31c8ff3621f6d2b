from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from TTS.tts.layers.xtts.dvae import DiscreteVAE
from TTS.tts.models.xtts import Xtts

from xtts_core.errors import ModelError
from xtts_core.model.architecture import Architecture, read_architecture, write_architecture
from xtts_core.model.loading import (
    kept_threads,
    load_dvae,
    load_mel_stats,
    load_model,
    model_state,
    resolve_device,
    save_model,
    without_duplicates,
)


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(tiny_dir, tmp_path / "copy"))


def test_a_loaded_model_is_coquis_own_class_in_eval_mode(tiny_dir: Path) -> None:
    model = load_model(tiny_dir)
    assert type(model) is Xtts
    assert not any(module.training for module in model.modules())
    assert type(load_dvae(tiny_dir)) is DiscreteVAE
    assert load_mel_stats(tiny_dir).shape == (80,)


def test_what_is_saved_is_what_was_loaded(tiny_dir: Path, tmp_path: Path) -> None:
    save_model(load_model(tiny_dir), tmp_path)
    before, after = (load_file(d / "model.safetensors") for d in (tiny_dir, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_ready_for_coquis_inference_saves_each_tensor_once(
    tiny_dir: Path, tmp_path: Path
) -> None:
    model = load_model(tiny_dir)
    plain = set(model_state(model))
    model.gpt.init_gpt_for_inference()
    assert set(model.state_dict()) > plain
    assert set(model_state(model)) == plain
    save_model(model, tmp_path)
    for name in ("config.json", "architecture.json", "vocab.json"):
        shutil.copy(tiny_dir / name, tmp_path)
    load_model(tmp_path)


def test_the_state_of_coquis_trainer_becomes_the_models(tiny_dir: Path) -> None:
    state = model_state(load_model(tiny_dir))
    trainers = {f"xtts.{name}": tensor for name, tensor in state.items()}
    trainers["dvae.codebook.embed"] = torch.zeros(1)
    trainers["torch_mel_spectrogram_dvae.mel_stft.window"] = torch.zeros(1)
    assert without_duplicates(trainers).keys() == state.keys()


def test_loading_keeps_the_seed_and_the_threads(tiny_dir: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_model(tiny_dir)
    load_dvae(tiny_dir)
    assert torch.equal(before, torch.get_rng_state())
    with kept_threads():
        torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "name", ["config.json", "architecture.json", "vocab.json", "model.safetensors"]
)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_model(copy)


@pytest.mark.parametrize("name", ["config.json", "architecture.json", "model.safetensors"])
def test_a_damaged_file_is_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:100])
    with pytest.raises(ModelError, match=name):
        load_model(copy)


def test_weights_of_another_architecture_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["model_args"]["gpt_layers"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="do not fit"):
        load_model(copy)


def test_a_missing_tensor_is_refused(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    del state["gpt.final_norm.weight"]
    save_file(state, copy / "model.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        load_model(copy)


def test_mel_stats_of_another_shape_are_refused(copy: Path) -> None:
    save_file({"mel_stats": torch.ones(40)}, copy / "mel_stats.safetensors")
    with pytest.raises(ModelError, match=r"\[80\]"):
        load_mel_stats(copy)


def test_the_sizes_survive_their_file(tmp_path: Path, tiny_dir: Path) -> None:
    write_architecture(tmp_path, Architecture())
    assert read_architecture(tmp_path) == Architecture()
    assert Architecture().public_vocoder
    assert not read_architecture(tiny_dir).public_vocoder


def test_an_unknown_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "architecture.json").write_text('{"vocoder": {"channels": 3}}')
    with pytest.raises(ModelError, match=r"architecture\.json"):
        read_architecture(tmp_path)


def test_auto_is_a_device_that_is_there() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


def test_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="auto or cpu"):
        resolve_device("cuda")

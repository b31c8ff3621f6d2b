from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xtts_core.errors import LicenceError, ModelError, SettingsError
from xtts_core.model.base import base_model_dir, make_base_model
from xtts_core.model.checkpoint import verify
from xtts_core.model.loading import kept_threads, load_dvae, load_mel_stats, load_model
from xtts_core.settings import BaseModelSettings, TrainingSettings
from xtts_core.store import CorpusStore, sha256_file


def settings(checkpoint: Path, name: str = "minha-voz") -> TrainingSettings:
    return TrainingSettings(base_model=BaseModelSettings(name=name, checkpoint=str(checkpoint)))


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COQUI_TOS_AGREED", "1")


@pytest.fixture
def store(tmp_path: Path) -> CorpusStore:
    return CorpusStore(tmp_path / "corpus")


@pytest.fixture(scope="module")
def trained(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as coqui-tts's trainer leaves it, written by its own function; the model is
    `tiny`, whose sizes `architecture.json` tells."""
    with kept_threads():
        from trainer.io import save_checkpoint
        from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer
    folder = tmp_path_factory.mktemp("run")
    for name in ("config.json", "vocab.json", "architecture.json"):
        shutil.copy(tiny_dir / name, folder)
    trainer: Any = GPTTrainer.__new__(GPTTrainer)
    torch.nn.Module.__init__(trainer)
    trainer.xtts = load_model(tiny_dir)
    trainer.dvae = load_dvae(tiny_dir)
    optimiser = torch.optim.AdamW(trainer.xtts.gpt.parameters())
    save_checkpoint(
        trainer.xtts.config, trainer, folder, current_step=7, epoch=1, optimizer=[optimiser]
    )
    return folder / "checkpoint_7.pth"


@pytest.fixture
def exported(tiny_dir: Path, trained: Path, tmp_path: Path) -> Path:
    """A `model.pth` without the DVAE, with XTTS-v2's other files beside it."""
    folder = tmp_path / "exported"
    shutil.copytree(trained.parent, folder)
    (folder / trained.name).unlink()
    model = load_model(tiny_dir)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    torch.save(load_dvae(tiny_dir).state_dict(), folder / "dvae.pth")
    torch.save(load_mel_stats(tiny_dir), folder / "mel_stats.pth")
    return folder / "model.pth"


def same_weights(ours: Path, theirs: Path) -> bool:
    return all(
        torch.equal(tensor, load_file(theirs / name)[key])
        for name in ("model.safetensors", "dvae.safetensors", "mel_stats.safetensors")
        for key, tensor in load_file(ours / name).items()
    )


@pytest.mark.usefixtures("accepted")
def test_training_goes_on_from_a_checkpoint_of_coqui_tts_s_trainer(
    store: CorpusStore, trained: Path, tiny_dir: Path
) -> None:
    result = make_base_model(store, settings(trained))
    assert all(verdict.passed for verdict in result.verdicts)
    directory = base_model_dir(store, settings(trained))
    manifest = verify(directory)
    assert same_weights(directory, tiny_dir)
    assert manifest.base_model.name == "minha-voz"
    assert manifest.base_model.revision == sha256_file(trained)
    assert "non-commercial" in manifest.licence
    load_model(directory)
    assert make_base_model(store, settings(trained)).skipped


@pytest.mark.usefixtures("accepted")
def test_an_exported_model_takes_the_dvae_from_beside_it(
    store: CorpusStore, exported: Path, tiny_dir: Path
) -> None:
    make_base_model(store, settings(exported))
    assert same_weights(base_model_dir(store, settings(exported)), tiny_dir)


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("name", ["config.json", "vocab.json", "dvae.pth"])
def test_what_is_missing_beside_the_checkpoint_is_named(
    store: CorpusStore, exported: Path, name: str
) -> None:
    (exported.parent / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing beside the checkpoint model.pth"):
        make_base_model(store, settings(exported))


@pytest.mark.usefixtures("accepted")
def test_a_checkpoint_that_was_trained_on_is_converted_again(
    store: CorpusStore, exported: Path
) -> None:
    first = make_base_model(store, settings(exported))
    raw = torch.load(exported, weights_only=True)
    raw["model"]["gpt.mel_head.bias"] += 1
    torch.save(raw, exported)
    again = make_base_model(store, settings(exported))
    assert not again.skipped
    assert again.data_version != first.data_version


def test_its_licence_is_xtts_v2_s_and_has_to_be_accepted(
    store: CorpusStore, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COQUI_TOS_AGREED", raising=False)
    with pytest.raises(LicenceError, match="COQUI_TOS_AGREED"):
        make_base_model(store, settings(trained))


def test_the_name_of_another_base_model_is_refused(store: CorpusStore, trained: Path) -> None:
    with pytest.raises(SettingsError, match="'tiny' is the name of another base model"):
        make_base_model(store, settings(trained, name="tiny"))


def test_a_file_that_is_not_there_is_refused(store: CorpusStore, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no such checkpoint"):
        make_base_model(store, settings(tmp_path / "best_model.pth"))


class Dangerous:
    """Its unpickling would run a function."""

    def __reduce__(self) -> Any:
        return (print, ("run",))


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"model": {"gpt": Dangerous()}}, "something other than tensors"),
        ({"weights": {}}, "has no entry `model`"),
        ({"model": {"gpt.mel_head.bias": torch.zeros(3)}}, "do not fit the model"),
    ],
    ids=["code", "another layout", "another model"],
)
def test_a_file_that_is_no_such_checkpoint_is_refused_and_nothing_of_it_is_run(
    store: CorpusStore,
    exported: Path,
    content: dict[str, Any],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(content, exported)
    with pytest.raises(ModelError, match=problem):
        make_base_model(store, settings(exported))
    assert "run" not in capsys.readouterr().out

"""A base model from what coqui-tts's own trainer and our export write."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as BpeTokenizer
from torch import Tensor
from trainer.io import copy_model_files, save_best_model, save_checkpoint
from TTS.tts.configs.xtts_config import XttsAudioConfig

from xtts_core.errors import LicenceError, ModelError, SettingsError
from xtts_core.model.architecture import Architecture, write_architecture
from xtts_core.model.base import make_base_model
from xtts_core.model.checkpoint import read_manifest, verify
from xtts_core.model.coqui_checkpoint import CoquiCheckpoint, read_pickle
from xtts_core.model.loading import (
    build_dvae,
    kept_threads,
    load_dvae,
    load_mel_stats,
    load_model,
    model_state,
    read_config,
    read_tensors,
)
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.settings import BaseModelSettings, TrainingSettings
from xtts_core.store import CorpusStore, sha256_file

with kept_threads():
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs, GPTTrainer, GPTTrainerConfig

NEW_TOKENS = ["ŵ", "ŷ"]


@dataclass(frozen=True)
class Run:
    """A folder of coqui's trainer, and what its model held."""

    folder: Path
    state: dict[str, Tensor]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Run:
    """One step of coqui's `GPTTrainer` from `tiny`'s GPT, with two more text tokens."""
    inputs = tmp_path_factory.mktemp("inputs")
    shutil.copy(tiny_dir / "config.json", inputs)
    write_architecture(inputs, Architecture())
    bpe = BpeTokenizer.from_file(str(tiny_dir / "vocab.json"))
    bpe.add_tokens(NEW_TOKENS)
    bpe.save(str(inputs / "vocab.json"))
    torch.save(load_model(tiny_dir).gpt.state_dict(), inputs / "gpt.pth")
    torch.save(load_mel_stats(tiny_dir), inputs / "mel_stats.pth")
    arguments = read_config(tiny_dir).model_args
    sizes = {
        name: value
        for name, value in arguments.to_dict().items()
        if name.startswith("gpt_") or name == "decoder_input_dim"
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        torch.save(build_dvae(inputs).state_dict(), inputs / "dvae.pth")
        config = GPTTrainerConfig(
            output_path=str(inputs),
            lr=1e-3,
            optimizer="AdamW",
            optimizer_params={"betas": [0.9, 0.96], "eps": 1e-8, "weight_decay": 1e-2},
            optimizer_wd_only_on_weights=True,
            lr_scheduler="MultiStepLR",
            lr_scheduler_params={"milestones": [900_000], "gamma": 0.5, "last_epoch": -1},
            audio=XttsAudioConfig(),
            model_args=GPTArgs(
                **{
                    **sizes,
                    "tokenizer_file": str(inputs / "vocab.json"),
                    "mel_norm_file": str(inputs / "mel_stats.pth"),
                    "dvae_checkpoint": str(inputs / "dvae.pth"),
                    "gpt_checkpoint": str(inputs / "gpt.pth"),
                }
            ),
        )
        model = GPTTrainer(config)
    optimiser = model.get_optimizer()
    scheduler = model.get_scheduler([optimiser])
    sum(weight.sum() for weight in model.xtts.gpt.parameters()).backward()
    optimiser.step()
    scheduler.step()
    folder = tmp_path_factory.mktemp("GPT_XTTS_FT-November")
    copy_model_files(config, folder, {})
    shutil.copy(inputs / "vocab.json", folder)
    trained = {"optimizer": [optimiser], "scheduler": [scheduler]}
    losses = {"train_loss": 1.0, "eval_loss": 2.0}
    none_yet = {"train_loss": float("inf"), "eval_loss": float("inf")}
    save_best_model(losses, none_yet, config, model, folder, current_step=5, epoch=1, **trained)
    save_checkpoint(config, model, folder, current_step=5, epoch=1, model_loss=losses, **trained)
    (folder / "best_model_5.pth").unlink()
    return Run(folder, model.state_dict())


@pytest.fixture(autouse=True)
def _accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COQUI_TOS_AGREED", "1")


def _settings(weights: Path | str, name: str = "ana") -> TrainingSettings:
    return TrainingSettings(base_model=BaseModelSettings(name=name, checkpoint=str(weights)))


def _linked(source: Path, target: Path, *names: str) -> Path:
    """A folder with the named files of another one, at no cost."""
    target.mkdir(parents=True)
    for name in names:
        os.link(source / name, target / name)
    return target


def test_the_best_model_of_coquis_trainer_becomes_a_base_model(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = run.folder / "best_model.pth"
    before = sha256_file(weights)
    monkeypatch.setenv("DAGSTER_HOME", str(run.folder.parent))
    store = CorpusStore(tmp_path)
    settings = _settings(weights.relative_to(run.folder.parent))
    made = make_base_model(store, settings)

    assert made.uri == store.base_model("ana")
    assert [verdict for verdict in made.verdicts if not verdict.passed] == []
    ours = model_state(load_model(made.uri))
    theirs = {
        name.removeprefix("xtts."): tensor
        for name, tensor in run.state.items()
        if name.startswith("xtts.") and ".gpt_inference." not in name and ".wte." not in name
    }
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    for name, tensor in load_dvae(made.uri).state_dict().items():
        assert torch.equal(tensor, run.state[f"dvae.{name}"])
    assert torch.equal(load_mel_stats(made.uri), run.state["xtts.mel_stats"])

    assert len(Tokenizer.load(made.uri)) == len(run.state["xtts.gpt.text_head.bias"])
    assert Tokenizer.load(made.uri).encode("ŵ", "pt")[1:] == [len(Tokenizer.load(made.uri)) - 2]

    manifest = verify(made.uri)
    assert manifest.base_model.name == "ana"
    assert manifest.base_model.originals["best_model.pth"].sha256 == before
    assert manifest.licence.startswith("Coqui Public Model License")
    assert {path.suffix for path in made.uri.iterdir()} == {".json", ".safetensors"}
    for text in ("config.json", "manifest.json"):
        assert str(run.folder.parent) not in (made.uri / text).read_text(encoding="utf-8")

    assert sha256_file(weights) == before
    assert make_base_model(store, settings).skipped


def test_our_export_becomes_a_base_model_with_the_dvae_and_licence_beside_it(
    exported: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [path.name for path in exported.iterdir()]
    folder = _linked(exported, tmp_path / "coqui", *names)
    store = CorpusStore(tmp_path / "data")
    with pytest.raises(ModelError, match=r"holds no DVAE.*coqui/dvae\.pth"):
        make_base_model(store, _settings(folder / "model.pth"))
    dvae = {n.removeprefix("dvae."): t for n, t in run.state.items() if n.startswith("dvae.")}
    torch.save(dvae, folder / "dvae.pth")
    with pytest.raises(ModelError, match=r"holds no mel statistics.*coqui/mel_stats\.pth"):
        make_base_model(store, _settings(folder / "model.pth"))
    torch.save(run.state["xtts.mel_stats"], folder / "mel_stats.pth")
    (folder / "LICENSE.txt").write_text("\nCC BY 4.0, Ana\n\nDo as you like.\n")
    monkeypatch.delenv("COQUI_TOS_AGREED")

    made = make_base_model(store, _settings(folder / "model.pth"))
    assert made.blocked == ()
    assert read_manifest(made.uri).licence == "CC BY 4.0, Ana"
    assert (made.uri / "LICENSE.txt").is_file()
    assert torch.equal(load_mel_stats(made.uri), run.state["xtts.mel_stats"])
    ours = model_state(load_model(made.uri))
    theirs = read_pickle(exported / "model.pth")["model"]
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert "Dora/gpt_cond_latent" in read_tensors(made.uri / "speakers.safetensors")


@pytest.mark.parametrize("missing", ["config.json", "vocab.json", "best_model.pth"])
def test_a_missing_file_is_named_with_where_it_was_looked_for(
    run: Run, tmp_path: Path, missing: str
) -> None:
    names = {"config.json", "vocab.json", "best_model.pth"} - {missing}
    folder = _linked(run.folder, tmp_path / "run", *names)
    with pytest.raises(ModelError) as caught:
        make_base_model(CorpusStore(tmp_path / "data"), _settings(folder / "best_model.pth"))
    assert caught.value.where == str(folder / missing)
    assert caught.value.remedy


def test_the_licence_of_xtts_v2_is_asked_for_unless_the_model_has_its_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COQUI_TOS_AGREED")
    folder = _linked(run.folder, tmp_path / "run", "config.json", "vocab.json", "checkpoint_5.pth")
    weights = folder / "checkpoint_5.pth"
    store = CorpusStore(tmp_path / "data")
    with pytest.raises(LicenceError, match=r"COQUI_TOS_AGREED=1.*LICENSE\.txt"):
        make_base_model(store, _settings(weights))
    assert list(store.base_model("ana").parent.glob("*/*")) == []
    for text, licence in (
        ("Coqui Public\nModel License 1.0.0\n", None),
        (" \n", None),
        ("MIT License\n\nCopyright Ana\n", "MIT License"),
    ):
        (folder / "LICENSE.txt").write_text(text)
        assert CoquiCheckpoint.at(weights).licence == licence


def test_another_content_is_another_origin_wherever_it_lies(run: Run, tmp_path: Path) -> None:
    names = ("config.json", "vocab.json", "best_model.pth")
    folder = _linked(run.folder, tmp_path / "elsewhere" / run.folder.name, *names)
    weights = folder / "best_model.pth"
    hashes = tmp_path / "hashes"
    first = CoquiCheckpoint.at(run.folder / "best_model.pth").origin("ana", hashes)
    assert CoquiCheckpoint.at(weights).origin("ana", hashes) == first
    (folder / "vocab.json").unlink()
    (folder / "vocab.json").write_text("{}")
    assert CoquiCheckpoint.at(weights).origin("ana", hashes) != first


class _Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(run: Run, tmp_path: Path) -> None:
    folder = _linked(run.folder, tmp_path / "run", "config.json", "vocab.json")
    torch.save({"model": {}, "config": _Harmful(tmp_path / "ran")}, folder / "best_model.pth")
    with pytest.raises(ModelError, match=r"system.*weights alone"):
        make_base_model(CorpusStore(tmp_path / "data"), _settings(folder / "best_model.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_file_cut_short_or_of_another_model_is_refused(run: Run, tmp_path: Path) -> None:
    folder = _linked(run.folder, tmp_path / "run", "config.json", "vocab.json")
    weights = folder / "best_model.pth"
    store = CorpusStore(tmp_path / "data")
    with (run.folder / "best_model.pth").open("rb") as file:
        weights.write_bytes(file.read(100_000))
    with pytest.raises(ModelError, match="copy it again"):
        make_base_model(store, _settings(weights))
    torch.save({"model": {"encoder.weight": torch.zeros(2)}}, weights)
    with pytest.raises(ModelError, match="weights of an XTTS"):
        make_base_model(store, _settings(weights))


def test_a_vocabulary_of_another_size_is_named(run: Run, tiny_dir: Path, tmp_path: Path) -> None:
    folder = _linked(run.folder, tmp_path / "run", "config.json", "best_model.pth")
    shutil.copy(tiny_dir / "vocab.json", folder)
    known = len(run.state["xtts.gpt.text_head.bias"])
    with pytest.raises(ModelError, match=rf"knows {known} text tokens.*has {known - 2}"):
        make_base_model(CorpusStore(tmp_path / "data"), _settings(folder / "best_model.pth"))


@pytest.mark.parametrize("name", ["tiny", "xtts_v2", "Tiny"])
def test_a_checkpoint_does_not_take_the_name_of_another_base_model(
    run: Run, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SettingsError, match="name of its own"):
        make_base_model(CorpusStore(tmp_path), _settings(run.folder / "best_model.pth", name))


def test_a_checkpoint_is_never_written_over(run: Run, tmp_path: Path) -> None:
    store = CorpusStore(tmp_path)
    names = ("config.json", "vocab.json", "best_model.pth")
    folder = _linked(run.folder, store.base_model("ana"), *names)
    with pytest.raises(SettingsError, match="Move its folder"):
        make_base_model(store, _settings(folder / "best_model.pth"))
    assert {path.name for path in folder.iterdir()} == set(names)

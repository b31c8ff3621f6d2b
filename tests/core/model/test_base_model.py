from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from xtts_core.errors import LicenceError, SettingsError
from xtts_core.model.base import base_model_dir, judge, make_base_model
from xtts_core.model.checkpoint import damage, read_manifest, verify
from xtts_core.model.loading import load_dvae, load_mel_stats, load_model
from xtts_core.settings import BaseModelSettings, TrainingSettings
from xtts_core.stage import StageResult, require
from xtts_core.store import WHOLE, CorpusStore


def test_tiny_is_whole_and_passes_every_check(tiny_result: StageResult, tiny_dir: Path) -> None:
    assert all(verdict.passed for verdict in tiny_result.verdicts)
    assert len(tiny_result.verdicts) >= 2
    manifest = verify(tiny_dir)
    assert set(manifest.files) == {
        "architecture.json",
        "config.json",
        "dvae.safetensors",
        "mel_stats.safetensors",
        "model.safetensors",
        "vocab.json",
    }
    assert manifest.licence == "Apache-2.0"


def test_tiny_has_the_public_recipe_but_for_its_sizes(tiny_dir: Path) -> None:
    arguments = load_model(tiny_dir).config.model_args
    assert arguments.gpt_num_audio_tokens == 1_026
    assert (arguments.gpt_start_audio_token, arguments.gpt_stop_audio_token) == (1_024, 1_025)
    assert arguments.gpt_use_perceiver_resampler
    assert arguments.gpt_use_masking_gt_prompt_approach
    assert arguments.gpt_max_audio_tokens == 605
    assert arguments.gpt_max_text_tokens == 402
    assert arguments.gpt_max_prompt_tokens == 70


def test_a_base_model_that_is_there_is_not_built_again(
    tiny_store: CorpusStore, tiny_settings: TrainingSettings, tiny_result: StageResult
) -> None:
    again = make_base_model(tiny_store, tiny_settings)
    assert again.skipped
    assert again.data_version == tiny_result.data_version


def test_the_same_seed_gives_the_same_files_in_another_place(
    tmp_path: Path, tiny_settings: TrainingSettings, tiny_result: StageResult
) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    elsewhere = make_base_model(CorpusStore(tmp_path), tiny_settings)
    assert not elsewhere.skipped
    assert elsewhere.data_version == tiny_result.data_version
    assert torch.equal(before, torch.get_rng_state())


def test_a_damaged_base_model_is_built_again(
    tmp_path: Path, tiny_settings: TrainingSettings
) -> None:
    store = CorpusStore(tmp_path)
    first = make_base_model(store, tiny_settings)
    weights = base_model_dir(store, tiny_settings) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    second = make_base_model(store, tiny_settings)
    assert not second.skipped
    assert second.data_version == first.data_version
    require(store, "base_model", WHOLE)


def test_what_a_killed_run_left_is_taken_over_by_the_next(
    tmp_path: Path, tiny_settings: TrainingSettings, begun: Any
) -> None:
    code = """
import sys
from pathlib import Path
from xtts_core.model import base
from xtts_core.settings import BaseModelSettings, TrainingSettings
from xtts_core.store import CorpusStore

def build(directory):
    (directory / "half.bin").write_bytes(b"x")
    print("begun", flush=True)
    sys.stdin.read()

base._build_tiny = build
settings = TrainingSettings(base_model=BaseModelSettings(name="tiny"))
base.make_base_model(CorpusStore(Path(sys.argv[1])), settings)
"""
    with begun(code, str(tmp_path)) as process:
        process.kill()
    assert list(tmp_path.rglob("half.bin"))
    made = make_base_model(CorpusStore(tmp_path), tiny_settings)
    assert list(made.uri.parent.iterdir()) == [made.uri]
    verify(made.uri)


def test_a_new_base_model_replaces_the_whole_folder(
    tmp_path: Path, tiny_settings: TrainingSettings
) -> None:
    store = CorpusStore(tmp_path)
    folder = base_model_dir(store, tiny_settings)
    folder.mkdir(parents=True)
    (folder / "speakers.safetensors").write_bytes(b"of an earlier model")
    make_base_model(store, tiny_settings)
    assert {path.name for path in folder.iterdir()} == {*verify(folder).files, "manifest.json"}


def test_speech_is_spread_over_the_codes_of_tiny(tiny_dir: Path, recording) -> None:
    from TTS.tts.layers.xtts.dvae import dvae_wav_to_mel

    mel = dvae_wav_to_mel(torch.from_numpy(recording)[None], mel_norms=load_mel_stats(tiny_dir))
    codes = load_dvae(tiny_dir).get_codebook_indices(mel)[0]
    assert len(codes) == pytest.approx(len(recording) / 1_024, abs=2)
    assert len(codes.unique()) > 40


def test_an_unknown_base_model_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    settings = TrainingSettings(base_model=BaseModelSettings(name="xtts_v3"))
    with pytest.raises(SettingsError, match="tiny, xtts_v2"):
        make_base_model(CorpusStore(tmp_path), settings)


def test_the_public_model_asks_for_its_licence_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COQUI_TOS_AGREED", raising=False)
    settings = TrainingSettings(base_model=BaseModelSettings(name="xtts_v2"))
    with pytest.raises(LicenceError, match="COQUI_TOS_AGREED=1"):
        make_base_model(CorpusStore(tmp_path), settings)
    assert not base_model_dir(CorpusStore(tmp_path), settings).joinpath("manifest.json").exists()


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, []),
        ({"damaged": {"vocab.json": "it is missing"}}, [("checksums_match", "error")]),
        ({"accepted": False}, [("licence_accepted", "error")]),
        ({"broken": ["gpt.mel_head.bias"]}, [("weights_finite", "error")]),
        ({"languages": ("en",)}, [("speaks_portuguese", "warn")]),
    ],
)
def test_a_base_model_is_judged_by_files_licence_weights_and_vocabulary(
    tiny_dir: Path, changed: dict[str, Any], failed: list[tuple[str, str]]
) -> None:
    good = {
        "damaged": {},
        "accepted": True,
        "acceptance": "not needed",
        "broken": [],
        "languages": ("pt",),
    }
    verdicts = judge(read_manifest(tiny_dir), **{**good, **changed})
    assert [(v.check, v.severity) for v in verdicts if not v.passed] == failed


def test_each_damaged_file_is_found_and_named(tmp_path: Path, tiny_dir: Path) -> None:
    folder = Path(shutil.copytree(tiny_dir, tmp_path / "tiny"))
    manifest = read_manifest(folder)
    assert damage(folder, manifest) == {}
    (folder / "vocab.json").unlink()
    (folder / "config.json").write_text("{}")
    assert damage(folder, manifest).keys() == {"vocab.json", "config.json"}


def test_a_nan_in_a_weight_is_found(tmp_path: Path, tiny_dir: Path) -> None:
    from xtts_core.model.base import _count_parameters

    for file in tiny_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    state["gpt.mel_head.bias"][3] = float("nan")
    save_file(state, tmp_path / "model.safetensors")
    assert _count_parameters(tmp_path)[1] == ["gpt.mel_head.bias"]


def test_the_stage_is_defined_without_importing_torch() -> None:
    code = (
        "import sys, xtts_core.model.base, xtts_core.model.tokenizer, xtts_core.model.checkpoint;"
        "print(sorted({'torch', 'TTS', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"

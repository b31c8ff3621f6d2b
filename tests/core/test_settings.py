"""The settings files and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtts_core.errors import SettingsError
from xtts_core.settings import (
    DatasetSettings,
    Environment,
    ServiceSettings,
    TrainingSettings,
    load_settings,
)

ROOT = Path(__file__).parents[2]
KINDS = (DatasetSettings, TrainingSettings, ServiceSettings)


def refusal(folder: Path, text: str, kind: type[DatasetSettings] = DatasetSettings) -> str:
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(kind, folder)
    assert str(folder / "dataset.yaml") in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_in_the_repository_say_the_defaults(kind: type[DatasetSettings]) -> None:
    assert load_settings(kind, ROOT / "config") == kind()


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_stands_in_its_file(kind: type[DatasetSettings]) -> None:
    import yaml

    name = {DatasetSettings: "dataset", TrainingSettings: "training"}.get(kind, "service")
    written = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text(encoding="utf-8"))
    expected = kind().model_dump(mode="json")
    assert {section: set(keys) for section, keys in expected.items() if isinstance(keys, dict)} == {
        section: set(keys) for section, keys in written.items() if isinstance(keys, dict)
    }
    assert set(written) == set(expected)


def test_the_defaults_are_those_of_the_design() -> None:
    dataset, training = DatasetSettings(), TrainingSettings()
    segmentation, vad = dataset.segmentation, dataset.vad
    assert (vad.floor_dbfs, vad.frame_samples, vad.chunk_s, vad.min_silence_s) == (
        -40.0,
        512,
        10.0,
        0.3,
    )
    assert (segmentation.min_s, segmentation.target_s, segmentation.max_s) == (7.0, 10.0, 11.6)
    assert (segmentation.short_min_s, segmentation.short_share) == (1.0, 0.2)
    assert dataset.transcription.oov_threshold == 0.15
    assert dataset.download.subtitle_languages == ("pt", "pt-BR", "pt-orig")
    assert (training.lora.rank, training.lora.alpha, training.lora.dropout) == (8, 16.0, 0.1)
    assert training.optimisation.learning_rate_full == 1e-5
    assert training.optimisation.learning_rate_lora == 1e-4
    assert training.checkpoints.patience_epochs == 10


def test_an_unknown_key_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    message = refusal(tmp_path, "vad:\n  flor_dbfs: -30.0\n")
    assert "vad.flor_dbfs: unknown key; did you mean 'floor_dbfs'?" in message


def test_a_wrong_type_is_refused_and_not_converted(tmp_path: Path) -> None:
    assert "text.min_words" in refusal(tmp_path, 'text: {min_words: "3"}')


def test_a_range_that_cannot_be_is_refused(tmp_path: Path) -> None:
    assert "segmentation.max_s" in refusal(tmp_path, "segmentation: {max_s: 12.0}")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("segmentation: {min_s: 11.0}", "min_s <= target_s"),
        ("segmentation: {fade_s: 0.2}", "the fade would touch speech"),
        ("segmentation: {forced_overlap_s: 8.0}", "shorter than min_s"),
        ("split: {train_share: 0.9, val_share: 0.2}", "add up to 1"),
        ("text: {min_words: 60}", "must not exceed max_words"),
        ("audio: {min_duration_s: 50000.0}", "below max_duration_s"),
    ],
)
def test_an_impossible_combination_is_refused_with_the_remedy(
    tmp_path: Path, text: str, remedy: str
) -> None:
    assert remedy in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("augmentation: {share: 0.5}", "set one of them, or share to 0"),
        ("optimisation: {learning_rate_lora: .inf}", "optimisation.learning_rate_lora"),
        ("optimisation: {weight_decay: .nan}", "optimisation.weight_decay"),
    ],
)
def test_training_that_could_only_fail_or_change_nothing_is_refused(
    tmp_path: Path, text: str, remedy: str
) -> None:
    (tmp_path / "training.yaml").write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_settings(TrainingSettings, tmp_path)
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ('reload: {warmup_text: " …"}', "reload.warmup_text: there is nothing to say"),
        ("reload: {warmup_language: tlh}", "reload.warmup_language: 'tlh' is none of"),
    ],
)
def test_a_warm_up_that_no_release_could_pass_is_refused(
    tmp_path: Path, text: str, remedy: str
) -> None:
    (tmp_path / "service.yaml").write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_settings(ServiceSettings, tmp_path)
    assert remedy in str(refused.value)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "stands twice" in refusal(tmp_path, "split: {seed: 1}\nsplit: {seed: 2}\n")


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "training.yaml").write_text("optimisation: {learning_rate_lora: 3e-4}")
    assert load_settings(TrainingSettings, tmp_path).optimisation.learning_rate_lora == 3e-4


def test_off_is_a_word_and_no_truth_value(tmp_path: Path) -> None:
    text = "speakers: {engine: off}\nloudness: {method: off}\nvad: {enabled: false}\n"
    (tmp_path / "dataset.yaml").write_text(text)
    settings = load_settings(DatasetSettings, tmp_path)
    assert (settings.speakers.engine, settings.loudness.method) == ("off", "off")
    assert settings.vad.enabled is False


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"service\.yaml: .*missing.*XTTS_CONFIG_DIR"):
        load_settings(ServiceSettings, tmp_path)


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    assert "not valid YAML" in refusal(tmp_path, "vad: [")


def test_the_environment_has_the_documented_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    environment = Environment.load({})
    assert environment.corpus_root == tmp_path / "data"
    assert environment.videos_csv == tmp_path / "data" / "videos.csv"
    assert environment.config_dir == tmp_path / "config"
    assert environment.serving_uri == tmp_path / "data" / "serving.json"
    assert environment.voices_dir == tmp_path / "data" / "voices"
    assert environment.grpc_address == "127.0.0.1:50051"
    assert environment.metrics_address is None


def test_a_moved_corpus_moves_what_lies_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    environment = Environment.load({"XTTS_CORPUS_ROOT": "elsewhere"})
    assert environment.videos_csv == tmp_path / "elsewhere" / "videos.csv"
    assert environment.voices_dir == tmp_path / "elsewhere" / "voices"


def test_the_base_model_of_the_environment_goes_before_the_file() -> None:
    environment = Environment.load(
        {"XTTS_BASE_MODEL": "tiny", "XTTS_CONFIG_DIR": str(ROOT / "config")}
    )
    assert environment.training().base_model.name == "tiny"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from xtts_core.errors import DatasetError
from xtts_core.evaluation.samples import (
    EVALUATION_SAMPLES,
    audio_measures,
    make_evaluation_samples,
    verdicts,
)
from xtts_core.settings import TrainingSettings
from xtts_core.stage import require
from xtts_core.store import CorpusStore, read_json
from xtts_core.training.finetuned_checkpoint import current_checkpoint

VIDEO = "feira-dora"


def row(**changed: Any) -> dict[str, Any]:
    spoken = {"loss": 5.0, "rms_dbfs": -20.0, "finite": True}
    return {
        "clip_id": "a",
        "reference": "b",
        "base": {**spoken, "loss": 6.0},
        "finetuned": spoken,
        **changed,
    }


def test_each_held_out_sentence_is_spoken_by_both_models(evaluated_corpus: CorpusStore) -> None:
    folder = evaluated_corpus.evaluation_dir(current_checkpoint(evaluated_corpus).name, VIDEO)
    assert require(evaluated_corpus, EVALUATION_SAMPLES.name, VIDEO).uri == folder
    clip_id = f"{VIDEO}_00005"
    assert {path.name for path in folder.iterdir()} == {
        "measures.json",
        f"{clip_id}.base.wav",
        f"{clip_id}.finetuned.wav",
    }
    for name in ("base", "finetuned"):
        found = soundfile.info(folder / f"{clip_id}.{name}.wav")
        assert (found.samplerate, found.channels, found.subtype) == (24_000, 1, "PCM_16")
        assert found.frames > 0


def test_the_measures_are_those_of_the_files_and_of_the_recording(
    evaluated_corpus: CorpusStore,
) -> None:
    folder = require(evaluated_corpus, EVALUATION_SAMPLES.name, VIDEO).uri
    (measured,) = read_json(folder / "measures.json")["clips"]
    clips = {c["clip_id"]: c for c in pq.read_table(evaluated_corpus.metadata(VIDEO)).to_pylist()}
    held_out = clips[measured["clip_id"]]
    assert measured["text"] == held_out["text"]
    assert measured["recorded_duration_s"] == pytest.approx(held_out["duration_s"], abs=1e-3)
    assert measured["finetuned"]["loss"] < measured["base"]["loss"]
    for name in ("base", "finetuned"):
        audio, rate = soundfile.read(folder / f"{measured['clip_id']}.{name}.wav")
        measures = measured[name]
        assert measures["duration_s"] == pytest.approx(len(audio) / rate, abs=1e-3)
        assert measures["rms_dbfs"] == pytest.approx(10 * np.log10((audio**2).mean()), abs=0.01)
        assert measures["loss"] == pytest.approx(
            0.01 * measures["text_loss"] + measures["audio_loss"], abs=1e-5
        )


def test_the_record_names_the_version_that_the_release_sensor_compares(
    evaluated_corpus: CorpusStore,
) -> None:
    result = require(evaluated_corpus, EVALUATION_SAMPLES.name, VIDEO)
    assert result.metadata["version"] == current_checkpoint(evaluated_corpus).name


def test_the_reference_is_the_cleanest_training_clip(evaluated_corpus: CorpusStore) -> None:
    folder = require(evaluated_corpus, EVALUATION_SAMPLES.name, VIDEO).uri
    (measured,) = read_json(folder / "measures.json")["clips"]
    assert measured["reference"] == f"{VIDEO}_00004"


def test_evaluating_again_gives_the_same_bytes(
    own_corpus: CorpusStore, settings: TrainingSettings
) -> None:
    before = require(own_corpus, EVALUATION_SAMPLES.name, VIDEO)
    own_corpus.record(EVALUATION_SAMPLES.name, VIDEO).unlink()
    again = make_evaluation_samples(own_corpus, settings, VIDEO)
    assert not again.skipped
    assert again.data_version == before.data_version
    assert make_evaluation_samples(own_corpus, settings, VIDEO).skipped


def test_a_video_with_nothing_held_out_gives_empty_measures_that_say_so(
    own_corpus: CorpusStore,
    settings: TrainingSettings,
    hold_out_nothing: Callable[[CorpusStore, str], None],
) -> None:
    hold_out_nothing(own_corpus, VIDEO)
    result = make_evaluation_samples(own_corpus, settings, VIDEO)
    assert [path.name for path in result.outputs] == ["measures.json"]
    assert [path.name for path in result.uri.iterdir()] == ["measures.json"]
    found = read_json(result.uri / "measures.json")
    assert (found["clips"], found["reason"]) == ([], "the video has no held-out clip")
    assert result.row_count == 0
    assert result.blocked == ()


def test_a_clip_that_is_gone_is_named(own_corpus: CorpusStore, settings: TrainingSettings) -> None:
    (own_corpus.root / "segments" / VIDEO / f"{VIDEO}_00005.wav").unlink()
    own_corpus.record(EVALUATION_SAMPLES.name, VIDEO).unlink()
    with pytest.raises(DatasetError, match=rf"{VIDEO}_00005\.wav"):
        make_evaluation_samples(own_corpus, settings, VIDEO)


def test_measures_of_a_known_sound() -> None:
    tone = 0.1 * np.sin(2 * np.pi * 220 * np.arange(24_000) / 24_000).astype(np.float32)
    measures = audio_measures(np.concatenate([tone, np.zeros(12_000, np.float32)]), "bom dia, mãe")
    assert measures["duration_s"] == 1.5
    assert measures["seconds_per_character"] == 0.125
    assert measures["silence_share"] == pytest.approx(1 / 3, abs=0.01)
    assert measures["rms_dbfs"] == pytest.approx(-23.01 - 1.76, abs=0.01)
    assert measures["finite"]


def test_digital_silence_has_a_level() -> None:
    measures = audio_measures(np.zeros(2400, np.float32), "oi")
    assert (measures["rms_dbfs"], measures["silence_share"]) == (-200.0, 1.0)


@pytest.mark.parametrize(
    ("found", "failed"),
    [
        (row(), set()),
        (row(reference="a"), {"reference_is_another_clip"}),
        (row(reference="c"), {"reference_is_another_clip"}),
        (row(base={"loss": 2.0, "rms_dbfs": -20.0, "finite": True}), {"loss_not_worse"}),
        (row(finetuned={"loss": 5.0, "rms_dbfs": -90.0, "finite": True}), {"samples_audible"}),
        (row(finetuned={"loss": 5.0, "rms_dbfs": -20.0, "finite": False}), {"samples_audible"}),
    ],
)
def test_samples_are_judged_by_sound_reference_and_loss(
    found: dict[str, Any], failed: set[str]
) -> None:
    judged = verdicts([found, row(clip_id="c")])
    assert {verdict.check for verdict in judged if not verdict.passed} == failed
    assert {v.check for v in judged if v.severity == "warn"} == {"loss_not_worse"}

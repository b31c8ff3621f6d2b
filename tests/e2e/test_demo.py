"""`make demo`: from two videos to a spoken sentence, killed, resumed and repeated."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import soundfile

ASSETS = {
    "audio_codes",
    "base_model",
    "evaluation_samples",
    "finetuned_checkpoint",
    "ljspeech_dataset",
    "metadata",
    "raw_audio",
    "scorecard",
    "segments",
    "served_release",
    "train_val_splits",
    "transcripts",
    "videos",
}


def rows(output: Path) -> list[dict[str, Any]]:
    table = ds.dataset(output / "corpus" / "metadata").to_table()
    return sorted(table.to_pylist(), key=lambda row: row["clip_id"])


def metrics(output: Path) -> dict[str, Any]:
    serving = json.loads((output / "corpus" / "serving.json").read_text())
    manifest = output / "corpus" / serving["path"] / "manifest.json"
    found: dict[str, Any] = json.loads(manifest.read_text())["metrics"]
    return found


@pytest.fixture(scope="module")
def killed_and_resumed(
    programs: Any, finished_demo: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A demo that was killed while it trained and started again."""
    output = tmp_path_factory.mktemp("killed") / "out"
    corpus = output / "corpus"
    process = programs.start("xtts", "demo", "--output", output, stdout=subprocess.DEVNULL)
    programs.wait_for(output, lambda: any(corpus.glob("training/*/states/step-*")), within_s=240)
    assert process.poll() is None
    programs.kill(process)
    result = programs.demo(output)
    assert result.returncode == 0, result.stdout + result.stderr
    return output, result


def test_every_asset_is_made(finished_demo: tuple[Path, Any]) -> None:
    output, result = finished_demo
    assert {path.name for path in (output / "corpus" / "records").iterdir()} == ASSETS
    assert set(re.findall(r"^✓ (\w+)", result.stdout, re.MULTILINE)) == ASSETS


def test_the_sentence_is_audio_of_plausible_length(finished_demo: tuple[Path, Any]) -> None:
    output, _ = finished_demo
    audio, rate = soundfile.read(output / "sentence.wav")
    assert rate == 24_000
    assert 1.0 < len(audio) / rate < 15.0
    assert np.isfinite(audio).all()
    assert np.sqrt(np.mean(audio**2)) > 1e-3


def test_subtitles_give_the_text_where_they_are_and_whisper_where_not(
    finished_demo: tuple[Path, Any],
) -> None:
    output, _ = finished_demo
    sources = {
        video: {row["text_source"] for row in rows(output) if row["video_id"] == video}
        for video in ("feira-dora", "cidade-alex")
    }
    assert "manual-subtitle" in sources["feira-dora"]
    assert sources["cidade-alex"] <= {"whisper", "whisper-hp"}


def test_the_text_of_accepted_clips_is_what_is_spoken(
    finished_demo: tuple[Path, Any], demo: Path
) -> None:
    """Word error rate against the truth of the recordings, over the whole corpus."""
    from xtts_core.text import normalize
    from xtts_core.transcription.wer import word_errors

    output, _ = finished_demo
    errors = words = 0
    for video in ("feira-dora", "cidade-alex"):
        truth = json.loads((demo / f"{video}.truth.json").read_text())["speech"]
        for row in rows(output):
            if row["video_id"] != video or not row["accepted"]:
                continue
            start_s, end_s = row["start_sample"] / 22_050, row["end_sample"] / 22_050
            spoken = " ".join(
                said["spoken"]
                for said in truth
                if said["end"] > start_s + 0.2 and said["start"] < end_s - 0.2
            )
            wrong, count = word_errors(normalize(spoken, "pt"), row["text"])
            errors, words = errors + wrong, words + count
    assert words > 250
    assert errors / words < 0.06


def test_training_lowers_the_loss_of_held_out_clips(finished_demo: tuple[Path, Any]) -> None:
    output, _ = finished_demo
    found = metrics(output)
    assert found["val_loss"] < 0.95 * found["base_val_loss"]
    assert list((output / "corpus" / "training").rglob("events.out.tfevents.*"))


def test_it_says_plainly_that_tiny_does_not_speak(finished_demo: tuple[Path, Any]) -> None:
    _, result = finished_demo
    assert "does not speak" in " ".join(result.stdout.split())


def test_the_page_shows_every_clip_and_plays_the_sentence(
    finished_demo: tuple[Path, Any], chromium: str
) -> None:
    from playwright.sync_api import sync_playwright

    output, _ = finished_demo
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((output / "index.html").as_uri())
        page.wait_for_function("document.querySelector('audio').duration > 1")
        shown = page.locator("#clips tr").count() - 1
        page.locator("#clips audio").first.evaluate("player => player.load()")
        page.wait_for_function("document.querySelector('#clips audio').duration > 0.5")
        browser.close()
    assert shown == len(rows(output))
    assert problems == []


@pytest.mark.long
def test_a_killed_demo_ends_in_the_same_result(
    finished_demo: tuple[Path, Any], killed_and_resumed: tuple[Path, Any]
) -> None:
    whole, _ = finished_demo
    resumed, result = killed_and_resumed
    assert re.search(r"✓ transcripts · cidade-alex +kept", result.stdout)
    assert rows(resumed) == rows(whole)
    expected, found = metrics(whole), metrics(resumed)
    for name in ("base_val_loss", "val_loss", "best_epoch", "epochs", "steps", "train_clips"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    speech, other = (soundfile.read(folder / "sentence.wav")[0] for folder in (whole, resumed))
    assert len(speech) == len(other)


def test_a_second_demo_does_no_stage_again(programs: Any, finished_demo: tuple[Path, Any]) -> None:
    output, _ = finished_demo
    before = {
        path: path.stat().st_mtime_ns for path in (output / "corpus" / "records").rglob("*.json")
    }
    result = programs.demo(output)
    assert result.returncode == 0, result.stdout
    states = re.findall(r"^✓ \w+(?: · \S+)? +(\w+)", result.stdout, re.MULTILINE)
    assert set(states) == {"kept"}
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_xtts_train_on_the_demo_corpus_does_nothing_again(
    programs: Any, finished_demo: tuple[Path, Any]
) -> None:
    output, _ = finished_demo
    result = programs.run("xtts", "train", extra=environment_of(output))
    assert result.returncode == 0, result.stdout
    assert set(re.findall(r"^✓ \w+(?: · \S+)? +(\w+)", result.stdout, re.MULTILINE)) == {"kept"}


def test_a_settings_file_of_ones_own_trains_outside_dagster(
    programs: Any, project: Path, finished_demo: tuple[Path, Any], tmp_path: Path
) -> None:
    output, _ = finished_demo
    shutil.copytree(output / "corpus", tmp_path / "corpus")
    settings = (project / "examples/demo/config/training.yaml").read_text()
    mine = tmp_path / "short.yaml"
    mine.write_text(settings.replace("epochs: 8", "epochs: 1"))
    extra = {
        **environment_of(output),
        "XTTS_CORPUS_ROOT": str(tmp_path / "corpus"),
        "XTTS_SERVING_URI": str(tmp_path / "corpus" / "serving.json"),
        "DAGSTER_HOME": str(tmp_path / "nowhere"),
    }
    result = programs.run("xtts", "train", "--config", mine, extra=extra)
    assert result.returncode == 0, result.stdout + result.stderr
    found = dict(re.findall(r"^✓ (\w+)(?: · \S+)? +(\w+)", result.stdout, re.MULTILINE))
    assert (found["base_model"], found["audio_codes"]) == ("kept", "kept")
    assert (found["finetuned_checkpoint"], found["served_release"]) == ("made", "made")
    assert "epoch 1: train" in result.stdout
    assert not (tmp_path / "nowhere").exists()
    checkpoints = tmp_path / "corpus" / "checkpoints"
    newest = max(path.name for path in checkpoints.iterdir())
    metrics = json.loads((checkpoints / newest / "report.json").read_text())["metrics"]
    assert metrics["epochs"] == 1


def test_training_on_another_base_model_than_the_corpus_was_prepared_for_changes_nothing(
    programs: Any, project: Path, finished_demo: tuple[Path, Any], tmp_path: Path
) -> None:
    output, _ = finished_demo
    records = {path: path.read_bytes() for path in (output / "corpus" / "records").rglob("*.json")}
    settings = (project / "examples/demo/config/training.yaml").read_text()
    mine = tmp_path / "other.yaml"
    mine.write_text(settings.replace("name: tiny", "name: xtts_v2"))
    result = programs.run("xtts", "train", "--config", mine, extra=environment_of(output))
    assert result.returncode == 2
    assert "prepared for the base model tiny" in result.stderr
    assert "xtts run" in result.stderr
    assert records == {path: path.read_bytes() for path in records}


def test_exporting_the_toy_voice_is_refused_with_the_reason(
    programs: Any, finished_demo: tuple[Path, Any], tmp_path: Path
) -> None:
    """coqui-tts builds its vocoder in one size; tests/core/model shows an export that it loads."""
    output, _ = finished_demo
    result = programs.run(
        "xtts", "export", tmp_path / "voice", "--to", "coqui", extra=environment_of(output)
    )
    assert result.returncode == 2
    assert "vocoder in one size" in result.stderr
    assert not (tmp_path / "voice").exists()


def test_a_release_is_published_again_and_rolled_back(
    programs: Any, finished_demo: tuple[Path, Any]
) -> None:
    output, _ = finished_demo
    extra = environment_of(output)
    serving = output / "corpus" / "serving.json"
    first = json.loads(serving.read_text())
    assert programs.run("xtts", "release", "rollback", "99", extra=extra).returncode == 2
    assert json.loads(serving.read_text()) == first
    assert programs.run("xtts", "release", "publish", extra=extra).returncode == 0
    assert programs.run("xtts", "release", "rollback", "1", extra=extra).returncode == 0
    again = json.loads(serving.read_text())
    assert (again["release"], again["manifest_sha256"]) == (1, first["manifest_sha256"])


def environment_of(output: Path) -> dict[str, str]:
    """The variables of `demo.env`, read by a shell as a user would."""
    shown = subprocess.run(
        ["sh", "-c", f". {shlex.quote(str(output / 'demo.env'))}; set"],
        check=True,
        capture_output=True,
        text=True,
        env={},
    )
    pairs = (line.partition("=") for line in shown.stdout.splitlines())
    return {
        name: shlex.split(value)[0]
        for name, _, value in pairs
        if name == "DAGSTER_HOME" or name.startswith("XTTS_")
    }

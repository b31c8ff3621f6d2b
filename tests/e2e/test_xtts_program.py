"""`xtts run` and its neighbours on good and bad input, a URL among it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile


class Corpus:
    """A corpus with a good URL, a silent file, a broken file and a row that cannot be used."""

    def __init__(self, programs: Any, project: Path, home: Path, url: str) -> None:
        self.home = home
        self.root = home / "data"
        self.root.mkdir(parents=True)
        shutil.copy(project / "dagster.yaml", home)
        soundfile.write(self.root / "silent.wav", np.zeros(22_050 * 5, np.int16), 22_050)
        (self.root / "broken.mp4").write_text("this is no video")
        (self.root / "videos.csv").write_text(
            "video_id,source,speaker,licence\n"
            f"web,{url},dora,free\n"
            "silent,silent.wav,dora,free\n"
            "broken,broken.mp4,dora,free\n"
            "not/an/id,silent.wav,dora,free\n"
            "[/bold],silent.wav,dora,free\n"
        )
        self._programs = programs
        self._extra = {
            "DAGSTER_HOME": str(home),
            "XTTS_CONFIG_DIR": str(project / "examples" / "demo" / "config"),
        }

    def xtts(self, *arguments: str) -> Any:
        return self._programs.run("xtts", *arguments, extra=self._extra)


@pytest.fixture(scope="module")
def corpus(
    programs: Any,
    project: Path,
    site: tuple[str, list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Corpus:
    return Corpus(programs, project, tmp_path_factory.mktemp("home"), site[0])


@pytest.fixture(scope="module")
def first_run(corpus: Corpus) -> Any:
    return corpus.xtts("run")


def states(output: str) -> dict[tuple[str, str], str]:
    found = re.findall(r"^[✓✗] (\w+)(?: · (\S+))? +(made|kept|failed|check failed)", output, re.M)
    return {(asset, video): state for asset, video, state in found}


def test_bad_input_is_named_and_the_rest_goes_on(first_run: Any) -> None:
    found = states(first_run.stdout)
    assert first_run.returncode == 1
    assert "videos.csv line 5" in first_run.stdout
    assert "videos.csv line 6" in first_run.stdout
    assert "[/bold]" in first_run.stdout
    assert found["raw_audio", "silent"] == "check failed"
    assert "not_silent" in first_run.stdout
    assert found["raw_audio", "broken"] == "failed"
    assert "broken.mp4" in first_run.stdout
    assert ("segments", "silent") not in found
    assert ("segments", "broken") not in found
    assert found["train_val_splits", "web"] == "made"
    assert found["ljspeech_dataset", ""] == "made"


def test_a_url_brings_its_sound_and_its_subtitles(first_run: Any, corpus: Corpus) -> None:
    provenance = json.loads((corpus.root / "raw" / "web.json").read_text())
    assert [(s["language"], s["kind"]) for s in provenance["subtitles"]] == [("pt-BR", "manual")]
    audio = soundfile.info(corpus.root / "raw" / "web.wav")
    assert (audio.samplerate, audio.channels, audio.subtype) == (22_050, 1, "PCM_16")
    assert audio.duration == pytest.approx(77, abs=2)
    clips = pq.read_table(corpus.root / "metadata" / "web.parquet").to_pylist()
    assert "manual-subtitle" in {clip["text_source"] for clip in clips}


def test_the_ljspeech_dataset_holds_the_accepted_clips(first_run: Any, corpus: Corpus) -> None:
    clips = pq.read_table(corpus.root / "metadata" / "web.parquet").to_pylist()
    accepted = {clip["clip_id"]: clip for clip in clips if clip["accepted"]}
    lines = (corpus.root / "ljspeech" / "metadata.csv").read_text().splitlines()
    listed = {clip_id: text for clip_id, _, text in (line.split("|") for line in lines)}
    assert listed == {clip_id: clip["text"] for clip_id, clip in accepted.items()}
    for clip_id, clip in accepted.items():
        wav = soundfile.info(corpus.root / "ljspeech" / "wavs" / f"{clip_id}.wav")
        assert wav.duration == pytest.approx(clip["duration_s"])
    assert (corpus.root / "reports" / "dataset.html").is_file()


def test_the_dataset_is_exported_and_what_is_not_in_it_is_named(
    first_run: Any, corpus: Corpus, tmp_path: Path
) -> None:
    done = corpus.xtts("dataset", "export", str(tmp_path / "hf"), "--to", "hf")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(tmp_path / "hf" / "data")
    lines = (corpus.root / "ljspeech" / "metadata.csv").read_text().splitlines()
    assert f"{len(lines)} clips" in done.stdout
    assert sorted(rows["clip_id"].to_pylist()) == sorted(line.split("|")[0] for line in lines)
    linked = corpus.xtts("dataset", "export", str(tmp_path / "x"), "--to", "hf", "--link")
    assert linked.returncode == 2
    assert "only --to ljspeech" in linked.stderr + linked.stdout
    again = corpus.xtts("dataset", "export", str(tmp_path / "hf"), "--to", "ljspeech")
    assert again.returncode == 2
    assert "not an empty folder" in again.stderr + again.stdout


def test_each_run_has_its_log_below_the_corpus(first_run: Any, corpus: Corpus) -> None:
    names = {path.name.rsplit("-", 1)[0] for path in (corpus.root / "logs").glob("*.log")}
    assert names == {"prepare_base_model", "prepare_video", "build_dataset"}


def test_a_good_video_alone_is_kept_without_asking_the_network(
    first_run: Any, corpus: Corpus, site: tuple[str, list[str]]
) -> None:
    asked = len(site[1])
    result = corpus.xtts("run", "--video", "web", "--skip", "ljspeech_dataset")
    assert set(states(result.stdout).values()) == {"kept"}
    assert len(site[1]) == asked


def test_one_asset_of_one_video_runs_alone(first_run: Any, corpus: Corpus) -> None:
    shutil.rmtree(corpus.root / "segments" / "web")
    result = corpus.xtts("run", "--video", "web", "--only", "segments")
    assert states(result.stdout) == {("segments", "web"): "made"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--only", "videoz"), "'videoz' is not an asset"),
        (("run", "--video", "nobody"), "no video 'nobody'"),
        (("videos", "remove", "nobody"), "nobody"),
        (("export", "out", "--to", "coqui"), "Materialise finetuned_checkpoint first"),
    ],
)
def test_a_wrong_request_is_one_line_with_the_remedy(
    first_run: Any, corpus: Corpus, arguments: tuple[str, ...], message: str
) -> None:
    result = corpus.xtts(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["run", "train"])
def test_every_settings_file_is_read_before_any_work(
    programs: Any, project: Path, tmp_path: Path, command: str
) -> None:
    config = tmp_path / "config"
    shutil.copytree(project / "examples" / "demo" / "config", config)
    shutil.copy(project / "dagster.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "videos.csv").write_text("source\nhttps://example.org/1\n")
    for name, line in (("dataset", "vad: {engin: webrtc}"), ("service", "limits: {max_voices: 0}")):
        (config / f"{name}.yaml").write_text(line)
    result = programs.run(
        "xtts",
        command,
        extra={"DAGSTER_HOME": str(tmp_path), "XTTS_CONFIG_DIR": str(config)},
    )
    assert result.returncode == 2
    assert "dataset.yaml: vad.engin: unknown key; did you mean 'engine'?" in result.stderr
    assert "service.yaml: limits.max_voices: Input should be greater" in result.stderr
    assert states(result.stdout) == {}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["videos.csv"]


def test_a_removed_row_leaves_the_dataset(first_run: Any, corpus: Corpus) -> None:
    catalogue = corpus.root / "videos.csv"
    before = catalogue.read_text()
    removed = corpus.xtts("videos", "remove", "web")
    result = corpus.xtts("run", "--only", "ljspeech_dataset")
    catalogue.write_text(before)
    assert removed.returncode == 0
    assert result.returncode == 1
    assert "web: its row is not in videos.csv" in " ".join(result.stdout.split())


def test_training_without_enough_clips_is_refused_by_name(first_run: Any, corpus: Corpus) -> None:
    shutil.rmtree(corpus.root / "splits")
    result = corpus.xtts("train")
    assert result.returncode == 1
    assert "web is left out: train_val_splits of web lacks a file: splits/web" in result.stdout
    assert "No video has usable audio codes" in result.stdout


def test_rows_are_added_listed_checked_and_removed(corpus: Corpus) -> None:
    added = corpus.xtts("videos", "add", "silent.wav", "--video-id", "-new", "--speaker", "ana")
    assert added.returncode == 0, added.stderr
    assert "-new" in corpus.xtts("videos", "list").stdout
    checked = corpus.xtts("videos", "check")
    assert checked.returncode == 1
    assert "line 5" in checked.stdout
    assert corpus.xtts("videos", "remove", "--", "-new").returncode == 0
    assert "-new" not in corpus.xtts("videos", "list").stdout


def test_dataset_show_tells_what_is_there_and_why_clips_were_rejected(
    first_run: Any, corpus: Corpus
) -> None:
    shown = corpus.xtts("dataset", "show").stdout
    assert "web" in shown
    assert "accepted" in shown
    assert re.search(r"silent .*raw_audio of silent failed a blocking check \(not_silent", shown)
    assert re.search(r"broken .*raw_audio of broken has not been made", shown)


@pytest.mark.parametrize(
    "command",
    [(), ("run",), ("train",), ("demo",), ("videos",), ("dataset",), ("release",), ("export",)],
    ids=lambda command: " ".join(("xtts", *command)),
)
def test_help_of_each_command_is_there(corpus: Corpus, command: tuple[str, ...]) -> None:
    shown = corpus.xtts(*command, "--help")
    assert shown.returncode == 0
    assert "Usage: xtts" in shown.stdout

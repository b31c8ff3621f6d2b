"""Soaks, chaos and big inputs: `make test-long`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import soundfile
from safetensors.torch import load_file

from xtts_core.model.checkpoint import read_manifest, write_checkpoint
from xtts_core.settings import MAX_CLIP_SAMPLES
from xtts_grpc.client import SynthesisClient

pytestmark = pytest.mark.long


def clips(corpus: Path) -> list[dict[str, Any]]:
    rows = ds.dataset(corpus / "metadata").to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["clip_id"]))


def reached_or_ended(corpus: Path, pattern: str, process: subprocess.Popen[str]) -> bool:
    return any(corpus.glob(pattern)) or process.poll() is not None


def another_checkpoint(corpus: Path, number: int) -> str:
    """A checkpoint with the weights of the served one and a manifest of its own."""
    pointer = json.loads((corpus / "serving.json").read_text())
    served = corpus / pointer["path"]
    manifest = read_manifest(served)
    made = write_checkpoint(
        corpus / "checkpoints",
        base_dir=corpus / "models" / "tiny",
        state=load_file(served / "model.safetensors"),
        adapter_dir=None,
        voices={"dora": sorted((served / "voices" / "dora").glob("*.wav"))},
        settings={},
        lineage={"copy": number},
        metrics={},
        licence=manifest.licence,
        created_at=datetime.now(UTC),
    )
    return made.name


def served_metrics(corpus: Path) -> dict[str, Any]:
    pointer = json.loads((corpus / "serving.json").read_text())
    found: dict[str, Any] = json.loads((corpus / pointer["path"] / "manifest.json").read_text())
    return {name: value for name, value in found["metrics"].items() if not name.endswith("_s")}


def test_a_demo_that_is_killed_at_every_stage_ends_in_the_same_result(
    programs: Any, finished_demo: tuple[Path, Any], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    corpus = output / "corpus"
    for reached in (
        "models/.*",
        "raw/*.wav",
        "cache/transcripts/*.jsonl",
        "records/metadata/*.json",
        "records/audio_codes/*.json",
        "training/*/tensorboard",
        "checkpoints/*",
        "evaluation/*/*",
    ):
        process = programs.start("xtts", "demo", "--output", output, stdout=subprocess.DEVNULL)
        programs.wait_for(output, partial(reached_or_ended, corpus, reached, process), within_s=300)
        programs.kill(process)
    result = programs.demo(output)
    assert result.returncode == 0, result.stdout + result.stderr
    whole = finished_demo[0] / "corpus"
    assert clips(corpus) == clips(whole)
    found, expected = served_metrics(corpus), served_metrics(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        equal = value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
        assert found[name] == equal, name
    assert not [path for path in corpus.rglob(".*") if path.parent.name == "checkpoints"]


def test_an_hour_of_speech_becomes_clips_within_the_limits(
    programs: Any, project: Path, finished_demo: tuple[Path, Any], tmp_path: Path
) -> None:
    speech, rate = soundfile.read(
        finished_demo[0] / "corpus" / "raw" / "feira-dora.wav", dtype="int16"
    )
    data = tmp_path / "data"
    data.mkdir()
    with soundfile.SoundFile(data / "hour.wav", "w", rate, 1, "PCM_16") as hour:
        for _ in range(3_600 * rate // len(speech)):
            hour.write(speech)
    (data / "videos.csv").write_text("video_id,source\nhour,hour.wav\n")
    shutil.copy(project / "dagster.yaml", tmp_path)
    stages = ("videos", "raw_audio", "segments")
    result = programs.run(
        "xtts",
        "run",
        *(word for stage in stages for word in ("--only", stage)),
        extra={
            "DAGSTER_HOME": str(tmp_path),
            "XTTS_CONFIG_DIR": str(project / "config"),
            "XTTS_BASE_MODEL": "tiny",
        },
    )
    assert result.returncode == 0, result.stdout
    table = pq.read_table(data / "segments" / "hour.parquet").to_pydict()
    lengths = np.array(table["end_sample"]) - np.array(table["start_sample"])
    assert lengths.max() <= MAX_CLIP_SAMPLES
    assert lengths.sum() / rate > 0.7 * 3_600
    assert len(set(table["segment_id"])) == len(lengths)


def test_a_thousand_calls_during_five_releases_all_succeed(
    programs: Any, finished_demo: tuple[Path, Any], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(finished_demo[0] / "corpus", corpus)
    extra = {
        "DAGSTER_HOME": str(tmp_path),
        "XTTS_CORPUS_ROOT": str(corpus),
        "XTTS_CONFIG_DIR": str(Path(__file__).parents[2] / "examples" / "demo" / "config"),
    }
    log = tmp_path / "logs" / "serve.log"
    log.parent.mkdir()
    programs.environment |= extra
    with log.open("w") as output:
        service = programs.start(
            "xtts-serve", "--address", "127.0.0.1:0", stdout=output, stderr=subprocess.STDOUT
        )
    for name in extra:
        programs.environment[name] = ""
    programs.wait_for(log.parent, lambda: " serves " in log.read_text(), within_s=90)
    found = re.search(r"listening on (\S+)", log.read_text())
    assert found is not None
    address = found[1]

    with SynthesisClient(address) as client:
        first_version = client.get_model().model_version
    answered = threading.Semaphore(0)

    def call(number: int) -> str:
        with SynthesisClient(address) as client:
            speech = client.synthesize("Bom dia.", voice_id="dora", seed=number)
        answered.release()
        assert speech.duration_s > 0
        return speech.model_version

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call, number) for number in range(1_000)]
        published: list[str] = []
        for number in range(5):
            for _ in range(150):
                assert answered.acquire(timeout=120)
            version = another_checkpoint(corpus, number)
            assert programs.run("xtts", "release", "publish", version, extra=extra).returncode == 0
            published.append(version)
        versions = {call.result() for call in calls}
    with SynthesisClient(address) as client:
        model = client.get_model()
    assert versions - set(published) == {first_version}
    assert len(versions) > 1
    assert (model.release, model.model_version) == (6, published[-1])
    assert model.last_error == ""
    service.terminate()
    assert service.wait(60) == 0

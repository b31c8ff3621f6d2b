"""`xtts-serve` and `xtts-say` as processes, with the real engine and the model `tiny`."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from xtts_core.model.engine import Delivery
from xtts_grpc.client import (
    Encoding,
    ServiceDownError,
    StreamEnd,
    StreamStart,
    SynthesisClient,
)

TEXT = "Bom dia, tudo bem? Hoje vamos à feira."


def say(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xtts_grpc.say", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def environment(tiny_corpus, tmp_path) -> dict[str, str]:
    return {
        "XTTS_CORPUS_ROOT": str(tiny_corpus.root),
        "XTTS_VOICES_DIR": str(tmp_path / "voices"),
        "XTTS_BASE_MODEL": "tiny",
    }


@pytest.fixture(scope="module")
def address(serve_process, tiny_corpus, tmp_path_factory) -> str:
    """Where a process serves a checkpoint that has the speaker alex."""
    [checkpoint] = (tiny_corpus.releases_dir / "1").iterdir()
    process = serve_process(
        {
            "XTTS_CUSTOM_CHECKPOINT": str(checkpoint),
            "XTTS_VOICES_DIR": str(tmp_path_factory.mktemp("voices")),
        }
    )
    found = process.wait_for_line(r"listening on (\S+)")[1]
    process.wait_for_line(f"model {checkpoint.name} serves")
    return found


def test_xtts_say_writes_a_plausible_file_in_a_cloned_voice(address, tmp_path, audio_file):
    reference = tmp_path / "reference.wav"
    reference.write_bytes(audio_file(6.0))
    options = ["--address", address, "--seed", "3"]
    cloned = say(TEXT, "--reference", str(reference), "--out", str(tmp_path / "a.wav"), *options)
    assert cloned.returncode == 0, cloned.stderr
    voice_id = cloned.stdout.split()[1]
    again = say(TEXT, "--voice", voice_id, "--out", str(tmp_path / "b.flac"), *options)
    assert again.returncode == 0, again.stderr
    first, rate_hz = soundfile.read(tmp_path / "a.wav", dtype="int16")
    second, _ = soundfile.read(tmp_path / "b.flac", dtype="int16")
    assert rate_hz == 24_000
    assert 0.5 < len(first) / rate_hz < 20
    assert np.abs(first).max() > 100
    np.testing.assert_array_equal(first, second)


def test_xtts_say_writes_what_there_is_of_sentences_that_ran_away_and_says_so(running, tmp_path):
    running.gate.engines[0].delivered = Delivery(cut=2)
    out = tmp_path / "a.wav"
    run = say(TEXT, "--voice", "dora", "--out", str(out), "--address", running.address)
    assert run.returncode == 0, run.stderr
    assert "2 of its sentences ran away" in run.stderr
    assert soundfile.info(out).frames == len(TEXT) * 1_000


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--voice", "nobody"], "There is no voice 'nobody'"),
        (["--voice", "alex", "--language", "tlh"], "The language 'tlh' is not known"),
        ([], "Exactly one of them is needed"),
        (["--voice", "alex", "--reference", "r.wav"], "Exactly one of them is needed"),
        (["--reference", "missing.wav"], "missing.wav: The file cannot be read"),
        (["--voice", "alex", "--token-file", "none.txt"], "none.txt: The file cannot be read"),
        (["--voice", "alex", "--out", "a.txt"], "The file type '.txt' is not known"),
        (["--voice", "alex", "--address", "127.0.0.1:1"], "127.0.0.1:1"),
        (
            ["--voice", "alex", "--sample-rate", "22050", "--out", "a.ogg"],
            "--sample-rate: Opus cannot carry 22050 Hz",
        ),
    ],
)
def test_xtts_say_fails_with_a_clear_message(address, tmp_path, options, reason):
    out = tmp_path / "a.wav"
    run = say(TEXT, "--out", str(out), "--address", address, *options)
    assert run.returncode == 1
    assert run.stderr.startswith("xtts-say: ")
    assert reason in run.stderr
    assert not out.exists()


def test_sigterm_lets_calls_in_flight_end_and_refuses_new_ones(
    serve_process, environment, publish_tiny
):
    version = publish_tiny(1)
    process = serve_process(environment)
    address = process.wait_for_line(r"listening on (\S+)")[1]
    process.wait_for_line(f"model {version} serves")
    with SynthesisClient(address) as client:
        # More audio than the flow control lets through unread, so that the call stays in flight.
        parts = client.stream(TEXT * 6, voice_id="alex", seed=1)
        start = next(parts)
        next(parts)
        process.process.send_signal(signal.SIGTERM)
        process.wait_for_line("new calls are refused")
        with SynthesisClient(address) as late, pytest.raises(ServiceDownError):
            late.get_model()
        rest = list(parts)
    assert isinstance(start, StreamStart)
    assert isinstance(rest[-1], StreamEnd)
    assert process.finish() == 0
    assert "is freed" in process.log
    assert TEXT not in process.log


LOADED_TWICE = """
import gc, sys, weakref
from pathlib import Path
from xtts_core.settings import EngineSettings
from xtts_grpc.serve import load_engine
engines = [load_engine(Path(sys.argv[1]), EngineSettings()) for _ in range(2)]
left = [weakref.ref(engine._decoder) for engine in engines]
watched = len(gc.get_objects())
del engines
gc.collect()
print(gc.get_freeze_count() > 10 * watched, [decoder() for decoder in left])
"""


def test_collections_look_at_models_and_not_at_the_libraries(tiny_corpus):
    folder = str(tiny_corpus.base_model("tiny"))
    done = subprocess.run(
        [sys.executable, "-c", LOADED_TWICE, folder], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True [None, None]\n", done.stderr


def test_a_service_ends_with_the_program_that_started_it(serve_process, environment):
    process = serve_process(environment, "--end-with-stdin")
    process.wait_for_line("listening on")
    process.process.stdin.close()
    assert process.finish() == 0
    assert "new calls are refused" in process.log


def test_the_real_engine_streams_reloads_and_keeps_cloned_voices(
    tiny_service, publish_tiny, audio_file
):
    client = tiny_service.client
    voice_id = client.clone_voice([audio_file(6.0)]).voice_id
    options = {"voice_id": voice_id, "seed": 5, "encoding": Encoding.PCM16}
    before = client.synthesize(TEXT, **options)
    parts = list(client.stream(TEXT, **options))
    joined = b"".join(part for part in parts if isinstance(part, bytes))
    apart = np.frombuffer(joined, "<i2").astype(int) - np.frombuffer(before.audio, "<i2")
    assert np.abs(apart).max() <= 1
    second = publish_tiny(2)
    client.reload_model()
    after = client.synthesize(TEXT, **options)
    assert (before.model_version != second, after.model_version) == (True, second)
    assert after.audio == before.audio, "both releases hold the same weights"
    assert client.get_model().speakers == ("alex",)


def test_a_missing_custom_checkpoint_is_served_by_the_base_model_unless_strict(
    serve_process, environment, tmp_path
):
    environment["XTTS_CUSTOM_CHECKPOINT"] = str(tmp_path / "nowhere")
    lenient = serve_process(environment)
    address = lenient.wait_for_line(r"listening on (\S+)")[1]
    assert "ERROR" in lenient.log
    assert "The base model serves in its place" in lenient.log
    with SynthesisClient(address) as client:
        client.wait_until_serving(60)
        model = client.get_model()
    assert model.source == "base-model"
    assert "The custom checkpoint does not exist" in model.fallback_reason
    strict = serve_process(environment, "--strict")
    assert strict.finish() == 1
    assert "The custom checkpoint does not exist" in strict.log


def test_a_service_that_cannot_start_says_why_and_fails(serve_process, environment, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    config = tmp_path / "config"
    config.mkdir()
    (config / "service.yaml").write_text("server:\n  drain: 3\n")
    cases = {
        "it has no manifest": ({"XTTS_CUSTOM_CHECKPOINT": str(broken)}, []),
        "did you mean 'drain_s'": ({}, ["--config-dir", str(config)]),
        "TLS needs a certificate and its key": ({"XTTS_TLS_CERT": "cert.pem"}, []),
        "XTTS_TOKEN_FILE (": ({"XTTS_TOKEN_FILE": str(tmp_path / "none.txt")}, []),
        "XTTS_METRICS_ADDRESS: The address nowhere": ({"XTTS_METRICS_ADDRESS": "nowhere"}, []),
        "cannot be listened on": ({}, ["--address", "no-such-host.invalid:1"]),
    }
    started = {
        reason: serve_process({**environment, **extra}, *options)
        for reason, (extra, options) in cases.items()
    }
    for reason, process in started.items():
        assert process.finish() == 1
        assert reason in process.log
        assert "Traceback" not in process.log.partition("no new model")[0]

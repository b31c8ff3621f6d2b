"""What Prometheus reads of a service, over HTTP."""

from __future__ import annotations

import re
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from xtts_core.errors import SettingsError
from xtts_grpc.client import ServiceError
from xtts_grpc.logs import TextFormatter

TEXT = "Bom dia, tudo bem?"


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def measured(start, releases, address):
    releases.publish(1)
    running = start(metrics_address=address)
    running.health.wait_for("SERVING")
    return running


def figures(address):
    """The value of each sample by its name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r"^(xtts_[^ ]+) (\S+)$", text, flags=re.MULTILINE)
    return {name: float(value) for name, value in found}


def calls(found, method, code):
    """How many calls ended so: a call is counted before its caller hears of its end."""
    return found.get(f'xtts_calls_total{{code="{code}",method="{method}"}}', 0)


def test_calls_are_counted_by_method_and_status(measured, address):
    measured.client.synthesize(TEXT, voice_id="dora")
    measured.client.synthesize(TEXT, voice_id="dora")
    with pytest.raises(ServiceError):
        measured.client.synthesize(TEXT, voice_id="nobody")
    found = figures(address)
    assert calls(found, "Synthesize", "NOT_FOUND") == 1
    assert calls(found, "Synthesize", "OK") == 2
    assert found['xtts_call_seconds_count{method="Synthesize"}'] == 3
    assert found['xtts_calls_running{method="Synthesize"}'] == 0


def test_speech_is_added_up_by_language_and_no_text_or_voice_is_told(measured, address):
    speech = measured.client.synthesize(TEXT, voice_id="dora")
    list(measured.client.stream(TEXT, voice_id="dora"))
    found = figures(address)
    assert calls(found, "SynthesizeStream", "OK") == 1
    assert found['xtts_audio_seconds_total{language="pt"}'] == pytest.approx(2 * speech.duration_s)
    assert found['xtts_work_seconds_total{language="pt"}'] > 0
    assert found["xtts_first_audio_seconds_count"] == 1
    assert not any("dora" in name or "Bom" in name for name in found)


def test_a_call_that_goes_on_is_seen_and_one_that_was_given_up_is_counted(
    measured, address, logged
):
    lines = logged(TextFormatter())
    measured.gate.shut()
    parts = measured.client.stream(TEXT, voice_id="dora")
    next(parts)
    measured.gate.wait_for_call()
    assert figures(address)['xtts_calls_running{method="SynthesizeStream"}'] == 1
    parts.close()
    measured.gate.open()
    lines.next_call()
    assert calls(figures(address), "SynthesizeStream", "CANCELLED") == 1


def test_calls_that_wait_for_a_place_are_told(start, releases, address):
    releases.publish(1)
    server = {"max_concurrent_calls": 1, "max_waiting_calls": 1}
    running = start(metrics_address=address, server=server)
    running.health.wait_for("SERVING")
    running.gate.shut()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.client.synthesize, TEXT, voice_id="dora")
        running.gate.wait_for_call()
        assert figures(address)["xtts_calls_waiting"] == 0
        second = pool.submit(running.client.synthesize, TEXT, voice_id="dora")
        while not figures(address)["xtts_calls_waiting"]:
            assert not second.done()
        running.gate.open()
        first.result()
        second.result()
    assert figures(address)["xtts_calls_waiting"] == 0


def test_the_wait_for_a_place_is_part_of_the_time_to_first_audio(
    start, releases, address, monkeypatch
):
    now = 0.0
    monkeypatch.setattr("xtts_grpc.servicer.monotonic", lambda: now)
    releases.publish(1)
    running = start(metrics_address=address, server={"max_concurrent_calls": 1})
    running.health.wait_for("SERVING")
    running.gate.shut()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.client.synthesize, TEXT, voice_id="dora")
        running.gate.wait_for_call()
        second = pool.submit(lambda: list(running.client.stream(TEXT, voice_id="dora")))
        while not figures(address)["xtts_calls_waiting"]:
            assert not second.done()
        now = 100.0
        running.gate.open()
        first.result()
        second.result()
    assert figures(address)["xtts_first_audio_seconds_sum"] == 100


def test_whether_a_model_serves_and_the_newest_was_refused_is_told(measured, releases, address):
    found = figures(address)
    assert (found["xtts_model_serving"], found["xtts_model_refused"]) == (1, 0)
    releases.publish_damaged(2)
    measured.health.wait_for("NOT_SERVING", "reload")
    found = figures(address)
    assert (found["xtts_model_serving"], found["xtts_model_refused"]) == (1, 1)


def test_refused_tokens_are_counted(start, releases, address, tmp_path):
    (tmp_path / "tokens").write_text(f"admin {'a' * 32}\n")
    releases.publish(1)
    running = start(metrics_address=address, token_file=tmp_path / "tokens")
    with pytest.raises(ServiceError):
        running.client.get_model()
    assert calls(figures(address), "GetModel", "UNAUTHENTICATED") == 1


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999", "127.0.0.1:"])
def test_an_address_that_cannot_be_listened_on_is_refused(start, address):
    with pytest.raises(SettingsError, match=r"XTTS_METRICS_ADDRESS: The address .* cannot be"):
        start(metrics_address=address)

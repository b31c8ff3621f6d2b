"""What the service logs: of a call one line, in JSON that parses, without its text unless asked."""

from __future__ import annotations

import json
import logging
from datetime import datetime

import grpc
import pytest

from xtts_core.errors import ModelError
from xtts_grpc.client import ServiceError, SynthesisClient
from xtts_grpc.logs import CALL_ID_KEY, JsonFormatter, TextFormatter
from xtts_grpc.v1 import synthesis_pb2 as pb
from xtts_grpc.v1 import synthesis_pb2_grpc as pb_grpc

TEXT = "Bom dia, é a senha secreta."
UTTERANCE = pb.Utterance(text=TEXT, language="pt-BR")


def serving(start, releases, **settings):
    version = releases.publish(1)
    running = start(**settings)
    running.health.wait_for("SERVING")
    return running, version


def test_a_spoken_call_has_one_line_with_its_figures_and_the_id_that_the_caller_gets(
    start, releases, logged
):
    running, version = serving(start, releases)
    lines = logged(JsonFormatter())
    with grpc.insecure_channel(running.address) as channel:
        stub = pb_grpc.SynthesisServiceStub(channel)
        request = pb.SynthesizeRequest(utterance=UTTERANCE, voice_id="dora")
        reply, call = stub.Synthesize.with_call(request, timeout=30)
    line = json.loads(lines.next_call())
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line.pop("seconds") >= line.pop("work_s") >= 0
    assert line.pop("duration_s") == pytest.approx(reply.speech.duration_s, abs=1e-3)
    assert line.pop("call_id") == dict(call.trailing_metadata())[CALL_ID_KEY]
    assert (
        line.items()
        >= {
            "level": "INFO",
            "logger": "xtts_grpc.calls",
            "event": "call",
            "method": "Synthesize",
            "status": "OK",
            "model_version": version,
            "language": "pt",
            "characters": len(TEXT),
            "voice_id": "dora",
        }.items()
    )


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_the_text_of_a_call_is_logged_only_where_that_is_asked_for(
    start, releases, logged, audio_file, formatter, texts
):
    running, _ = serving(start, releases, logging={"texts": texts})
    lines = logged(formatter)
    text = TEXT.replace("é", "e")
    running.client.synthesize(text, voice_id="dora")
    list(running.client.stream(text, voice_id="dora"))
    running.client.clone_voice([audio_file()], text=text)
    with pytest.raises(ServiceError):
        running.client.synthesize(text, voice_id="nobody")
    calls = [lines.next_call() for _ in range(4)]
    assert [line for line in lines.written if text in line] == (calls if texts else [])
    assert not any("secreta" in line for line in lines.written if line not in calls)


def test_a_refused_call_tells_its_status_and_no_figures(start, releases, logged):
    running, _ = serving(start, releases)
    lines = logged(JsonFormatter())
    with pytest.raises(ServiceError):
        running.client.synthesize(TEXT, voice_id="nobody")
    line = json.loads(lines.next_call())
    assert (line["method"], line["status"], line["language"]) == ("Synthesize", "NOT_FOUND", "pt")
    assert not {"voice_id", "duration_s", "work_s"} & line.keys()


def test_a_call_without_a_token_has_a_line_and_an_id_too(start, releases, logged, tmp_path):
    (tmp_path / "tokens").write_text(f"admin {'a' * 32}\n")
    running, _ = serving(start, releases, token_file=tmp_path / "tokens")
    lines = logged(JsonFormatter())
    with (
        grpc.insecure_channel(running.address) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        pb_grpc.SynthesisServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=30)
    line = json.loads(lines.next_call())
    assert line["status"] == "UNAUTHENTICATED"
    sent = dict(refused.value.trailing_metadata())
    assert sent[CALL_ID_KEY] == line["call_id"]
    assert sent["xtts-reason"] == "unauthenticated"


def test_a_stream_that_was_given_up_has_its_line(start, releases, logged):
    running, _ = serving(start, releases)
    lines = logged(JsonFormatter())
    running.gate.shut()
    parts = running.client.stream(TEXT, voice_id="dora")
    next(parts)
    running.gate.wait_for_call()
    parts.close()
    running.gate.open()
    line = json.loads(lines.next_call())
    assert (line["method"], line["status"]) == ("SynthesizeStream", "CANCELLED")
    assert line["characters"] == len(TEXT)


def test_a_traceback_is_a_field_of_a_line_with_the_id_of_its_call(start, releases, logged):
    running, _ = serving(start, releases)
    lines = logged(JsonFormatter())
    [engine] = running.gate.engines
    engine.mute = True
    with pytest.raises(ServiceError, match="said nothing"):
        running.client.synthesize(TEXT, voice_id="dora")
    call = json.loads(lines.next_call())
    [failure] = [line for line in map(json.loads, lines.written) if "exception" in line]
    assert call["status"] == "INTERNAL"
    assert failure["level"] == "ERROR"
    assert failure["call_id"] == call["call_id"]
    assert failure["exception"].startswith("Traceback")
    assert ModelError.__name__ in failure["exception"]


def test_a_field_cannot_break_a_line_of_text(logged):
    lines = logged(TextFormatter())
    told = {"voice_id": "dora", "text": 'Oi\n2026 ERROR "forged"', "work_s": 0.25}
    logging.getLogger("xtts_grpc.calls").info("call", extra={"fields": told})
    assert lines.next_call().endswith(
        r'call voice_id=dora text="Oi\n2026 ERROR \"forged\"" work_s=0.25'
    )


def test_a_process_logs_nothing_but_json_where_service_yaml_says_so(serve_process, tmp_path):
    (tmp_path / "service.yaml").write_text("logging: {format: json}\n")
    process = serve_process(
        {"XTTS_CORPUS_ROOT": str(tmp_path / "corpus")}, "--config-dir", str(tmp_path)
    )
    address = process.wait_for_line(r'"listening on (\S+)"')[1]
    with SynthesisClient(address, timeout_s=30) as client:
        client.get_model()
        with pytest.raises(ServiceError):
            client.synthesize(TEXT, voice_id="dora")
    process.process.terminate()
    assert process.finish() == 0
    lines = [json.loads(line) for line in process.lines]
    calls = [(line["method"], line["status"]) for line in lines if line["event"] == "call"]
    assert calls == [("GetModel", "OK"), ("Synthesize", "FAILED_PRECONDITION")]
    assert "secreta" not in process.log

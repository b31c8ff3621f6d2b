from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from xtts_core.errors import TranscriptionError, UpstreamError
from xtts_core.settings import DatasetSettings, TranscriptionSettings
from xtts_core.stage import StageResult, require
from xtts_core.store import CorpusStore
from xtts_core.text import normalize
from xtts_core.transcription import asr
from xtts_core.transcription.cascade import Transcript
from xtts_core.transcription.transcripts import (
    TRANSCRIPTS_SCHEMA,
    make_transcripts,
    summary,
    verdicts,
)
from xtts_core.transcription.wer import word_errors

GREEDY = TranscriptionSettings(beam_size=1, verify_subtitles=False)
Truth = Callable[[str], list[dict[str, Any]]]
Make = Callable[[str], Any]


def _settings(**changes: Any) -> DatasetSettings:
    return DatasetSettings(transcription=GREEDY.model_copy(update=changes))


def _rows(result: StageResult) -> list[dict[str, Any]]:
    table = pq.read_table(result.uri)
    assert table.schema.equals(TRANSCRIPTS_SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _checks(result: StageResult) -> dict[str, bool]:
    return {verdict.check: verdict.passed for verdict in result.verdicts}


def _clip(sentence: dict[str, Any]) -> tuple[float, float]:
    return sentence["start"] - 0.1, sentence["end"] + 0.25


@pytest.fixture
def no_recogniser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to load a model fails the test."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(asr, "load_recogniser", refuse)


def test_manual_subtitles_need_no_recogniser(
    corpus: Make, truth: Truth, demo: Path, no_recogniser: None
) -> None:
    feira = corpus("feira-dora")
    feira.add_subtitles("manual", "pt-BR", (demo / "feira-dora.pt-BR.vtt").read_bytes())
    feira.cut(*map(_clip, truth("feira-dora")))
    result = make_transcripts(feira.store, _settings(), "video")
    rows = _rows(result)
    assert [row["text_raw"] for row in rows] == [s["text"] for s in truth("feira-dora")]
    assert [row["text"] for row in rows] == [
        normalize(s["spoken"], "pt") for s in truth("feira-dora")
    ]
    assert {row["source"] for row in rows} == {"manual-subtitle"}
    assert all(_checks(result).values())
    assert result.metadata["share_manual_subtitle"] == 1.0


def test_without_subtitles_whisper_is_asked_and_its_answers_are_kept(
    corpus: Make, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    cidade = corpus("cidade-alex")
    cidade.cut(*map(_clip, truth("cidade-alex")[1:3]))
    seen: list[tuple[float, float | None, str]] = []
    result = make_transcripts(
        cidade.store,
        _settings(),
        "video",
        lambda done, total, unit: seen.append((done, total, unit)),
    )
    rows = _rows(result)
    assert [row["text"] for row in rows] == [
        normalize(s["spoken"], "pt") for s in truth("cidade-alex")[1:3]
    ]
    assert {row["source"] for row in rows} == {"whisper"}
    assert all(-0.5 < row["confidence"] < 0 for row in rows)
    assert seen == [(2, 2, "clips")]
    assert result.metadata["share_whisper"] == 1.0

    first = result.uri.read_bytes()
    kept = cidade.store.root / "cache/transcripts/video.jsonl"
    separators = '{"key": "-", "heard": {"text": "um\u2028dois\x85três", "confidence": -0.1, '
    separators += '"no_speech_prob": 0.0, "compression_ratio": 1.0}}\n'
    damaged = b"\0\0\0\n\xff\n" + b'{"key": "-", "heard": {"words": 3}}\n'
    kept.write_bytes(damaged + kept.read_bytes() + separators.encode() + b'{"key": "half a line')
    result.uri.unlink()
    monkeypatch.setattr(asr, "load_recogniser", lambda *_: pytest.fail("a clip was heard again"))
    again = make_transcripts(cidade.store, _settings(), "video")
    assert not again.skipped
    assert again.uri.read_bytes() == first
    assert kept.read_bytes().endswith(b"}\n")


def _moved(vtt: str, late_s: float) -> str:
    """The same cues, later."""

    def later(match: re.Match[str]) -> str:
        minutes, seconds = match.groups()
        minute, second = divmod(int(minutes) * 60 + float(seconds) + late_s, 60)
        return f"00:{int(minute):02}:{second:06.3f}"

    return re.sub(r"\d\d:(\d\d):(\d\d\.\d{3})", later, vtt)


def _heard_with_subtitles(corpus: Make, vtt: str, *clips: tuple[float, float]) -> StageResult:
    feira = corpus("feira-dora")
    feira.add_subtitles("manual", "pt-BR", vtt)
    feira.cut(*clips)
    return make_transcripts(feira.store, _settings(verify_subtitles=True), "video")


def test_what_is_heard_finds_the_cues_though_their_times_are_wrong(
    corpus: Make, truth: Truth, demo: Path
) -> None:
    vtt = (demo / "feira-dora.pt-BR.vtt").read_text(encoding="utf-8")
    sentences = truth("feira-dora")[1:4]
    result = _heard_with_subtitles(corpus, _moved(vtt, 0.9), *map(_clip, sentences))
    rows = _rows(result)
    assert [row["text_raw"] for row in rows] == [sentence["text"] for sentence in sentences]
    assert {(row["source"], row["model"], row["witness"]) for row in rows} == {
        ("manual-subtitle", "", "base")
    }
    assert all(row["cer"] <= 0.1 and row["witness_text"] and not row["guards"] for row in rows)
    assert result.metadata["clips_compared"] == 3


def test_a_clip_that_ends_inside_a_cue_carries_no_word_that_it_does_not_speak(
    corpus: Make, truth: Truth, demo: Path
) -> None:
    vtt = (demo / "feira-dora.pt-BR.vtt").read_text(encoding="utf-8")
    sentence = truth("feira-dora")[1]
    (row,) = _rows(
        _heard_with_subtitles(corpus, vtt, (sentence["start"] - 0.1, sentence["end"] - 1.0))
    )
    assert row["source"] == "manual-subtitle"
    assert row["text"].startswith("hoje a conversa é sobre a feira")
    assert "alimentos" not in row["text"]


def test_a_clip_that_says_something_else_than_its_cue_is_marked_with_both_texts(
    corpus: Make, truth: Truth, demo: Path
) -> None:
    vtt = (demo / "feira-dora.pt-BR.vtt").read_text(encoding="utf-8")
    sentences = truth("feira-dora")[1:3]
    other = "O assunto de agora é a feira e quanto custa comer."
    result = _heard_with_subtitles(
        corpus, vtt.replace(sentences[0]["text"], other), *map(_clip, sentences)
    )
    disputed, kept = _rows(result)
    assert (disputed["text_raw"], disputed["guards"]) == (other, ["disagreement"])
    assert disputed["witness_text"].startswith("Hoje a conversa")
    assert disputed["cer"] > 0.3
    assert kept["guards"] == []
    assert not _checks(result)["disagreement"]


def test_a_sentence_that_nobody_wrote_down_is_taken_as_it_is_heard(
    corpus: Make, truth: Truth, demo: Path
) -> None:
    vtt = (demo / "feira-dora.pt-BR.vtt").read_text(encoding="utf-8")
    sentences = truth("feira-dora")[1:3]
    clip = (sentences[0]["start"] - 0.1, sentences[1]["end"] + 0.25)
    (row,) = _rows(
        _heard_with_subtitles(corpus, vtt.replace(sentences[1]["text"], "[Música]"), clip)
    )
    assert (row["source"], row["guards"]) == ("whisper", [])
    spoken = " ".join(sentence["spoken"] for sentence in sentences)
    assert word_errors(normalize(spoken, "pt"), row["text"])[0] <= 2


def test_automatic_captions_are_a_second_witness_of_what_is_heard(
    corpus: Make, truth: Truth
) -> None:
    rolling = (Path(__file__).parent / "feira-dora.pt-orig.vtt").read_text(encoding="utf-8")
    feira = corpus("feira-dora")
    feira.add_subtitles("automatic", "pt-orig", rolling)
    feira.cut(*map(_clip, truth("feira-dora")[:3]))
    rows = _rows(make_transcripts(feira.store, _settings(), "video"))
    assert {(row["source"], row["witness"]) for row in rows} == {("whisper", "auto-subtitle")}
    assert all(row["cer"] <= 0.1 and not row["guards"] for row in rows)


def test_a_full_stop_inside_a_sentence_is_whispers_own_and_goes(
    corpus: Make, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = truth("cidade-alex")[0]
    middle = (sentence["start"] + sentence["end"]) / 2
    cidade = corpus("cidade-alex")
    cidade.cut(
        (sentence["start"] - 0.1, middle), (middle, sentence["end"]), _clip(truth("cidade-alex")[1])
    )
    texts = iter(["Isto começa.", "e isto acaba.", "Outra frase..."])

    class Scripted:
        def transcribe(self, clips: Any, _: str) -> list[asr.Recognised]:
            return [asr.Recognised(next(texts), -0.1, 0.0, 1.0) for _ in clips]

    monkeypatch.setattr(asr, "load_recogniser", lambda *_: Scripted())
    result = make_transcripts(cidade.store, _settings(), "video")
    assert [row["text"] for row in _rows(result)] == [
        "isto começa",
        "e isto acaba.",
        "outra frase",
    ]
    assert result.metadata["share_without_final_punctuation"] == 0.6667


def test_a_doubtful_clip_keeps_its_text_where_the_larger_model_is_missing(
    corpus: Make, truth: Truth
) -> None:
    feira = corpus("feira-dora")
    feira.cut(_clip(truth("feira-dora")[8]))  # heard as "a bóbora em mandioca no mesmo rosado"
    result = make_transcripts(feira.store, _settings(oov_threshold=0.01), "video")
    (row,) = _rows(result)
    assert (row["source"], row["model"]) == ("whisper", "base")
    assert row["oov_rate"] > 0.01
    (missing,) = [v for v in result.verdicts if v.check == "models_available"]
    assert not missing.passed
    assert missing.severity == "warn"
    assert "'medium' cannot be had" in missing.description


def test_what_lacks_a_model_is_made_again_once_the_model_is_there(
    corpus: Make, truth: Truth, whisper_cache: Path, tmp_path: Path
) -> None:
    feira = corpus("feira-dora")
    feira.cut(_clip(truth("feira-dora")[8]))
    settings = _settings(
        oov_threshold=0.01, whisper_hp_model="large", model_dir=str(tmp_path / "models")
    )
    first = make_transcripts(feira.store, settings, "video")
    assert not _checks(first)["models_available"]
    assert make_transcripts(feira.store, settings, "video").skipped

    (tmp_path / "models").mkdir()
    (tmp_path / "models/large").symlink_to(whisper_cache / "faster-whisper-base")
    again = make_transcripts(feira.store, settings, "video")
    assert not again.skipped
    assert _checks(again)["models_available"]
    assert _rows(again)[0]["model"] == "large"
    assert make_transcripts(feira.store, settings, "video").skipped


def test_weights_that_are_replaced_under_the_same_name_hear_the_clips_again(
    corpus: Make, truth: Truth, whisper_cache: Path, tmp_path: Path
) -> None:
    feira = corpus("feira-dora")
    feira.cut(_clip(truth("feira-dora")[1]))
    own = tmp_path / "models/own"
    shutil.copytree(whisper_cache / "faster-whisper-base", own)
    settings = _settings(whisper_model="own", model_dir=str(own.parent))
    make_transcripts(feira.store, settings, "video")
    assert make_transcripts(feira.store, settings, "video").skipped
    with (own / "model.bin").open("ab") as file:
        file.write(b"\0")
    assert not make_transcripts(feira.store, settings, "video").skipped
    heard = feira.store.root / "cache/transcripts/video.jsonl"
    assert len(heard.read_text(encoding="utf-8").splitlines()) == 2


def test_a_doubtful_clip_is_heard_by_the_larger_model(
    corpus: Make, truth: Truth, whisper_cache: Path, tmp_path: Path
) -> None:
    feira = corpus("feira-dora")
    feira.cut(_clip(truth("feira-dora")[8]))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/large").symlink_to(whisper_cache / "faster-whisper-base")
    result = make_transcripts(
        feira.store,
        _settings(oov_threshold=0.01, whisper_hp_model="large", model_dir=str(tmp_path / "models")),
        "video",
    )
    (row,) = _rows(result)
    assert (row["source"], row["model"]) == ("whisper-hp", "large")
    assert _checks(result)["models_available"]


def test_of_two_models_the_one_that_the_captions_agree_with_is_believed(
    corpus: Make, whisper_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script stands for the larger model, which is out of reach, and for what it corrects."""
    feira = corpus("feira-dora")
    said = "ele falou da beterrabeira que fica na casa amarela"
    captions = f"WEBVTT\n\n00:00:37.100 --> 00:00:41.900\n{said}\n"
    feira.add_subtitles("automatic", "pt-orig", captions)
    feira.cut((37.0, 42.0))
    (tmp_path / "models").mkdir()
    for name in ("small", "large"):
        shutil.copytree(whisper_cache / "faster-whisper-base", tmp_path / "models" / name)
        (tmp_path / "models" / name / "model.bin").write_text(name)
    heard = {
        "small": "Ele falou da mesa de jantar que fica na casa amarela.",
        "large": said,
    }

    class Scripted:
        def __init__(self, weights: Path) -> None:
            self.text = heard[weights.name]

        def transcribe(self, clips: list[Any], language: str) -> list[asr.Recognised]:
            return [asr.Recognised(self.text, -0.1, 0.0, 1.0) for _ in clips]

    monkeypatch.setattr(asr, "load_recogniser", lambda engine, weights, *_: Scripted(weights))
    models = {"whisper_model": "small", "whisper_hp_model": "large"}
    settings = _settings(model_dir=str(tmp_path / "models"), **models)
    (row,) = _rows(make_transcripts(feira.store, settings, "video"))
    assert row["oov_rate"] > 0
    assert (row["text"], row["source"], row["cer"], row["guards"]) == (said, "whisper-hp", 0, [])


def test_where_no_model_can_be_had_the_automatic_captions_speak(corpus: Make, truth: Truth) -> None:
    feira = corpus("feira-dora")
    feira.add_subtitles(
        "automatic",
        "pt-orig",
        (Path(__file__).parent / "feira-dora.pt-orig.vtt").read_bytes(),
    )
    feira.cut(*map(_clip, truth("feira-dora")[:3]), (37.1, 40.0))
    result = make_transcripts(feira.store, _settings(whisper_model="absent"), "video")
    rows = _rows(result)
    assert rows[2]["text"] == "o quilo do tomate custava sete reais e cinquenta centavos em janeiro"
    assert [row["source"] for row in rows] == ["auto-subtitle"] * 4
    assert rows[3]["text"] == ""
    assert "'absent' cannot be had" in rows[3]["reason"]
    assert not _checks(result)["models_available"]


def test_no_text_at_all_without_a_model_is_refused(corpus: Make, truth: Truth) -> None:
    cidade = corpus("cidade-alex")
    cidade.cut(_clip(truth("cidade-alex")[0]))
    with pytest.raises(TranscriptionError, match="'absent' cannot be had"):
        make_transcripts(cidade.store, _settings(whisper_model="absent"), "video")
    assert not cidade.store.transcripts("video").exists()


def test_automatic_captions_are_used_for_a_doubtful_clip_where_the_settings_say_so(
    corpus: Make, truth: Truth
) -> None:
    feira = corpus("feira-dora")
    feira.add_subtitles(
        "automatic",
        "pt-orig",
        (Path(__file__).parent / "feira-dora.pt-orig.vtt").read_bytes(),
    )
    feira.cut(_clip(truth("feira-dora")[8]))
    (row,) = _rows(
        make_transcripts(
            feira.store, _settings(oov_threshold=0.01, use_auto_subtitles=True), "video"
        )
    )
    assert row["source"] == "auto-subtitle"
    assert row["text"] == "meu avô plantava milho abóbora e mandioca no mesmo roçado"


def test_broken_subtitles_are_named_and_the_clips_are_heard(corpus: Make, truth: Truth) -> None:
    feira = corpus("feira-dora")
    feira.add_subtitles("manual", "pt-BR", b"\xff\xfe")
    feira.cut(_clip(truth("feira-dora")[1]))
    result = make_transcripts(feira.store, _settings(), "video")
    (row,) = _rows(result)
    assert row["source"] == "whisper"
    (unread,) = [v for v in result.verdicts if v.check == "subtitles_readable"]
    assert not unread.passed
    assert "video.pt-BR.vtt" in unread.description


def test_one_unreadable_clip_does_not_cost_the_others(
    corpus: Make, truth: Truth, demo: Path
) -> None:
    feira = corpus("feira-dora")
    feira.cut(*map(_clip, truth("feira-dora")[:2]))
    rows = pq.read_table(feira.store.segments_table("video")).to_pylist()
    (feira.store.root / rows[0]["path"]).write_bytes(b"RIFF")
    result = make_transcripts(feira.store, _settings(), "video")
    broken, heard = _rows(result)
    assert broken["text"] == ""
    assert "video_00001.wav: The clip cannot be read" in broken["reason"]
    assert heard["text"] == normalize(truth("feira-dora")[1]["spoken"], "pt")
    assert not _checks(result)["empty_share"]


def test_subtitles_of_another_language_are_left_alone(
    corpus: Make, truth: Truth, demo: Path
) -> None:
    feira = corpus("feira-dora")
    feira.add_subtitles("manual", "en", "WEBVTT\n\n00:09.000 --> 00:13.000\nToday we talk.\n")
    feira.cut(_clip(truth("feira-dora")[1]))
    (row,) = _rows(make_transcripts(feira.store, _settings(), "video"))
    assert row["source"] == "whisper"


def test_equal_inputs_are_not_transcribed_again(
    corpus: Make, truth: Truth, demo: Path, no_recogniser: None
) -> None:
    feira = corpus("feira-dora")
    feira.add_subtitles("manual", "pt-BR", (demo / "feira-dora.pt-BR.vtt").read_bytes())
    feira.cut(_clip(truth("feira-dora")[0]))
    first = make_transcripts(feira.store, _settings(), "video")
    again = make_transcripts(feira.store, _settings(), "video")
    assert not first.skipped
    assert again.skipped
    assert again.data_version == first.data_version


@pytest.mark.parametrize(("tag", "skipped"), [("pt-BR", False), ("en", True)])
def test_only_subtitles_that_are_used_count(
    corpus: Make, truth: Truth, demo: Path, no_recogniser: None, tag: str, skipped: bool
) -> None:
    feira = corpus("feira-dora")
    feira.add_subtitles("manual", "pt-BR", (demo / "feira-dora.pt-BR.vtt").read_bytes())
    feira.cut(_clip(truth("feira-dora")[0]))
    make_transcripts(feira.store, _settings(), "video")
    feira.subtitles = [entry for entry in feira.subtitles if entry["language"] != tag]
    text = (demo / "feira-dora.pt-BR.vtt").read_text(encoding="utf-8")
    feira.add_subtitles("manual", tag, text + "\n01:20.000 --> 01:21.000\nFim.\n")
    feira.cut(_clip(truth("feira-dora")[0]))
    with pytest.raises(UpstreamError, match="transcripts of video belongs to an earlier raw_audio"):
        require(feira.store, "transcripts", "video")
    assert make_transcripts(feira.store, _settings(), "video").skipped is skipped
    require(feira.store, "transcripts", "video")


def test_segments_come_first(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="segments of video has not been made"):
        make_transcripts(CorpusStore(tmp_path), DatasetSettings(), "video")


def _transcript(number: int, text: str, oov: float = 0.0, **changes: Any) -> Transcript:
    return Transcript(
        segment_id=f"v_{number:05}",
        text_raw=text,
        text=text,
        source=changes.pop("source", "whisper"),
        model="base",
        oov_rate=oov,
        confidence=-0.1,
        reason="" if text else "nothing was recognised",
        **changes,
    )


def _segments(count: int) -> list[dict[str, Any]]:
    return [{"segment_id": f"v_{number:05}", "duration_s": 5.0} for number in range(1, count + 1)]


def _failed(*found: Transcript, **changes: Any) -> set[str]:
    results = verdicts(
        found,
        _segments(len(found)),
        DatasetSettings(),
        "pt-BR",
        answered=[transcript.segment_id for transcript in found],
        **changes,
    )
    return {verdict.check for verdict in results if not verdict.passed}


SAID = "um texto que dura cinco segundos, mais ou menos, quando se lê"


@pytest.mark.parametrize(
    ("found", "failed"),
    [
        ([_transcript(1, SAID)], set()),
        ([_transcript(1, SAID), _transcript(2, "")], {"empty_share"}),
        ([_transcript(1, SAID, 0.16)], {"oov_rate"}),
        ([_transcript(1, "sim senhora")], {"short_share", "speech_rate"}),
        ([_transcript(1, f"{SAID} {SAID}")], {"speech_rate"}),
        ([_transcript(1, "we talk about the market and the price of food here")], {"language"}),
        ([_transcript(1, SAID, guards=["disagreement"])], {"disagreement"}),
    ],
)
def test_each_check_tells_what_is_wrong(found: list[Transcript], failed: set[str]) -> None:
    assert _failed(*found) == failed


def test_subtitles_that_came_along_and_fit_no_clip_are_noticed() -> None:
    heard, written = _transcript(1, SAID), _transcript(2, SAID, source="manual-subtitle")
    assert _failed(heard, written, has_subtitles=True) == set()
    assert _failed(heard, has_subtitles=True) == {"subtitles_used"}


def test_a_video_without_any_text_is_blocked() -> None:
    results = verdicts(
        [_transcript(1, "")], _segments(1), DatasetSettings(), "pt", answered=["v_00001"]
    )
    assert {verdict.check for verdict in results if verdict.blocks} == {"has_text"}


@pytest.mark.parametrize(
    "answered",
    [["v_00001"], ["v_00001"] * 2, ["v_00001", "v_00002", "v_00002"], ["v_00001", "v_00003"]],
)
def test_a_segment_without_exactly_one_written_row_is_blocked(answered: list[str]) -> None:
    results = verdicts(
        [_transcript(1, SAID)], _segments(2), DatasetSettings(), "pt", answered=answered
    )
    assert {v.check for v in results if v.blocks} == {"every_segment_answered"}


def test_the_summary_shows_the_worst_clip_and_its_other_text_first() -> None:
    found = [
        _transcript(1, "um | dois"),
        _transcript(2, "sim.", guards=["disagreement"], cer=0.4, witness_text="assim"),
        _transcript(3, ""),
    ]
    shown = summary(found, 0.1)
    assert shown["share_whisper"] == 0.6667
    assert shown["clips_flagged"] == 1
    assert shown["share_without_final_punctuation"] == 0.5
    table = shown["worst_clips"].text.splitlines()  # type: ignore[union-attr]
    assert table[2] == "| v_00003 | whisper | 0.00 |  |  | nothing was recognised |  |"
    assert table[3] == "| v_00002 | whisper | 0.00 | 0.40 | disagreement | sim. | assim |"
    assert "um   dois" in table[4]

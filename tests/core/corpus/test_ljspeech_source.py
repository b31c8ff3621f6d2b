"""An existing LJSpeech folder becomes recordings with subtitles."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr

from xtts_core.corpus import ljspeech_source
from xtts_core.corpus.ljspeech_source import compose_recordings
from xtts_core.errors import SourceError
from xtts_core.transcription.subtitles import read_cues

RATE_HZ = 22_050


@pytest.fixture(scope="module")
def speech(demo: Path) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """The sentences of a demo recording, float32 at 22 050 Hz, each with some of the room."""
    with av.open(demo / "feira-dora.webm") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
        frames = [
            frame.to_ndarray()[0]
            for packet in container.decode(audio=0)
            for frame in resampler.resample(packet)
        ]
    sound = np.concatenate(frames)
    truth = json.loads((demo / "feira-dora.truth.json").read_text())["speech"]
    return [
        (s["text"], sound[int((s["start"] - 0.2) * RATE_HZ) : int((s["end"] + 0.2) * RATE_HZ)])
        for s in truth[:5]
    ]


@pytest.fixture
def folder(tmp_path: Path, speech: list[tuple[str, np.ndarray[Any, Any]]]) -> Path:
    wavs = tmp_path / "Minha voz" / "wavs"
    wavs.mkdir(parents=True)
    lines = []
    for number, (text, sound) in enumerate(speech):
        lines.append(f"c{number}|{text}|{text.lower()}")
        soundfile.write(wavs / f"c{number}.wav", sound, RATE_HZ)
    (wavs.parent / "metadata.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    return wavs.parent


def test_each_clip_lies_where_its_cue_says_with_its_raw_text(
    folder: Path, tmp_path: Path, speech: list[tuple[str, np.ndarray[Any, Any]]]
) -> None:
    done = compose_recordings(folder, tmp_path / "imports", "pt")
    (recording,) = done.recordings
    assert re.fullmatch(r"Minha-voz-[0-9a-f]{8}-001\.wav", recording.name)
    assert (done.clips, done.left_out) == (5, ())
    sound, rate_hz = soundfile.read(done.recordings[0])
    assert rate_hz == RATE_HZ
    cues = read_cues(recording.with_suffix(".pt.vtt"))
    assert [cue.text for cue in cues] == [text for text, _ in speech]
    for cue, (_, clip) in zip(cues, speech, strict=True):
        start = round(cue.start_s * RATE_HZ)
        there = sound[start : start + len(clip)]
        error = min(
            float(np.abs(there[4 + shift : -4 + shift or None] - clip[4 : len(there) - 4]).max())
            for shift in range(-4, 4)
        )
        assert error < 2e-4


def test_other_rates_channels_and_flac_are_taken(folder: Path, tmp_path: Path) -> None:
    sound, _ = soundfile.read(folder / "wavs" / "c0.wav")
    (folder / "wavs" / "c0.wav").unlink()
    faster = soxr.resample(sound, RATE_HZ, 48_000)
    soundfile.write(folder / "wavs" / "c0.flac", np.stack([faster, faster], axis=1), 48_000)
    done = compose_recordings(folder, tmp_path / "imports", "pt")
    assert done.clips == 5
    cue = read_cues(done.recordings[0].with_suffix(".pt.vtt"))[0]
    assert cue.end_s - cue.start_s == pytest.approx(len(sound) / RATE_HZ, abs=0.002)


def test_a_long_set_becomes_several_recordings(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ljspeech_source, "PART_S", 10.0)
    done = compose_recordings(folder, tmp_path / "imports", "pt")
    assert len(done.recordings) > 1
    cues = [cue for path in done.recordings for cue in read_cues(path.with_suffix(".pt.vtt"))]
    assert len(cues) == done.clips == 5


def test_lines_that_cannot_be_used_are_named_and_the_rest_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    with (folder / "metadata.csv").open("a", encoding="utf-8") as listing:
        listing.write(
            "\nc0|Outra vez.\nlost|Sem arquivo.\nc9||\n../c1|Fora.\nbad|Nada.\nlong|Hora."
        )
    (folder / "wavs" / "bad.wav").write_bytes(b"no sound")
    soundfile.write(folder / "wavs" / "long.wav", np.zeros(8_000 * 61, np.int16), 8_000)
    done = compose_recordings(folder, tmp_path / "imports", "pt")
    assert done.clips == 5
    told = "\n".join(f"{left.source}: {left.reason}" for left in done.left_out)
    assert "line 6 (c0): its id has a line already" in told
    assert "line 7 (lost): there is no wavs/lost.wav or .flac" in told
    assert "line 8 (c9): it has no text" in told
    assert "line 9 (../c1): its id is no file name" in told
    assert "line 10 (bad): " in told
    assert "line 11 (long): it is 61.0 s long" in told


def test_the_pauses_have_the_background_of_the_clips(folder: Path, tmp_path: Path) -> None:
    done = compose_recordings(folder, tmp_path / "imports", "pt")
    sound, _ = soundfile.read(done.recordings[0])
    cues = read_cues(done.recordings[0].with_suffix(".pt.vtt"))
    pause = sound[round(cues[0].end_s * RATE_HZ) + 10 : round(cues[1].start_s * RATE_HZ) - 10]
    clip = sound[: round(cues[0].end_s * RATE_HZ)]
    assert 0 < np.sqrt(np.square(pause).mean()) < np.sqrt(np.square(clip).mean()) / 5


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"metadata\.csv"):
        compose_recordings(tmp_path, tmp_path / "imports", "pt")


def test_a_folder_without_a_usable_line_is_refused_and_writes_nothing(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "metadata.csv").write_text("lost|Sem arquivo.\n")
    with pytest.raises(SourceError, match=r"there is no wavs/lost\.wav"):
        compose_recordings(folder, tmp_path / "imports", "pt")
    assert not list((tmp_path).glob("imports/*"))


def test_every_text_is_said_as_it_is_written_whatever_stands_in_it(
    folder: Path, tmp_path: Path
) -> None:
    texts = [
        "se a < b então c > d, disse ele",
        "[risos] Maria: sim & não",
        "Maria: <b>não</b>",
        "- Sim &lt; (em voz baixa) ♪",
        "da sala 1 -> 2 --> 3",
    ]
    lines = [f"c{number}|{text}" for number, text in enumerate(texts)]
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    done = compose_recordings(folder, tmp_path, "pt")
    assert done.left_out == ()
    cues = read_cues(done.recordings[0].with_suffix(".pt.vtt"))
    assert [cue.text for cue in cues] == texts


def test_folders_of_one_name_do_not_overwrite_each_other(folder: Path, tmp_path: Path) -> None:
    twin = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, twin)
    first = compose_recordings(folder, tmp_path / "imports", "pt")
    second = compose_recordings(twin, tmp_path / "imports", "pt")
    assert not set(first.recordings) & set(second.recordings)


def test_a_line_with_the_normalised_text_alone_is_taken(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.csv").write_text("c0||bom dia a todos\nc1|Um\u2028dois.|um dois.\n")
    done = compose_recordings(folder, tmp_path / "imports", "pt")
    cues = read_cues(done.recordings[0].with_suffix(".pt.vtt"))
    assert [cue.text for cue in cues] == ["bom dia a todos", "Um dois."]


def test_a_listing_that_is_no_utf_8_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.csv").write_bytes("c0|Não.|não.".encode("cp1252"))
    with pytest.raises(SourceError, match="Save it as UTF-8"):
        compose_recordings(folder, tmp_path / "imports", "pt")

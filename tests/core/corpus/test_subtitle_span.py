from __future__ import annotations

from pathlib import Path

from xtts_core.corpus.subtitle_span import subtitles_in_span
from xtts_core.transcription.subtitles import Cue, cues_of_clip, read_cues, words

MANUAL = """WEBVTT

STYLE
::cue { color: white }

1
00:00:01.000 --> 00:00:04.000 align:start
Um, dois.

2
00:00:04.500 --> 00:00:08.000
Três, quatro.

00:00:08.200 --> 00:00:11.000
Cinco.

01:00:00.000 --> 01:00:02.000
Seis.
"""
ROLLING = """WEBVTT
Kind: captions
Language: pt

00:00:01.000 --> 00:00:03.000 align:start position:0%
 \num<00:00:01.500><c> dois</c><00:00:02.500><c> três</c>

00:00:03.000 --> 00:00:03.010 align:start position:0%
um dois três
 \n
00:00:03.010 --> 00:00:05.000 align:start position:0%
um dois três
quatro<00:00:04.000><c> cinco</c>

00:00:05.000 --> 00:00:05.010 align:start position:0%
quatro cinco
 \n
00:00:05.010 --> 00:00:07.000 align:start position:0%
quatro cinco
seis<00:00:06.000><c> sete</c>
"""


def written(folder: Path, vtt: str, start_s: float, end_s: float) -> Path:
    path = folder / "a.vtt"
    path.write_text(subtitles_in_span(vtt, start_s, end_s), encoding="utf-8")
    return path


def test_cues_inside_are_moved_and_the_others_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, MANUAL, 4.25, 12)
    assert read_cues(path) == [Cue(0.25, 3.75, "Três, quatro."), Cue(3.95, 6.75, "Cinco.")]
    assert subtitles_in_span(MANUAL, 3_599.5).splitlines()[2:4] == [
        "00:00:00.500 --> 00:00:02.500",
        "Seis.",
    ]
    assert "align:start" in subtitles_in_span(MANUAL, 0.5)


def test_a_cue_reaches_a_little_over_the_edge(tmp_path: Path) -> None:
    path = written(tmp_path, MANUAL, 4.6, 10.9)
    assert read_cues(path) == [Cue(0, 3.4, "Três, quatro."), Cue(3.6, 6.3, "Cinco.")]


def test_no_clip_takes_its_text_from_beside_a_cue_that_an_edge_cuts(tmp_path: Path) -> None:
    later = MANUAL.replace("01:00:0", "00:00:1")
    assert cues_of_clip(read_cues(written(tmp_path, later, 7, 13)), 0.1, 5) is None
    assert cues_of_clip(read_cues(written(tmp_path, later, 0, 9)), 0.9, 9) is None


def test_words_of_rolling_captions_are_moved_and_cut_at_the_edges(tmp_path: Path) -> None:
    whole = ["um", "dois", "três", "quatro", "cinco", "seis", "sete"]
    for start_s, end_s, first, last in (
        (0, 9, 0, 7),
        (1.2, 9, 1, 7),
        (2.0, 6.0, 2, 6),
        (3.005, 9, 3, 7),
        (3.01, 9, 3, 7),
        (3.5, 9, 4, 7),
        (5.0, 9, 5, 7),
        (0, 1.2, 0, 1),
    ):
        found = words(written(tmp_path, ROLLING, start_s, end_s))
        assert [word.text for word in found] == whole[first:last], (start_s, end_s)
    moved = words(written(tmp_path, ROLLING, 2.0, 6.0))
    assert (moved[0].start_s, moved[0].end_s) == (0.5, 1.0)
    assert moved[-1].end_s == 4.0


def test_the_number_of_an_srt_cue_does_not_become_a_word(tmp_path: Path) -> None:
    srt = "1\n0:00:01,5 -> 00:00:02\nUm.\n \n2\n00:00:02,000 --> 00:00:03,000\nDois.\n"
    path = tmp_path / "a.vtt"
    path.write_text(subtitles_in_span(srt, 0.0))
    assert read_cues(path) == [Cue(1.5, 2.0, "Um."), Cue(2.0, 3.0, "Dois.")]


def test_verbatim_subtitles_stay_verbatim() -> None:
    written = "WEBVTT verbatim\n\n00:01.000 --> 00:02.000\n[risos] Oi.\n"
    assert subtitles_in_span(written, 0.5).startswith("WEBVTT verbatim\n\n")

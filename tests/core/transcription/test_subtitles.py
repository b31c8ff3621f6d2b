from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from xtts_core.errors import TranscriptionError
from xtts_core.transcription.subtitles import (
    Cue,
    Word,
    broken_cues,
    cues_of_clip,
    read_cues,
    words,
    words_between,
)

ROLLING = Path(__file__).parent / "feira-dora.pt-orig.vtt"
Truth = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def vtt(tmp_path: Path) -> Callable[[str], Path]:
    def write(body: str) -> Path:
        path = tmp_path / "video.pt-BR.vtt"
        path.write_text(f"WEBVTT\n\n{body}", encoding="utf-8")
        return path

    return write


def _bare(text: str) -> str:
    """A text as automatic captions write it: no case, and no mark but inside numbers."""
    return re.sub(r"[.,?!;:]+(?=\s|$)", "", text.lower())


def test_rolling_captions_become_each_spoken_word_once(truth: Truth) -> None:
    heard = words(ROLLING)
    written = " ".join(sentence["text"] for sentence in truth("feira-dora"))
    assert _bare(" ".join(word.text for word in heard)) == _bare(written)


def test_the_words_of_rolling_captions_have_times_in_order(truth: Truth) -> None:
    heard = words(ROLLING)
    assert all(word.start_s <= word.end_s for word in heard)
    assert all(a.end_s <= b.start_s for a, b in pairwise(heard))
    for sentence in truth("feira-dora"):
        spoken = words_between(heard, sentence["start"] - 0.1, sentence["end"] + 0.1)
        assert _bare(spoken) == _bare(sentence["text"])


def test_a_sentence_that_is_said_twice_stays_twice(vtt: Callable[[str], Path]) -> None:
    path = vtt(
        "00:01.000 --> 00:02.000\n \nvai<00:00:01.500><c> lá</c>\n\n"
        "00:02.000 --> 00:02.010\nvai lá\n \n\n"
        "00:02.010 --> 00:03.000\nvai lá\nvai<00:00:02.500><c> lá</c>\n\n"
        "00:03.000 --> 00:03.010\nvai lá\n \n"
    )
    assert words(path) == [
        Word(1.0, 1.5, "vai"),
        Word(1.5, 2.0, "lá"),
        Word(2.01, 2.5, "vai"),
        Word(2.5, 3.0, "lá"),
    ]


def test_a_word_time_that_goes_back_does_not_turn_the_words_around(
    vtt: Callable[[str], Path],
) -> None:
    path = vtt("00:01.000 --> 00:03.000\num<00:00:02.000><c> dois</c><00:00:01.500><c> três</c>\n")
    assert words(path) == [Word(1.0, 2.0, "um"), Word(2.0, 2.0, "dois"), Word(2.0, 3.0, "três")]


def test_words_without_times_share_their_cue_by_letters(vtt: Callable[[str], Path]) -> None:
    assert words(vtt("00:00.000 --> 00:01.000\na casa\n")) == [
        Word(0.0, 0.2, "a"),
        Word(0.2, 1.0, "casa"),
    ]


def test_manual_cues_are_the_sentences_that_are_said(demo: Path, truth: Truth) -> None:
    cues = read_cues(demo / "feira-dora.pt-BR.vtt")
    assert [cue.text for cue in cues] == [s["text"] for s in truth("feira-dora")]
    assert cues[0].start_s == 4.55


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("<b>Olá</b>, <c.yellow>tudo</c> bem?", "Olá, tudo bem?"),
        ("<v Maria>Bom dia.", "Bom dia."),
        (">> MARIA: Bom dia.", "Bom dia."),
        ("DONA MARIA: Bom dia.", "Bom dia."),
        ("- Bom dia.\n- Boa tarde.", "Bom dia. Boa tarde."),
        ("[Música] Bom dia. (risos)", "Bom dia."),
        ("♪ Lá vem o sol ♪", "Lá vem o sol"),
        ("Tom &amp; Jerry&nbsp;voltam", "Tom & Jerry voltam"),
        ("Ele mora (em 2020) aqui.", "Ele mora (em 2020) aqui."),
        (">> William Bonner: Boa noite.", "Boa noite."),
        ("Maria: Bom dia.", "Maria: Bom dia."),
        ("REPÓRTER (ao vivo): BOM DIA", "BOM DIA"),
        ("MARIA: Oi.\nJOÃO: Olá.", "Oi. Olá."),
        ("(Locutor)\nBom dia.", "Bom dia."),
        ("- (TOSSE)\n- Bom dia.", "Bom dia."),
        ("(porta\nbatendo)\nBom dia.", "Bom dia."),
        ("*risos* Bom dia.", "Bom dia."),
        ("# Lá vem o sol #", "Lá vem o sol"),
        ("[risos e\naplausos] Bom dia.", "Bom dia."),
    ],
)
def test_what_is_not_said_is_taken_out(vtt: Callable[[str], Path], written: str, said: str) -> None:
    cues = read_cues(vtt(f"00:01.000 --> 00:02.000 line:0\n{written}\n"))
    assert cues == [Cue(1.0, 2.0, said)]


def test_a_name_that_begins_two_cues_is_a_speaker(vtt: Callable[[str], Path]) -> None:
    path = vtt(
        "00:01.000 --> 00:02.000\nMaria: Oi.\n\n00:02.000 --> 00:03.000\nAtenção: choveu.\n\n"
        "00:03.000 --> 00:04.000\n- Não.\n- Maria: Sim.\n"
    )
    assert [cue.text for cue in read_cues(path)] == ["Oi.", "Atenção: choveu.", "Não. Sim."]


@pytest.mark.parametrize(
    "label",
    [
        "Repórter 1:",
        "Entrevistador 2:",
        "Dr. João:",
        "João da Silva:",
        "João V.:",
        "Dora (rindo):",
        "DORA (rindo):",
        "[João]:",
        "(suspira)",
    ],
)
def test_a_label_in_two_cues_is_not_said(vtt: Callable[[str], Path], label: str) -> None:
    path = vtt(
        f"00:01.000 --> 00:02.000\n{label} Não sei.\n\n00:02.000 --> 00:03.000\n{label} Nem eu.\n"
    )
    assert [cue.text for cue in read_cues(path)] == ["Não sei.", "Nem eu."]


def test_a_role_is_a_label_though_it_stands_once(vtt: Callable[[str], Path]) -> None:
    assert read_cues(vtt("00:01.000 --> 00:02.000\nRepórter: Bom dia.\n")) == [
        Cue(1.0, 2.0, "Bom dia.")
    ]


def test_a_cue_of_music_alone_is_dropped(vtt: Callable[[str], Path]) -> None:
    path = vtt("00:01.000 --> 00:02.000\n[Música]\n\n00:02.000 --> 00:03.000\nOi.\n")
    assert read_cues(path) == [Cue(2.0, 3.0, "Oi.")]


def test_comments_names_and_style_blocks_are_no_cues(vtt: Callable[[str], Path]) -> None:
    path = vtt(
        "NOTE 00:00:09.000 --> x\n\nSTYLE\n::cue { color: lime }\n\n7\n01:00:01.000 --> "
        "01:00:02.500\nOi.\n"
    )
    assert read_cues(path) == [Cue(3601.0, 3602.5, "Oi.")]


def test_subrip_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "video.pt.srt"
    path.write_bytes(b"1\r\n00:00:01,000 --> 00:00:02,000\r\nOl\xc3\xa1.\r\n\r\n2\r\n"
                     b"00:00:03,000 --> 00:00:04,000\r\nTchau.\r\n")  # fmt: skip
    assert read_cues(path) == [Cue(1.0, 2.0, "Olá."), Cue(3.0, 4.0, "Tchau.")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no cue"),
        (b"<html>not found</html>", "no cue"),
        (b"WEBVTT\n\n00:00:01.000 --> later\nOi.\n", "line 3: no readable times"),
        (b"WEBVTT\n\n00:00:02.000 --> 00:00:01.000\nOi.\n", "line 3: it ends before it starts"),
        (b"WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n[Risos]\n", "no cue with words"),
        (b"\x81\x8d\x00\xff --> \x90", "no text"),
        (b"\xff\xfeW", "no text"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "video.pt.vtt"
    path.write_bytes(content)
    with pytest.raises(TranscriptionError, match=rf"video\.pt\.vtt.*{problem}"):
        read_cues(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_accents_survive_the_encodings_that_subtitles_come_in(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "video.pt.srt"
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\nO pão é às três.\n".encode(encoding))
    assert read_cues(path) == [Cue(1.0, 2.0, "O pão é às três.")]


def test_a_damaged_letter_costs_its_cue_and_no_other_accent(tmp_path: Path) -> None:
    path = tmp_path / "video.pt.srt"
    path.write_bytes(
        "1\n00:00:01,000 --> 00:00:02,000\nO pão é às três.\n\n".encode()
        + b"2\n00:00:02,000 --> 00:00:03,000\nN\xc3o sei.\n"
    )
    assert read_cues(path) == [Cue(1.0, 2.0, "O pão é às três.")]
    assert broken_cues(path) == ["line 6: a letter is damaged: 'N\ufffdo sei.'"]


def test_what_was_encoded_twice_is_repaired_or_named(tmp_path: Path) -> None:
    path = tmp_path / "video.pt.srt"
    path.write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nÃ\x81gua, pÃ£o, â€œmaÃ§Ã£â€\x9d.\n\n"
        "2\n00:00:02,000 --> 00:00:03,000\nVou Ã feira.\n",
        encoding="utf-8",
    )
    assert read_cues(path) == [Cue(1.0, 2.0, "Água, pão, “maçã”.")]
    assert broken_cues(path) == ["line 6: a letter is damaged: 'Vou \ufffd feira.'"]


@pytest.mark.parametrize(
    "times",
    [
        "00:00:02,500-->00:00:03,000",
        "0:00:02,5 --> 0:00:03,0",
        "00:00:02.500 -> 00:00:03",
        "00:02.50 --> 00:03",
    ],
)
def test_times_are_read_as_careless_programs_write_them(tmp_path: Path, times: str) -> None:
    path = tmp_path / "video.pt.srt"
    path.write_text(f"1\n{times}\nOi.\n")
    assert read_cues(path) == [Cue(2.5, 3.0, "Oi.")]


def test_a_cue_with_broken_times_is_named_and_the_others_are_read(
    vtt: Callable[[str], Path],
) -> None:
    path = vtt(
        "00:01.000 --> 00:02.000\nUm.\n\n00:02.000 => 00:03.000\nSeta.\n\n"
        "00:04.000 --> depois\nDois.\n\n00:05.000 --> 00:06.000\nTrês.\n"
    )
    assert read_cues(path) == [Cue(1.0, 2.0, "Um."), Cue(5.0, 6.0, "Três.")]
    assert broken_cues(path) == [
        "line 6: no readable times: '00:02.000 => 00:03.000'",
        "line 9: no readable times: '00:04.000 --> depois'",
    ]


@pytest.mark.parametrize("gap", ["\n", " \n", ""])
def test_the_number_of_an_srt_cue_is_never_text(tmp_path: Path, gap: str) -> None:
    path = tmp_path / "a.srt"
    path.write_text(
        f"1\n00:00:01,000 --> 00:00:02,000\nCapítulo\n10\n{gap}"
        "2\n00:00:02,000 --> 00:00:03,000\nDois.\n"
    )
    assert [cue.text for cue in read_cues(path)] == ["Capítulo 10", "Dois."]


def test_line_ends_that_were_converted_twice_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes(b"1\r\r\n00:00:01,000 --> 00:00:02,000\r\r\nUm.\r\r\n\r\r\n")
    assert read_cues(path) == [Cue(1.0, 2.0, "Um.")]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        (r"{\an8}Olá, pessoal", "Olá, pessoal"),
        (r"linha\Noutra", "linha outra"),
        ("linha<br>outra", "linha outra"),
        ("ELE DISSE: NÃO VOU", "ELE DISSE: NÃO VOU"),
        ("REPÓRTER (V.O.): NÃO VOU", "NÃO VOU"),
        ("MARIA: Não vou", "Não vou"),
    ],
)
def test_markup_goes_and_what_is_spoken_stays(tmp_path: Path, written: str, spoken: str) -> None:
    path = tmp_path / "a.srt"
    path.write_text(f"1\n00:00:01,000 --> 00:00:02,000\n{written}\n")
    assert [cue.text for cue in read_cues(path)] == [spoken]


CUES = [Cue(1.0, 3.0, "Um."), Cue(3.2, 5.0, "Dois."), Cue(5.0, 8.0, "Três.")]


@pytest.mark.parametrize(
    ("start_s", "end_s", "text"),
    [
        (0.9, 5.25, "Um. Dois."),
        (1.2, 3.1, "Um."),  # captions often come on a little early
        (3.1, 5.3, "Dois."),  # 0.3 s of the next cue lie in the margin
        (0.9, 4.5, None),  # the second cue is cut
        (4.0, 8.2, None),
        (2.8, 8.2, "Dois. Três."),
        (8.0, 9.0, None),  # no cue at all
        (0.9, 6.7, None),
        (1.0, 10.0, None),  # two seconds that nobody wrote down
    ],
)
def test_a_clip_takes_the_cues_that_it_speaks_and_no_word_more(
    start_s: float, end_s: float, text: str | None
) -> None:
    assert cues_of_clip(CUES, start_s, end_s) == text


def test_a_hole_between_cues_is_not_taken_for_a_pause() -> None:
    assert cues_of_clip([Cue(0.0, 2.0, "Um."), Cue(6.0, 8.0, "Dois.")], 0.0, 8.0) is None


def test_every_sentence_of_the_demo_finds_its_cue(demo: Path, truth: Truth) -> None:
    cues = read_cues(demo / "feira-dora.pt-BR.vtt")
    for sentence in truth("feira-dora"):
        clip = (sentence["start"] - 0.1, sentence["end"] + 0.25)
        assert cues_of_clip(cues, *clip) == sentence["text"]

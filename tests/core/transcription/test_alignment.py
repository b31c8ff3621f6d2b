from __future__ import annotations

from functools import partial

import pytest

from xtts_core.text import normalize
from xtts_core.transcription.alignment import spoken_part
from xtts_core.transcription.subtitles import Cue

CUES = [
    Cue(10.0, 14.0, "O quilo do tomate custava R$ 7,50 em janeiro."),
    Cue(14.3, 18.0, "Cada feirante precisa renovar a licença."),
    Cue(18.2, 21.0, "Não, ele dizia que terra cansada precisa de descanso."),
    Cue(40.0, 41.0, "Sim, senhora."),
    Cue(44.0, 45.0, "Sim, senhora!"),
]

spoken = partial(spoken_part, CUES, normalise=partial(normalize, language="pt-BR"))


def text_of(start_s: float, end_s: float, heard: str) -> str | None:
    part = spoken(start_s, end_s, heard)
    return part.text if part else None


def test_a_clip_takes_its_cues_as_they_are_written() -> None:
    heard = "o quilo do tomate custava R$ 7,50 em janeiro cada ferrante precisa renovar a licença"
    part = spoken(9.9, 18.2, heard)
    assert part is not None
    assert part.text == f"{CUES[0].text} {CUES[1].text}"
    assert part.complete
    assert 0 < part.cer < 0.05


@pytest.mark.parametrize("late_s", [-0.9, -0.5, 0.5, 0.9])
def test_cues_that_come_early_or_late_give_the_same_text(late_s: float) -> None:
    heard = "Cada feirante precisa renovar a licença."
    assert text_of(14.2 + late_s, 18.1 + late_s, heard) == CUES[1].text


def test_a_clip_that_ends_inside_a_cue_takes_what_it_speaks_of_it() -> None:
    heard = "Cada feirante precisa renovar a licença. Não, ele dizia"
    assert text_of(14.2, 19.0, heard) == f"{CUES[1].text} Não, ele dizia"
    assert text_of(19.0, 21.1, "que terra cansada precisa de descanso") == (
        "que terra cansada precisa de descanso."
    )


def test_an_expression_that_is_spoken_as_a_whole_is_not_divided() -> None:
    assert text_of(10.0, 12.5, "o quilo do tomate custava") == "O quilo do tomate custava"
    part = spoken(10.0, 12.5, "o quilo do tomate custava sete reais")
    assert part is not None
    assert (part.text, part.cer) == (None, 0)


@pytest.mark.parametrize("aside", ["(João)", "(em voz baixa)", "Dr. João:", "Vizinha do lado:"])
def test_an_aside_or_a_name_before_a_cue_counts_only_where_it_was_heard(aside: str) -> None:
    cues = [*CUES[:2], Cue(18.2, 21.0, f"{aside} {CUES[2].text}")]
    take = partial(spoken_part, cues, normalise=partial(normalize, language="pt-BR"))
    unheard = take(18.1, 21.1, "Não, ele dizia que terra cansada precisa de descanso")
    heard = take(18.1, 21.1, f"{aside} não, ele dizia que terra cansada precisa de descanso")
    assert unheard is not None
    assert heard is not None
    assert (unheard.text, unheard.cer) == (CUES[2].text, 0)
    assert heard.text == cues[2].text


def test_of_an_aside_within_a_cue_the_rest_stays() -> None:
    cues = [Cue(0.0, 4.0, "Ele mora (em 2020) aqui na vila."), Cue(4.1, 6.0, "Ela (rindo) saiu.")]
    take = partial(spoken_part, cues, normalise=partial(normalize, language="pt-BR"))
    part = take(0.0, 6.1, "ele mora em 2020 aqui na vila ela saiu")
    assert part is not None
    assert part.text == "Ele mora (em 2020) aqui na vila. Ela saiu."


@pytest.mark.parametrize("last", ["descanso", "descanço na"])
def test_a_short_word_that_was_not_heard_at_the_start_of_a_cue_stays(last: str) -> None:
    heard = f"ele dizia que terra cansada precisa de {last}"
    assert text_of(18.1, 21.1, heard) == CUES[2].text


def test_of_two_equal_cues_the_nearer_one_is_taken() -> None:
    assert text_of(39.9, 41.2, "sim senhora") == "Sim, senhora."
    assert text_of(43.9, 45.2, "sim senhora") == "Sim, senhora!"


def test_what_nobody_wrote_down_is_told() -> None:
    heard = "cada feirante precisa renovar a licença até o dia primeiro de dezembro"
    part = spoken_part([CUES[1], CUES[3]], 14.2, 22.0, heard, partial(normalize, language="pt-BR"))
    assert part is not None
    assert (part.text, part.cer, part.complete) == (CUES[1].text, 0, False)


def test_a_cue_that_says_it_in_other_words_does_not_fit() -> None:
    part = spoken(14.2, 18.2, "todo vendedor tem de renovar a permissão")
    assert part is not None
    assert part.cer > 0.3


@pytest.mark.parametrize(
    ("start_s", "end_s", "heard"),
    [(14.2, 18.2, ""), (14.2, 18.2, "..."), (25.0, 35.0, "cada feirante precisa")],
)
def test_without_a_word_or_without_a_cue_nothing_is_told(
    start_s: float, end_s: float, heard: str
) -> None:
    assert spoken(start_s, end_s, heard) is None


def test_one_cue_in_other_words_is_not_hidden_by_the_one_beside_it() -> None:
    heard = "o quilo do tomate custava R$ 7,50 em janeiro todo feirante tem que renovar a licença"
    part = spoken(9.9, 18.2, heard)
    assert part is not None
    assert part.text == f"{CUES[0].text} {CUES[1].text}"
    assert part.cer > 0.2


def test_a_letter_of_a_short_cue_is_no_disagreement() -> None:
    part = spoken(39.9, 41.2, "sim senhor")
    assert part is not None
    assert 0 < part.cer < 0.05


@pytest.mark.parametrize(
    ("written", "heard"),
    [("Não.", "Sim."), ("Pare!", ""), ("Vou.", "Não.")],
)
def test_a_short_cue_that_is_another_word_is_a_disagreement(written: str, heard: str) -> None:
    cues = [
        Cue(10.0, 12.0, "Você vai na festa amanhã?"),
        Cue(12.2, 12.8, written),
        Cue(13.0, 15.0, "Cada feirante precisa renovar a licença."),
    ]
    said = f"Você vai na festa amanhã? {heard} Cada feirante precisa renovar a licença."
    part = spoken_part(cues, 9.9, 15.1, said, partial(normalize, language="pt-BR"))
    assert part is not None
    assert part.cer > 0.5


def test_a_letter_of_a_short_cue_that_was_heard_wrongly_is_no_disagreement() -> None:
    part = spoken(39.9, 41.1, "sim, senhor")
    assert part is not None
    assert part.cer < 0.1

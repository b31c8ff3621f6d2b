from __future__ import annotations

from pathlib import Path

import pytest
import webvtt
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_core.errors import ModelError, RequestError
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.text import normalize

LETTERS = "abcdefghijklmnopqrstuvwxyzáàâãçéêíóôõúü.,?!;:'-"


@pytest.fixture(scope="module")
def tokenizer(tiny_dir: Path) -> Tokenizer:
    return Tokenizer.load(tiny_dir)


def test_ids_are_those_of_coqui_on_normalised_text(
    tokenizer: Tokenizer, tiny_dir: Path, demo: Path
) -> None:
    coqui = VoiceBpeTokenizer(tiny_dir / "vocab.json")
    captions = [cue.text for cue in webvtt.read(demo / "feira-dora.pt-BR.vtt")]
    texts = [normalize(caption, "pt-BR") for caption in captions]
    assert len(texts) > 3
    for text in texts:
        assert tokenizer.encode(text, "pt-BR") == coqui.encode(text, "pt-BR")


def test_the_country_of_a_language_is_dropped(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("olá.", "pt-BR") == tokenizer.encode("olá.", "pt")
    assert tokenizer.encode("olá.", "pt") != tokenizer.encode("olá.", "es")


@pytest.mark.parametrize("language", ["pt", "en", "es"])
def test_tiny_knows_every_letter_of_normalised_portuguese(
    tokenizer: Tokenizer, language: str
) -> None:
    for letter in LETTERS:
        assert tokenizer.unknown_id not in tokenizer.encode(f"a{letter} {letter}", language)


def test_tiny_joins_letters_so_that_a_long_clip_stays_below_200_tokens(
    tokenizer: Tokenizer,
) -> None:
    text = (
        "na semana passada a gente foi visitar a casa onde meu pai nasceu, e ele contou de novo "
        "a história do cavalo que fugiu durante a noite e voltou sozinho três dias depois, "
        "cansado e com fome."
    )
    assert len(tokenizer.encode(text, "pt")) < 0.75 * len(text)


def test_a_sign_outside_the_vocabulary_is_unknown(tokenizer: Tokenizer) -> None:
    assert tokenizer.unknown_id in tokenizer.encode("olá €", "pt")


def test_a_language_without_a_tag_is_refused_with_the_known_ones(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="en, es, pt"):
        tokenizer.encode("hallo.", "de")


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"vocab\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "BPE"'])
def test_a_broken_vocabulary_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(ModelError, match=r"vocab\.json"):
        Tokenizer.load(tmp_path)

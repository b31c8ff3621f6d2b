"""Acronyms, initials and letters that stand alone."""

from __future__ import annotations

import re

from xtts_core.text.common import when, words_of
from xtts_core.text.pt.grammar import spelled

_SPELT = frozenset(words_of("BNDES OEA UTI IPI IR AGU EPI TRE TCE CEO UE UPP OCDE USA"))
READ = frozenset(
    words_of(
        """PIB ONG CEP AIDS LED WEB POP TOP VIP PET GIF CHIP CHAT PIX PSOL DOPS UERJ UNB MEC PAC
        SAC IDEB OK SHOW ROCK GOLF STOP SESC SESI OPEP COAF COP"""
    )
)
"""Acronyms that are read as words against the rule of their letters."""
_WORDS = frozenset(
    words_of("""EU TU ELE DE DO DA NO NA EM UM SE ME TE OS AS AO OU OI VI LA AI VAI""")
)
"""Words written in capitals for emphasis, of two letters, which else would be spelt."""
_SAID = {"EUA": "Estados Unidos"}
_SYLLABLE = "(?:QU|[CLN]H|[BCDFGPTV][LR]|[B-DF-HJ-NP-TV-Z])?[AEIOU]{1,3}(?:NS|RS|SP|[LRSZNMXC])?"
_READABLE = re.compile(f"(?:{_SYLLABLE})+")
_CLUSTER = re.compile(r"(?!.?(?:STR|SCR|SPR))[B-DF-HJ-NP-TV-Z]{4}")
_MIXED = re.compile(r"(?<![\w'-])(?:CNPq|[mrt]RNA|PhD)(?![\w'])")
_ACRONYM = re.compile(r"(?<![\w'-])([A-Z]{2,7})(s?)(?![\w'])")
_SHOUTED = re.compile(r"\b[A-ZÀ-Ý]{2,}(?: [A-ZÀ-Ý]{2,}){2,}\b")
_DOTTED = re.compile(r"(?<!\w)(?:[A-Z]\.){2,}")
_INITIAL = re.compile(r"(?<!\w)([A-Z])\.(?=\s?[A-ZÀ-Ý])")
_LONE_CONSONANT = re.compile(r"(?i)(?<![\w'.-])([b-df-hj-np-tv-z])(?![\w'-]|\.\w)")
_LETTERED = (
    "vitamina|hepatite|influenza|grupo|turma|plano|letra|série|classe|ponto|opção|bloco|tipo|sala|"
    "lado|conceito|nota|item|alternativa|categoria|portão|setor"
)
_LONE_VOWEL = re.compile(rf"(?i:(?<!\w)({_LETTERED})\s)([AEIOU])(?![\w'-]|\.\w)")
_AFTER_LETTERED = re.compile(rf"(?i)(?<!\w)(?:{_LETTERED})\s$")


def acronym(letters: str) -> str:
    """An acronym in capitals as it is said: letter by letter where it has no vowel or four
    consonants in a row, has two letters, or has up to four and no Portuguese syllables; else as a
    word."""
    if letters in _SAID:
        return _SAID[letters]
    if letters in READ or letters in _WORDS:
        return letters
    unreadable = len(letters) <= 4 and not _READABLE.fullmatch(letters)
    silent = not re.search("[AEIOU]", letters) or _CLUSTER.search(letters)
    if letters in _SPELT or silent or len(letters) == 2 or unreadable:
        return spelled(letters)
    return letters


@when(r"[A-Z]|\b[b-df-hj-np-tv-z]\b")
def acronyms(text: str) -> str:
    """INSS, TV, O.N.U., J. Silva, plano A, x: read as words or spelt, see `acronym`; a text or a
    row of words in capitals is emphasis."""

    def dotted(match: re.Match[str]) -> str:
        ends = not match.string[match.end() :].strip()
        return match[0].replace(".", "") + ("." if ends else "")

    def initial(match: re.Match[str]) -> str:
        ends_sentence = _AFTER_LETTERED.search(match.string[: match.start()])
        return match[0] if ends_sentence else f"{match[1]} "

    def speak(match: re.Match[str]) -> str:
        spoken = acronym(match[1])
        return f"{spoken}{'' if spoken.endswith('s') else match[2]}"

    if not text.isupper():
        text = _INITIAL.sub(initial, _DOTTED.sub(dotted, text))
        if not _SHOUTED.search(text):
            text = _MIXED.sub(lambda m: spelled(m[0]), text)
            text = _ACRONYM.sub(speak, text)
        text = _LONE_VOWEL.sub(lambda m: f"{m[1]} {spelled(m[2])}", text)
    return _LONE_CONSONANT.sub(lambda m: spelled(m[1]), text)

"""Abbreviations, and the letters of the states of Brazil."""

from __future__ import annotations

import re

from xtts_core.text.common import LETTER, followed_by_new_sentence, when
from xtts_core.text.pt.grammar import spelled

_ABBREVIATIONS = {
    "dr": "doutor", "dra": "doutora", "drs": "doutores", "dras": "doutoras",
    "sr": "senhor", "sra": "senhora", "srs": "senhores", "sras": "senhoras",
    "srta": "senhorita", "prof": "professor", "profa": "professora", "profs": "professores",
    "exmo": "excelentíssimo", "exma": "excelentíssima", "ilmo": "ilustríssimo",
    "ilma": "ilustríssima", "pe": "padre", "fr": "frei", "rev": "reverendo", "eng": "engenheiro",
    "arq": "arquiteto", "adv": "advogado", "gen": "general", "mal": "marechal", "alm": "almirante",
    "cel": "coronel", "ten": "tenente", "sgt": "sargento", "maj": "major", "cb": "cabo",
    "gov": "governador", "pres": "presidente", "dep": "deputado", "sen": "senador",
    "ver": "vereador", "min": "ministro", "des": "desembargador",
    "av": "avenida", "rod": "rodovia", "trav": "travessa", "pça": "praça", "jd": "jardim",
    "al": "alameda", "lgo": "largo", "ap": "apartamento", "apto": "apartamento", "bl": "bloco",
    "sto": "santo", "sta": "santa", "st": "santo",
    "tel": "telefone", "pág": "página", "págs": "páginas", "pag": "página",
    "cap": "capítulo", "caps": "capítulos", "art": "artigo", "arts": "artigos", "vol": "volume",
    "ed": "edição", "fig": "figura", "tab": "tabela", "cf": "confira", "ex": "exemplo",
    "séc": "século", "sécs": "séculos", "núm": "número", "obs": "observação", "máx": "máximo",
    "mín": "mínimo", "aprox": "aproximadamente", "vs": "versus", "etc": "etcétera",
    "ltda": "limitada", "ltd": "limitada", "cia": "companhia", "co": "companhia", "jr": "júnior",
    "depto": "departamento", "brig": "brigadeiro", "gal": "general",
    "pq": "parque", "tv": "travessa", "fl": "folha", "fls": "folhas",
}  # fmt: skip
_BEFORE_NAME = {
    "ver", "ten", "pe", "gen", "mal", "min", "des", "al", "fr", "cb", "sen", "dep", "pres", "gov",
    "adv", "arq", "alm", "eng", "maj", "rev",
    "brig", "gal", "pq", "tv",
}  # fmt: skip
"""Also words or units by themselves: abbreviations only with a capital, before a name."""
_WEEKDAYS = {
    "seg": "segunda", "ter": "terça", "qua": "quarta", "qui": "quinta", "sex": "sexta",
    "sáb": "sábado", "dom": "domingo",
}  # fmt: skip
_WEEKDAY = re.compile(rf"(?i)(?<!\w)({'|'.join(_WEEKDAYS)})\.")
# One alone may be the verb ter or seconds: a day only beside another, or after na.
_WEEKDAY_LIST = re.compile(
    rf"{_WEEKDAY.pattern}(?:(?:,\s?|\s(?:e|a|à|ou)\s){_WEEKDAY.pattern[4:]})+"
    r"|(?<=\b[Nn]a )(?:seg|qua|qui|sex)\."
)
_SMALL_ONLY = {"ed", "tab"}
_MAY_END_SENTENCE = {"etc", "ltda", "ltd", "jr"}
_LONGEST = max(map(len, _ABBREVIATIONS))
_ABBREVIATION = re.compile(rf"(?<!\w)({LETTER}{{2,{_LONGEST}}})\.")
_WITHOUT_POINT = re.compile(r"(?<![\w.])(?:[DdSs]ra?s?|[Ss]rta|[Aa]v)\b(?![.\w'/-])(?=\s?[\w,!?])")
_LETTER_PAIRS = (
    (re.compile(r"(?<!\w)a\.\s?C\."), "antes de Cristo"),
    (re.compile(r"(?<!\w)d\.\s?C\."), "depois de Cristo"),
    (re.compile(r"(?<!\w)p\.\s?p\."), "pontos percentuais"),
    (re.compile(r"(?<![\w.])S\.\s?A\.|\bS/A\b\.?"), "esse á"),
)
_WITH_MARKS = (
    (re.compile(r"(?<=\w)\((es|s)\)"), r"\1"),
    (re.compile(r"(?<=\w)\((?:a|o|as|os)\)"), ""),
    (re.compile(r"(?i)\bp\.?\s?ex\."), "por exemplo"),
    (re.compile(r"(?i)\bn(?:\.\s?)?[º°]s\b"), "números"),
    (re.compile(r"(?i)\bs/\s?n(?:[º°]|\b)"), "sem número"),
    (re.compile(r"(?i)\bn(?:\.\s?)?[º°]\.?\s?(?=\d)"), "número "),
    (re.compile(r"(?i)\bn(?:\.\s?)?[º°](?!\w)"), "número"),
    (re.compile(r"#\s?(?=\d)"), "número "),
    (re.compile(r"(?i)\bprof\.?ª\.?|\bprofa\b\.?"), "professora"),
    (re.compile(r"(?i)\bdr\.?ª\.?"), "doutora"),
    (re.compile(r"(?i)\bsr\.?ª\.?"), "senhora"),
    (re.compile(r"\b[Vv]\.\s?[Ee]xa\."), "vossa excelência"),
    (re.compile(r"\b[Ss]\.\s?[Ee]xa\."), "sua excelência"),
    (re.compile(r"\b[Vv]\.\s?[Ss]a\."), "vossa senhoria"),
    (re.compile(r"(?<![\w.])N\.\s?S(?:ra)?\.(?=\s?[A-ZÀ-Ýd])"), "nossa senhora"),
    (re.compile(r"\bi\.\s?e\."), "isto é"),
    (re.compile(r"\b[Ii]nc\.\s?(?=[IVXLC\d])"), "inciso "),
    (re.compile(r"(?<=\d )a\.\s?m\."), "da manhã"),
    (re.compile(r"(?<=\d )p\.\s?m\."), "da tarde"),
    (re.compile(r"\b(é|são|fica|endereço:|fica em|em|a)\sR\.\s(?=[A-ZÀ-Ý][a-zà-ÿ])"), r"\1 rua "),
    (re.compile(r"\be\.\s?g\."), "por exemplo"),
    (re.compile(r"\bc/(?=\s|\w)"), "com "),
    (re.compile(r"\bp/(?=\s|\w)"), "para "),
    (re.compile(r"\bs/(?=\s|\w)"), "sem "),
    (re.compile(r"\bpp\.\s?(?=\d)"), "páginas "),
    (re.compile(r"\bp\.\s?(?=\d)"), "página "),
    (re.compile(r"§\s?§"), "parágrafos"),
    (re.compile(r"\b([NnDd]a|[Àà]|[Pp]ela) R\.\s(?=[A-ZÀ-Ý\d])"), r"\1 rua "),
    (re.compile(r"\bD\.\s?(?=[A-ZÀ-Ý]\w+[aá]\b)"), "dona "),
    (re.compile(r"\bD\.\s?(?=(?:Pedro|João|Manuel|Afonso|Sebastião|Miguel|Dinis|Quixote"
                r"|José|Hélder|Helder|Luís|Luiz|Fernando|Henrique|Duarte|Paulo|Evaristo|Odilo|Orani"
                r"|Bosco|Casmurro|Juan|Diego|Carlos|Rafael|Rodrigo|Sancho)\b)"),
     "dom "),
    (re.compile(r"\bS\.\s?(?=(?:Paulo|João|José|Pedro|Luís|Bernardo|Caetano|Jorge)\b)"), "são "),
)  # fmt: skip

_CLUBS = {"Atlético", "Athletico", "América", "Botafogo", "Operário", "Cruz", "Nacional"}
"""Their names are told apart by the letters of a state: Atlético-MG."""
_STATE_AFTER_HYPHEN = re.compile(rf"(?<![\w-])({LETTER}{{2,}})-([A-Z]{{2}})(?![\w&-])")
_NAME_AFTER = re.compile(r"\s?[A-ZÀ-Ý][a-zà-ÿ]")

_STATES = {
    "AC": "Acre", "AL": "Alagoas", "AP": "Amapá", "AM": "Amazonas", "BA": "Bahia", "CE": "Ceará",
    "DF": "Distrito Federal", "ES": "Espírito Santo", "GO": "Goiás", "MA": "Maranhão",
    "MT": "Mato Grosso", "MS": "Mato Grosso do Sul", "MG": "Minas Gerais", "PA": "Pará",
    "PB": "Paraíba", "PR": "Paraná", "PE": "Pernambuco", "PI": "Piauí", "RJ": "Rio de Janeiro",
    "RN": "Rio Grande do Norte", "RS": "Rio Grande do Sul", "RO": "Rondônia", "RR": "Roraima",
    "SC": "Santa Catarina", "SP": "São Paulo", "SE": "Sergipe", "TO": "Tocantins",
}  # fmt: skip
_STATE_AFTER_TOWN = re.compile(
    r"(?<=[a-zà-ÿ])(?:\s?\((?P<a>[A-Z]{2})\)|(?:\s?/\s?|\s[-–—]\s|,\s)(?P<b>[A-Z]{2})(?![\w&-]))"
)


def _state(match: re.Match[str]) -> str:
    name = _STATES.get(match["a"] or match["b"])
    return f", {name}" if name else match[0]


def _state_after_hyphen(match: re.Match[str]) -> str:
    name = _STATES.get(match[2])
    if name is None:
        return match[0]
    if match[1] in _CLUBS:
        return f"{match[1]} {spelled(match[2])}"
    return f"{match[1]}{'' if match[1].isupper() else ','} {name}"


@when(r"(?<!\w)\w\.\s?\w\.|S/A")
def _letter_pairs(text: str) -> str:
    for pattern, words in _LETTER_PAIRS:
        text = pattern.sub(
            lambda m, words=words: (  # type: ignore[misc]
                words + ("." if m[0].endswith(".") and followed_by_new_sentence(m) else "")
            ),
            text,
        )
    return text


@when(r"[/ª°º#§(]|(?<!\w)\w{1,2}\.\s?\w|[Pp]rofa\b|\b[Ii]nc\.")
def _with_marks(text: str) -> str:
    for pattern, words in _WITH_MARKS:
        text = pattern.sub(words, text)
    return text


@when(rf"(?<!\w)\w{{1,{_LONGEST}}}\.|[/ª°º#§(]|\b[A-Z]{{2}}\b|\b(?:[DdSs]r|[Aa]v)")
def abbreviations(text: str) -> str:
    """Dr., Sra., Av., nº, etc.: the full stop stays only where it also ends a sentence. The
    letters of a state after a town, Campinas/SP, are said as its name. Titles and `av` are also
    read without their point, as captions write them."""

    def weekdays(match: re.Match[str]) -> str:
        words = _WEEKDAY.sub(lambda m: _WEEKDAYS[m[1].lower()], match[0])
        return words + ("." if followed_by_new_sentence(match) else "")

    def expand(match: re.Match[str]) -> str:
        short, small = match[1].lower(), match[1].islower()
        if short not in _ABBREVIATIONS:
            return match[0]
        new_sentence = followed_by_new_sentence(match)
        at_end = not match.string[match.end() :].strip()
        title = match[1].istitle()
        if short in _BEFORE_NAME and (not title or at_end or not new_sentence):
            return match[0]
        if short in _SMALL_ONLY and not small:
            return match[0]
        words = _ABBREVIATIONS[short]
        if short == "cap" and _NAME_AFTER.match(match.string, match.end()) and not small:
            words = "capitão"
        ends = at_end or (short in _MAY_END_SENTENCE and new_sentence)
        joined = match.string[match.end() : match.end() + 1].isalnum()
        return words + ("." if ends else " " if joined else "")

    text = _WEEKDAY_LIST.sub(weekdays, _with_marks(_letter_pairs(text)))
    text = _STATE_AFTER_HYPHEN.sub(_state_after_hyphen, text)
    text = _ABBREVIATION.sub(expand, _STATE_AFTER_TOWN.sub(_state, text))
    return _WITHOUT_POINT.sub(lambda m: _ABBREVIATIONS[m[0].lower()], text)

"""What several rules need of Portuguese grammar: numerals in their gender, names of letters."""

from __future__ import annotations

import re

from xtts_core.text.common import LETTER, words_of
from xtts_core.text.numbers import MAX_SPOKEN, NUMBER, digits, spoken_value
from xtts_core.text.numbers import cardinal as spoken_cardinal
from xtts_core.text.numbers import ordinal as spoken_ordinal

LANGUAGE = "pt_BR"

MONTHS = words_of(
    "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro"
)

LETTER_NAMES = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        words_of(
            "á bê cê dê é efe gê agá i jota cá ele eme ene ó pê quê erre esse tê u vê dáblio xis "
            "ípsilon zê"
        ),
        strict=True,
    )
)
"""Acordo Ortográfico (1990), base I; of its two names for k the one that Brazil uses."""

SCALES = "mil|milhão|milhões|bilhão|bilhões|trilhão|trilhões"


def spelled(letters: str) -> str:
    """The names of `letters`, which are a to z in either case."""
    return " ".join(LETTER_NAMES[letter] for letter in letters.lower())


# --- gender -----------------------------------------------------------------------------------

_FEMININE = frozenset(
    words_of(
        """mão mãos mulher mulheres vez vezes ordem ordens pele peles parede paredes noite noites
    tarde tardes fonte fontes frase frases fase fases base bases classe classes chave chaves rede
    redes ponte pontes sede sedes morte mortes parte partes arte artes árvore árvores flor flores
    cor cores dor dores luz luzes cruz cruzes voz vozes lei leis nuvem nuvens mãe mães irmã irmãs
    manhã manhãs maçã maçãs torre torres série séries espécie espécies tribo tribos foto fotos
    moto motos gente lã lãs rã rãs avó avós região regiões religião religiões legião legiões
    opinião opiniões união uniões reunião reuniões rebelião rebeliões conexão conexões reflexão
    reflexões análise análises crise crises hipótese hipóteses carne carnes corrente correntes
    enchente enchentes serpente serpentes metade metades estante estantes gravidez nave naves neve
    febre febres greve greves goma gomas soma somas gema gemas algema algemas lista listas pista
    pistas vista vistas revista revistas conquista conquistas entrevista entrevistas
    colher colheres saúde equipe equipes elite elites etapa etapas catástrofe catástrofes síntese
    sínteses tese teses dose doses posse posses sorte sortes virose viroses raiz raízes
    perdiz perdizes codorniz codornizes"""
    )
)
_MASCULINE = frozenset(
    words_of(
        """dia dias mapa mapas planeta planetas cometa cometas grama gramas quilograma quilogramas
    miligrama miligramas cinema cinemas fantasma fantasmas clima climas pijama pijamas gorila
    gorilas guarda guardas atleta atletas colega colegas poeta poetas profeta profetas papa papas
    pirata piratas trauma traumas camarada camaradas drama dramas panorama panoramas pediatra
    pediatras psiquiatra psiquiatras tapa tapas axioma axiomas monarca monarcas patriarca
    patriarcas inseticida inseticidas mantra mantras coração corações calção calções brasão brasões
    artesão cortesão cidadão órgão blusão blusões bisão bisões tesão travessão travessões cabeção
    cabeções camisão camisões arção arções"""
    )
)
_NO_NOUN = frozenset(
    words_of(
        """a as à às da das na nas pela pelas ela elas uma umas mas há era essa essas esta estas
    está para aquela aquelas minha minhas sua suas nossa nossas toda todas nada fora agora ainda
    embora acima contra sobra entra foi são estão não então vão dão até cada seja veja tinha havia
    fica ficava passa falta faltas vira mata apenas pra pras numa numas nessa nessas nesta
    nestas naquela naquelas"""
    )
)
_EITHER_GENDER = frozenset(
    words_of(
        """grandes importantes diferentes jovens melhores piores maiores menores principais
    possíveis grande importante diferente jovem melhor pior maior menor principal possível
    simples"""
    )
)
_FEMININE_BEFORE = frozenset(
    words_of(
        """as às das nas pelas umas essas estas aquelas dessas destas nessas nestas suas minhas
    nossas todas outras últimas primeiras próximas algumas"""
    )
)
_MASCULINE_BEFORE = frozenset(
    words_of(
        """os dos nos aos pelos uns esses estes aqueles desses destes nesses nestes seus meus nossos
    todos outros últimos primeiros próximos alguns dia número nº página casa sala capítulo volume
    versão item quadra lote linha artigo"""
    )
)
PLURAL_NOUN_AFTER = (
    r"\s(?!(?:mas|das|dos|nas|nos|às|aos|mais|menos|depois|antes|apenas|as|os)\b)"
    rf"{LETTER}+s\b"
)
"""What begins with a space and reads like a noun in the plural, in a regular expression."""
_GREEK_MASCULINE = re.compile(r"(?:[eo]ma|grama|ista|auta)s?$")
_FEMININE_PLURAL = re.compile(r"(?:as|ções|sões|dades|tudes|gens|trizes)$")
_FEMININE_SINGULAR = re.compile(r"(?:a|ção|são|dade|tude|gem|triz)$")
_COUNTED = re.compile(
    rf"(?:\smil)?(\s(?:a|e|ou|até)\s{NUMBER}(?:\smil)?)?\s"
    rf"(?:(?:ex|pós|pré|vice|mini|super|sub|auto)-)?({LETTER}+)(?:\s({LETTER}+))?"
)
_WORD_BEFORE = re.compile(rf"({LETTER}+)\s$")


def feminine_noun(word: str | None, plural: bool) -> bool:
    """Whether `word` is a feminine noun in that number, as far as its ending tells."""
    if word is None:
        return False
    word = word.lower()
    if word in _FEMININE:
        return word.endswith("s") == plural
    if word in _MASCULINE or word in _NO_NOUN or _GREEK_MASCULINE.search(word):
        return False
    return (_FEMININE_PLURAL if plural else _FEMININE_SINGULAR).search(word) is not None


def counts_feminine(match: re.Match[str], plural: bool) -> bool:
    """Whether the number that `match` found agrees with a feminine noun.

    The word before tells where it is an article or a noun that is numbered (página 2); else
    the noun after, also across `2 ou 3 semanas`, `2 mil pessoas` and `2 grandes obras`.
    """
    before = _WORD_BEFORE.search(match.string[max(0, match.start() - 20) : match.start()])
    if before and (word := before[1].lower()) in _FEMININE_BEFORE | _MASCULINE_BEFORE:
        return word in _FEMININE_BEFORE
    counted = _COUNTED.match(match.string, match.end())
    if counted is None:
        return False
    several, next_word, word_after = counted.groups()
    noun = word_after if next_word.lower() in _EITHER_GENDER else next_word
    return feminine_noun(noun, plural or several is not None)


def to_feminine(words: str) -> str:
    """A cardinal in the feminine; millions keep their own gender."""
    head, tail = re.fullmatch(r"(.*lh(?:ão|ões))?(.*)", words).groups("")  # type: ignore[union-attr]
    tail = re.sub(r"\bum\b", "uma", re.sub(r"\bdois\b", "duas", tail))
    return head + re.sub(r"entos\b", "entas", tail)


# --- numerals ---------------------------------------------------------------------------------


_E_INSIDE = re.compile(rf"(?<=lhão|hões) e (?=.*\b(?:{SCALES})\b \S)")


def cardinal(value: int, feminine: bool = False) -> str:
    """The words of a whole number.

    num2words says `e` after every million before fewer than a hundred thousands; it belongs
    before the last group alone (Cunha & Cintra): dois milhões oitenta mil e cinco.
    """
    words = _E_INSIDE.sub(" ", spoken_cardinal(value, LANGUAGE))
    return to_feminine(words) if feminine else words


def digit_by_digit(text: str) -> str:
    """Every digit of `text` by itself, its groups parted by commas."""
    return digits(text, LANGUAGE)


def integer(text: str, feminine: bool = False) -> str:
    """The words of an integer such as `65.000`; `007` and very long ones digit by digit."""
    plain = text.replace(".", "")
    padded = plain.startswith("0") and (len(plain) > 2 or plain == "00")
    value = spoken_value(plain)
    if padded or value >= MAX_SPOKEN:
        return digit_by_digit(plain)
    return cardinal(value, feminine)


def number(text: str, feminine: bool = False) -> str:
    """The words of a number such as `1.234,05`, with an optional minus sign."""
    sign = "menos " if text.startswith("-") else ""
    whole, _, fraction = text.removeprefix("-").strip().partition(",")
    if not fraction:
        return sign + integer(whole, feminine)
    return f"{sign}{integer(whole, feminine)} vírgula {_decimals(fraction)}"


def _decimals(text: str) -> str:
    """`05` is read zero cinco, `75` setenta e cinco, four digits and more one by one."""
    zeros = len(text) - len(text.lstrip("0"))
    rest = text[zeros:]
    if len(text) > 3:
        return digit_by_digit(text)
    return " ".join(["zero"] * zeros + ([cardinal(int(rest))] if rest else []))


def ordinal(value: int, feminine: bool = False, plural: bool = False) -> str:
    """The words of an ordinal up to the thousandths."""
    words = spoken_ordinal(value, LANGUAGE)
    if feminine:
        words = re.sub(r"o\b", "a", words)
    return re.sub(r"([oa])\b", r"\1s", words) if plural else words


def value_of(text: str) -> float:
    """The value of a number such as `-1.234,05`."""
    return float(text.replace(".", "").replace(",", ".").replace(" ", ""))

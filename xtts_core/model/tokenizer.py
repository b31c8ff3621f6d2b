"""Text to token ids, as coqui-tts's `VoiceBpeTokenizer.encode` does without its cleaner.

The text has been through `xtts_core.text.normalize`, which leaves that cleaner nothing to do
(coqui-tts 0.28.0, `TTS/tts/layers/xtts/tokenizer.py`). Neither torch nor TTS is imported, so the
dataset stages can count tokens cheaply.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_core.errors import ModelError, RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BpeTokenizer

VOCABULARY_FILE = "vocab.json"

_LANGUAGE_TAG = re.compile(r"\[([a-z]{2}(?:-[a-z]{2})?)\]")


class Tokenizer:
    """The vocabulary of one model."""

    def __init__(self, bpe: BpeTokenizer, where: Path) -> None:
        unknown = bpe.token_to_id("[UNK]")
        if unknown is None:
            raise ModelError("The vocabulary has no [UNK] token", where=str(where))
        self.unknown_id: int = unknown
        self.languages: tuple[str, ...] = tuple(
            sorted(
                match[1].split("-")[0]
                for token in bpe.get_vocab()
                if (match := _LANGUAGE_TAG.fullmatch(token))
            )
        )
        self._bpe = bpe

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read `vocab.json` of a model folder.

        Raises:
            ModelError: it is missing, or no vocabulary of an XTTS model.
        """
        from tokenizers import Tokenizer as BpeTokenizer

        path = directory / VOCABULARY_FILE
        if not path.is_file():
            raise ModelError(
                "The vocabulary is missing", where=str(path), remedy="Materialise the model again"
            )
        try:
            bpe = BpeTokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises no narrower type
            raise ModelError(
                f"The vocabulary cannot be read: {error}",
                where=str(path),
                remedy="Materialise the model again",
            ) from error
        return cls(bpe, path)

    def __len__(self) -> int:
        return self._bpe.get_vocab_size()

    def encode(self, text: str, language: str) -> list[int]:
        """Token ids of a normalised text, the language's tag first.

        A country code is dropped: `pt-BR` is `pt`.

        Raises:
            RequestError: the model does not know the language.
        """
        code = language_code(language, self.languages)
        tag = "zh-cn" if code == "zh" else code
        ids: list[int] = self._bpe.encode(f"[{tag}]{text}".replace(" ", "[SPACE]")).ids
        return ids


def language_code(language: str, languages: Sequence[str]) -> str:
    """The code of a language without its country: `pt-BR` is `pt`.

    Raises:
        RequestError: it is not one of `languages`.
    """
    code = language.split("-")[0].lower()
    if code not in languages:
        raise RequestError(
            f"The model does not speak {language!r}",
            where="language",
            remedy=f"It speaks {', '.join(languages)}",
        )
    return code

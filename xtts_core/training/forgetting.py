"""What a fine-tune costs the rest of the model: its loss on other speech than it was trained on.

No recordings are shipped for it. Before training the base model says fixed sentences itself, in
English, Spanish and Portuguese and in a voice that the corpus has not; how well the model predicts
the codes of that speech is measured before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_core.model.engine import Engine, Latents, Sampling
from xtts_core.model.hub import SPEAKERS_FILE
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.settings import NATIVE_RATE_HZ, SAMPLE_RATE_HZ
from xtts_core.store import atomic_file
from xtts_core.text import normalize
from xtts_core.training.codes import Coder
from xtts_core.training.data import (
    Batch,
    Clip,
    LoadedTensors,
    held_out_spans,
    make_batch,
    tokenise,
)
from xtts_core.training.mel import pcm_to_float

if TYPE_CHECKING:
    from TTS.tts.models.xtts import Xtts

SENTENCES: Mapping[str, tuple[str, ...]] = {
    "en": (
        "The baker opens the shop before the sun comes up and sells out by noon.",
        "Could you tell me which platform the train to the coast leaves from?",
        "She kept every letter her brother wrote during the long winter abroad.",
        "Fresh paint and open windows made the old kitchen smell of spring.",
        "Nobody knew why the clock in the tower always stopped on Thursdays.",
        "We walked along the river until the lights of the village appeared.",
        "The children laughed so loudly that the judge had to leave the room.",
        "His voice was calm, but his hands were shaking under the table.",
    ),
    "es": (
        "El panadero abre la tienda antes del amanecer y al mediodía ya no queda nada.",
        "¿Me puede decir de qué andén sale el tren que va hacia la costa?",
        "Ella guardó todas las cartas que su hermano escribió durante aquel invierno.",
        "La pintura fresca y las ventanas abiertas llenaban la cocina de primavera.",
        "Nadie sabía por qué el reloj de la torre se paraba siempre los jueves.",
        "Caminamos junto al río hasta que aparecieron las luces del pueblo.",
        "Los niños rieron tan fuerte que el juez tuvo que salir de la sala.",
        "Su voz era tranquila, pero le temblaban las manos debajo de la mesa.",
    ),
    "pt": (
        "O padeiro abre a loja antes do amanhecer e ao meio-dia já vendeu tudo.",
        "Você pode me dizer de que plataforma sai o trem que vai para o litoral?",
        "Ela guardou todas as cartas que o irmão escreveu durante aquele inverno.",
        "A tinta fresca e as janelas abertas enchiam a cozinha de primavera.",
        "Ninguém sabia por que o relógio da torre sempre parava às quintas-feiras.",
        "Caminhamos pela beira do rio até aparecerem as luzes do vilarejo.",
        "As crianças riram tão alto que o juiz precisou sair da sala.",
        "A voz dele era calma, mas as mãos tremiam debaixo da mesa.",
    ),
}
"""The same eight in each language; Portuguese tells of the voice alone."""

_SPEAKER = "the base model's own voice"


def speak_probes(
    model: Xtts, base_dir: Path, corpus: Sequence[Clip], sentences: int, path: Path
) -> None:
    """Have the base model say the first `sentences` of each language that it has, to a file with
    the audio (int16 at 22 050 Hz) and the DVAE codes of each.

    The voice is the base model's first studio voice; where it has none, the first clip of the
    corpus lends one. Equal inputs give equal speech.
    """
    engine = Engine(model, Tokenizer.load(base_dir), "base", {})
    voice = _studio_voice(base_dir) or engine.latents([pcm_to_float(corpus[0].audio()).numpy()])
    coder = Coder(base_dir)
    tensors: dict[str, Tensor] = {}
    for language in [language for language in SENTENCES if language in engine.languages]:
        for number, sentence in enumerate(SENTENCES[language][:sentences]):
            text = normalize(sentence, language)
            spoken = engine.synthesize(text, language, voice, Sampling(seed=number))
            heard = soxr.resample(spoken, NATIVE_RATE_HZ, SAMPLE_RATE_HZ)
            pcm = np.clip(np.round(heard * 32_767), -32_768, 32_767).astype(np.int16)
            audio = torch.from_numpy(pcm)
            tensors[f"{language}-{number}.audio"] = audio
            tensors[f"{language}-{number}.codes"] = coder.codes(audio)
    with atomic_file(path) as aside:
        save_file(tensors, aside)


class Probes:
    """The spoken sentences of a file, as batches by language."""

    def __init__(self, path: Path, base_dir: Path) -> None:
        tensors = load_file(path)
        source = LoadedTensors(tensors)
        names = sorted({name.split(".")[0] for name in tensors})
        self.clips = [_clip(name, source) for name in names]
        self._tokens = tokenise(self.clips, base_dir)
        self.languages = sorted({clip.language for clip in self.clips})

    def batches(self, language: str) -> Iterator[Batch]:
        """Each sentence by itself, its voice taken from another one."""
        span = held_out_spans(self.clips)
        for clip in self.clips:
            if clip.language == language:
                yield make_batch([clip], [span(clip)], self._tokens)


def _clip(name: str, source: LoadedTensors) -> Clip:
    language, number = name.split("-")
    return Clip(
        clip_id=name,
        video_id="",
        speaker=_SPEAKER,
        language=language,
        text=normalize(SENTENCES[language][int(number)], language),
        sha256=name,
        split="val",
        snr_db=0.0,
        bandwidth_hz=None,
        speaker_similarity=None,
        samples=source.length(f"{name}.audio"),
        tensors=source,
    )


def _studio_voice(base_dir: Path) -> Latents | None:
    """The first by name of the voices that the base model came with."""
    path = base_dir / SPEAKERS_FILE
    if not path.is_file():
        return None
    parts = load_file(path)
    first = min(name.split("/")[0] for name in parts)
    return Latents(
        gpt_cond=parts[f"{first}/gpt_cond_latent"], speaker=parts[f"{first}/speaker_embedding"]
    )

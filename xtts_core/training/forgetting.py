"""What a fine-tune costs the rest of the model: its loss on other speech than it was trained on.

No recordings are shipped for it. Before training the base model says fixed sentences itself, in
English, Spanish and Portuguese; how well the model predicts the codes of that speech is measured
before and after.

The codes are drawn from the base model's own distribution (temperature 1, nothing cut off, nothing
penalised), on the very conditioning that they are later scored with. The loss on them is then the
entropy of the base model plus the Kullback-Leibler divergence from it to the other model, and its
rise a Monte Carlo estimate of that divergence: nought for the base model itself, and else above it
but for the noise of the draw. Codes of the vocoded audio would not do: a model that learns what the
DVAE gives for any audio gains on them while it forgets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xtts_core.errors import ModelError
from xtts_core.model.coqui_checkpoint import SPEAKERS_FILE
from xtts_core.model.engine import Engine, Latents
from xtts_core.model.loading import load_mel_stats
from xtts_core.model.sampling import Sampling
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.settings import NATIVE_RATE_HZ, SAMPLE_RATE_HZ
from xtts_core.stage import Progress, silent
from xtts_core.store import atomic_file
from xtts_core.text import normalize
from xtts_core.training.augmentation import changed
from xtts_core.training.codes import CODE_SAMPLES
from xtts_core.training.data import MAX_SPAN_SAMPLES, Batch, Clip
from xtts_core.training.mel import conditioning_mel, pcm_to_float

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

_REFERENCE = "reference"
_LIMIT_CODES = 250
"""The most that a sentence is drawn: 11.6 s, as the longest training clip."""
_SCORED_STOPS = 4
_ANOTHER_VOICE_SEMITONES = 5.0


def speak_probes(
    model: Xtts,
    base_dir: Path,
    corpus: Sequence[Clip],
    sentences: int,
    path: Path,
    progress: Progress = silent,
) -> None:
    """Have the base model say the first `sentences` of each language that it has, to a file with
    the codes (int16) of each, its stop with them, and of their voice up to 6 s of audio (int16 at
    22 050 Hz).

    The voice is the base model's first studio voice. Where it has none, the first clip of the
    corpus, made higher, lends one that training does not hear. Equal inputs give equal speech.

    Raises:
        ModelError: the model has nothing to say to a sentence.
    """
    gpt = model.gpt
    was_training = gpt.training
    gpt.eval()
    tokenizer = Tokenizer.load(base_dir)
    engine = Engine(model, tokenizer, "base", {})
    voice = _studio_voice(base_dir) or engine.latents(
        [pcm_to_float(changed(corpus[0].audio(), 1.0, _ANOTHER_VOICE_SEMITONES)).numpy()]
    )
    languages = [language for language in SENTENCES if language in engine.languages]
    text = normalize(" ".join(SENTENCES[languages[0]][:2]), languages[0])
    spoken = engine.synthesize(text, languages[0], voice, Sampling(seed=0))
    heard = soxr.resample(spoken, NATIVE_RATE_HZ, SAMPLE_RATE_HZ)[:MAX_SPAN_SAMPLES]
    pcm = np.clip(np.round(heard * 32_767), -32_768, 32_767).astype(np.int16)
    reference = torch.from_numpy(pcm)

    with torch.inference_mode():
        mel = conditioning_mel(load_mel_stats(base_dir))
        heard_mel = mel(_padded(reference)).to(model.device)
        prompt = gpt.get_style_emb(heard_mel).transpose(1, 2)
    tensors = {_REFERENCE: reference}
    total = sum(len(SENTENCES[language][:sentences]) for language in languages)
    for language in languages:
        for number, sentence in enumerate(SENTENCES[language][:sentences]):
            progress(len(tensors) - 1, total, "sentences of the base model")
            name = f"{language}-{number}"
            tokens = tokenizer.encode(normalize(sentence, language), language)
            seed = len(tensors)
            codes = _draw(gpt, tokens, prompt, torch.Generator(model.device).manual_seed(seed))
            if len(codes) == 1:
                raise ModelError(
                    f"The base model ends before it has said anything to {sentence!r}",
                    where=str(base_dir),
                    remedy="Use another base model, or set forgetting.sentences to 0",
                )
            tensors[name] = torch.tensor(codes, dtype=torch.int16)
    gpt.train(was_training)
    with atomic_file(path) as aside:
        save_file(tensors, aside)


class Probes:
    """The spoken sentences of a file, as batches by language."""

    def __init__(self, path: Path, base_dir: Path) -> None:
        tensors = load_file(path)
        self._reference = _padded(tensors.pop(_REFERENCE))
        self._codes = tensors
        self._tokenizer = Tokenizer.load(base_dir)
        self.languages = sorted({name.split("-")[0] for name in tensors})

    def batches(self, language: str) -> Iterator[Batch]:
        """Each sentence by itself; nothing but its own codes is scored."""
        for name in sorted(self._codes):
            if not name.startswith(f"{language}-"):
                continue
            sentence = SENTENCES[language][int(name.split("-")[1])]
            text = torch.tensor([self._tokenizer.encode(normalize(sentence, language), language)])
            codes = self._codes[name].long()[None]
            n = codes.shape[1]
            yield Batch(
                clip_ids=(name,),
                text=text,
                text_lengths=torch.tensor([text.shape[1]]),
                codes=codes,
                wav_lengths=torch.tensor([n * CODE_SAMPLES]),
                conditioning=self._reference,
                # The one stop that was drawn is among the codes; one that met the limit has none.
                unscored=((n, n + _SCORED_STOPS),),
            )


def _padded(audio: Tensor) -> Tensor:
    """(1, 132 300) float32, as a training span is."""
    padded = torch.zeros(1, MAX_SPAN_SAMPLES)
    padded[0, : len(audio)] = pcm_to_float(audio)
    return padded


@torch.inference_mode()
def _draw(gpt: Any, tokens: list[int], prompt: Tensor, generator: torch.Generator) -> list[int]:
    """Codes from the model's plain distribution, the stop with them.

    `Engine` draws from a sharpened one, whose samples say nothing about the divergence.
    """
    device = prompt.device
    framed = torch.tensor([[gpt.start_text_token, *tokens, gpt.stop_text_token]], device=device)
    start = torch.tensor([[gpt.start_audio_token]], device=device)
    inputs = torch.cat(
        [
            prompt,
            gpt.text_embedding(framed) + gpt.text_pos_embedding(framed),
            gpt.mel_embedding(start) + gpt.mel_pos_embedding(start),
        ],
        dim=1,
    )
    cache = None
    codes: list[int] = []
    while len(codes) < _LIMIT_CODES:
        step = gpt.gpt(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        logits = gpt.mel_head(gpt.final_norm(step.last_hidden_state[:, -1]))
        code = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
        codes.append(int(code.item()))
        if codes[-1] == gpt.stop_audio_token:
            break
        inputs = gpt.mel_embedding(code) + gpt.mel_pos_embedding.get_fixed_embedding(
            len(codes), device
        )
    return codes


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

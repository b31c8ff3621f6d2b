"""The base model `tiny`: XTTS's classes and file layout at toy sizes, from a seed.

It proves every line of the pipeline in seconds on a CPU and speaks noise. Two things are not left
to chance: the DVAE's codebook is drawn from its own encoder's outputs on synthetic voices, so that
speech is spread over the codes, and the stop token has a head start, so that even the untrained
model ends its sentences after a while.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from xtts_core.model.architecture import (
    Architecture,
    DvaeSizes,
    SpeakerEncoderSizes,
    VocoderSizes,
    write_architecture,
)
from xtts_core.model.loading import (
    CONFIG_FILE,
    DVAE_FILE,
    MEL_STATS_FILE,
    build_dvae,
    build_model,
    load_mel_stats,
    save_model,
)
from xtts_core.model.tokenizer import VOCABULARY_FILE
from xtts_core.settings import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from torch import Tensor

TINY = Architecture(
    vocoder=VocoderSizes(
        resblock_dilation_sizes_decoder=((1, 3, 5),),
        resblock_kernel_sizes_decoder=(3,),
        upsample_initial_channel_decoder=32,
    ),
    speaker_encoder=SpeakerEncoderSizes(layers=(1, 1, 1, 1), num_filters=(8, 8, 16, 16)),
    dvae=DvaeSizes(codebook_dim=32, hidden_dim=32, num_resnet_blocks=1),
)

_SEED = 42
_LANGUAGES = ("pt", "en", "es")
_STOP_HEAD_START = 0.8
"""Added to the stop token's logit: an untrained sentence lasts about 3 s."""
_NO_STOP_CODES = 20
"""Positions that lean away from the stop token: no sentence lasts less than a second."""
_NO_STOP_PUSH = 4.0
_CODEBOOK_S = 60.0
"""Synthetic voice that the codebook is drawn from: 1 291 codes for its 1 024 entries."""

_SYMBOLS = "!'(),-./:;?" + "abcdefghijklmnopqrstuvwxyz" + "áàâãäåçéèêëíìîïñóòôõöúùûü"
_MERGES = 500
_TEXT = """
era uma vez um homem que morava perto do rio e gostava de contar histórias para as crianças.
hoje de manhã a chuva começou cedo, mas o sol voltou antes do almoço e todos foram para a rua.
você já pensou em como seria a cidade sem carros? muita gente acha que seria melhor para todos.
eu não sei se vou conseguir chegar a tempo, porque o trânsito está muito difícil na avenida.
a feira abre às seis horas, e quem chega primeiro encontra as melhores frutas e os melhores preços.
quando a gente era criança, minha avó fazia bolo de milho e pão de queijo todos os domingos.
o professor explicou a questão mais uma vez, devagar, até que ninguém tivesse dúvidas.
depois da reunião, eles decidiram que o projeto precisava de mais tempo e de mais dinheiro.
então, qual é a sua opinião sobre isso? pode falar com tranquilidade, estamos só conversando.
no interior do país, as noites são frias e o céu fica cheio de estrelas brilhantes.
foram duzentos e trinta e cinco quilômetros de estrada, com três paradas para descansar.
ela comprou um quilo de tomates, dois pés de alface, uma dúzia de ovos e um pouco de sal.
o computador não funcionava bem, por isso chamamos um técnico que resolveu tudo em dez minutos.
meu irmão trabalha em uma empresa de informação e comunicação desde mil novecentos e noventa e oito.
não há nada mais importante do que a saúde e a educação das pessoas que vivem neste lugar.
as ondas batiam nas pedras enquanto os pescadores voltavam com os barcos cheios de peixes.
também é preciso lembrar que nenhuma mudança acontece sem o trabalho de muita gente.
seja bem-vindo ao nosso programa: hoje vamos falar sobre música, dança e literatura brasileira.
ontem à noite ouvi um barulho estranho, levantei da cama e vi que era apenas o vento na janela.
os jogadores entraram em campo às quatro da tarde, com a torcida cantando nas arquibancadas.
se você quiser aprender a cozinhar, comece pelas receitas simples: arroz, feijão e farofa.
aquele livro conta a vida de uma mulher que atravessou o oceano em busca de um novo começo.
a biblioteca fica aberta durante a semana inteira, menos nos feriados nacionais.
obrigado pela atenção de vocês, e até a próxima semana com mais um capítulo desta história.
quanto custa esta camisa azul? custa quarenta e nove reais e noventa centavos, senhora.
o ônibus passou lotado; esperamos outro durante quase meia hora embaixo de um pequeno toldo.
eles queriam construir uma ponte que ligasse os dois bairros, mas faltavam engenheiros.
abra a porta, por favor, e deixe entrar um pouco de ar fresco nesta sala tão quente.
primeiro, corte as cebolas; depois, coloque tudo na panela com óleo quente e mexa bem.
a floresta guarda segredos que os mais velhos conhecem e ensinam aos jovens com paciência.
the weather was cold this morning, but the children were already playing in the garden.
do you know where the station is? i think that it is just around the corner, near the bridge.
when she came back from the market, there was nothing left on the table except an old letter.
this is one of the things that people would have liked to learn before they started working.
la ciudad estaba tranquila, y los niños jugaban en la plaza mientras sus padres conversaban.
¿sabes dónde está la estación? creo que está cerca del puente, al otro lado de la calle.
cuando llegó el invierno, nadie quería salir de casa porque hacía mucho frío en las montañas.
esta es una de las cosas que todos deberían aprender antes de empezar a trabajar.
""".replace("¿", "")


def build(directory: Path) -> None:
    """Write the files of `tiny`, all but the manifest, into `directory`."""
    _write_vocabulary(directory / VOCABULARY_FILE)
    _write_config(directory / CONFIG_FILE)
    write_architecture(directory, TINY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        _write_dvae(directory)
        _write_model(directory)


def _write_vocabulary(path: Path) -> None:
    """A small byte-pair vocabulary, in the order of the public one: special tokens, letters,
    languages, merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(unk_token="[UNK]"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    tags = [f"[{language}]" for language in _LANGUAGES]
    bpe.train_from_iterator(
        _TEXT.strip().splitlines(),
        trainers.BpeTrainer(
            special_tokens=["[STOP]", "[UNK]", "[SPACE]", "[START]", *tags],
            initial_alphabet=list(_SYMBOLS),
            vocab_size=4 + len(tags) + len(_SYMBOLS) + _MERGES,
            show_progress=False,
        ),
    )
    path.write_text(bpe.to_str(pretty=True) + "\n", encoding="utf-8")


def _write_config(path: Path) -> None:
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig

    channels = 128
    config = XttsConfig(
        model_args=XttsArgs(
            gpt_layers=4,
            gpt_n_model_channels=channels,
            gpt_n_heads=4,
            decoder_input_dim=channels,
            gpt_num_audio_tokens=1_026,
            gpt_start_audio_token=1_024,
            gpt_stop_audio_token=1_025,
            gpt_max_audio_tokens=605,
            gpt_max_text_tokens=402,
            gpt_max_prompt_tokens=70,
            gpt_use_masking_gt_prompt_approach=True,
            gpt_use_perceiver_resampler=True,
        ),
        languages=list(_LANGUAGES),
        gpt_cond_len=30,
        gpt_cond_chunk_len=4,
        max_ref_len=30,
    )
    path.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")


def _write_dvae(directory: Path) -> None:
    from TTS.tts.layers.xtts.dvae import dvae_wav_to_mel

    voices = torch.from_numpy(_synthetic_voices(_CODEBOOK_S))[None]
    raw: Tensor = dvae_wav_to_mel(voices, mel_norms=torch.ones(80))
    # Rounded, so that the order in which a machine adds does not show in the files' hashes.
    mel_stats = raw.abs().mean(dim=(0, 2)).round(decimals=2)
    save_file({"mel_stats": mel_stats}, directory / MEL_STATS_FILE)

    dvae: Any = build_dvae(directory).eval()
    with torch.inference_mode():
        outputs = dvae.encoder(raw / mel_stats[None, :, None])[0].T
    chosen = outputs[torch.randperm(len(outputs))[: dvae.num_tokens]].round(decimals=3)
    dvae.codebook.embed.copy_(chosen.T)
    dvae.codebook.embed_avg.copy_(chosen.T)
    state = {name: tensor.contiguous() for name, tensor in dvae.state_dict().items()}
    save_file(state, directory / DVAE_FILE)


def _write_model(directory: Path) -> None:
    model = build_model(directory)
    model.mel_stats.copy_(load_mel_stats(directory))
    gpt = model.gpt
    with torch.no_grad():
        gpt.mel_head.bias[gpt.stop_audio_token] += _STOP_HEAD_START
        towards_stop = functional.normalize(gpt.mel_head.weight[gpt.stop_audio_token], dim=0)
        gpt.mel_pos_embedding.emb.weight[:_NO_STOP_CODES] -= _NO_STOP_PUSH * towards_stop
    save_model(model, directory)


def _synthetic_voices(seconds: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Harmonics that glide under moving formants, with noise and pauses, at 22 050 Hz."""
    random = np.random.default_rng(_SEED)
    n = int(seconds * SAMPLE_RATE_HZ)
    knots = int(seconds * 8)

    def track(low: float, high: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.interp(
            np.linspace(0, knots - 1, n), np.arange(knots), random.uniform(low, high, knots)
        )

    pitch = track(80, 300)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ
    formants = [track(300, 900), track(900, 2_500), track(2_500, 4_500)]
    audio = np.zeros(n)
    for harmonic in range(1, 26):
        frequency = harmonic * pitch
        gain = sum(1 / (1 + ((frequency - formant) / 120) ** 2) for formant in formants)
        audio += (gain + 0.02) * np.sin(harmonic * phase)
    loudness = np.clip(track(-0.5, 1.0), 0, 1)
    hiss = np.clip(track(-0.3, 0.3), 0, 1) * random.standard_normal(n)
    mixed = 0.1 * loudness * audio + 0.1 * hiss + 0.001 * random.standard_normal(n)
    samples: np.ndarray[Any, np.dtype[np.float32]] = mixed.astype(np.float32)
    return samples

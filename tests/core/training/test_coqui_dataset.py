"""What coqui-tts's own dataset class drops in silence is what `metadata` rejects by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from TTS.tts.configs.xtts_config import XttsConfig
from TTS.tts.datasets.formatters import ljspeech
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

from xtts_core.dataset.fan_in import gather
from xtts_core.dataset.ljspeech import link_wavs, write_listings
from xtts_core.dataset.trainability import Candidate, rejection_reasons
from xtts_core.model.loading import kept_threads
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.settings import MAX_CLIP_SAMPLES, SAMPLE_RATE_HZ, FilterSettings, TextSettings
from xtts_core.store import CorpusStore

with kept_threads():
    from TTS.tts.layers.xtts.trainer.dataset import XTTSDataset
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs

PLAIN = "bom dia a todos"

pytestmark = pytest.mark.usefixtures("ffmpeg")


def kept_by_coqui(store: CorpusStore, folder: Path) -> list[str]:
    """The clips of an LJSpeech folder that coqui-tts's dataset gives."""
    samples = [{**found, "language": "pt"} for found in ljspeech(str(folder), "metadata.csv")]
    config = XttsConfig(model_args=GPTArgs(max_wav_length=255_995, max_text_length=200))
    tokenizer = VoiceBpeTokenizer(str(store.base_model("tiny") / "vocab.json"))
    dataset = XTTSDataset(config, samples, tokenizer, SAMPLE_RATE_HZ, is_eval=True)
    return sorted(Path(sample["audio_file"]).stem for sample in dataset.samples)


def reasons(samples: int, text: str, tokenizer: Tokenizer) -> Sequence[str]:
    clip = Candidate(
        samples=samples,
        duration_s=samples / SAMPLE_RATE_HZ,
        cut="pause",
        filled_s=0.0,
        clipping_ratio=0.0,
        snr_db=30.0,
        change_similarity=None,
        speaker_similarity=None,
        music_ratio=None,
        bandwidth_hz=None,
        reverberation_s=None,
        text=text,
        characters_per_s=15.0,
        tokens=tokenizer.encode(text, "pt"),
        unknown_token=tokenizer.unknown_id,
        guards=(),
    )
    return rejection_reasons(clip, FilterSettings(), TextSettings(max_words=500))


def text_of(tokens: int, tokenizer: Tokenizer) -> str:
    text = "a a a"
    while len(tokenizer.encode(text, "pt")) < tokens:
        text += " a" if len(tokenizer.encode(text + " a", "pt")) <= tokens else "."
    assert len(tokenizer.encode(text, "pt")) == tokens
    return text


def test_coqui_drops_no_clip_of_the_export(corpus: CorpusStore, tmp_path: Path) -> None:
    clips = gather(corpus).clips
    link_wavs(corpus, clips, tmp_path / "wavs")
    write_listings(clips, tmp_path)
    assert kept_by_coqui(corpus, tmp_path) == sorted(clips["clip_id"].to_pylist())
    assert len(clips) == 10


@pytest.mark.parametrize(
    ("samples", "text", "reason"),
    [
        (MAX_CLIP_SAMPLES, PLAIN, None),
        (MAX_CLIP_SAMPLES + 1, PLAIN, "too_long"),
        (11_025, PLAIN, None),
        (11_024, PLAIN, "too_short"),
        (60_000, 200, None),
        (60_000, 201, "too_many_tokens"),
        (60_000, "bom dia ж todos", "unknown_token"),
    ],
)
def test_at_each_limit_coqui_keeps_what_metadata_accept(
    corpus: CorpusStore, tmp_path: Path, samples: int, text: Any, reason: str | None
) -> None:
    tokenizer = Tokenizer.load(corpus.base_model("tiny"))
    text = text_of(text, tokenizer) if isinstance(text, int) else text
    assert reasons(samples, text, tokenizer) == ((reason,) if reason else ())
    (tmp_path / "wavs").mkdir()
    sound = np.random.default_rng(0).integers(-3000, 3000, samples).astype(np.int16)
    soundfile.write(tmp_path / "wavs" / "clip.wav", sound, SAMPLE_RATE_HZ, subtype="PCM_16")
    row = {"clip_id": "clip", "text_raw": text, "text": text, "split": "train"}
    write_listings(pa.Table.from_pylist([row]), tmp_path)
    assert kept_by_coqui(corpus, tmp_path) == ([] if reason else ["clip"])

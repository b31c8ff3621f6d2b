"""A checkpoint for people who use coqui-tts itself: `xtts export --to coqui`."""

from __future__ import annotations

import shutil
from pathlib import Path

from xtts_core.errors import ModelError
from xtts_core.model.architecture import read_architecture
from xtts_core.model.checkpoint import LICENCE_FILE, verify
from xtts_core.model.tokenizer import VOCABULARY_FILE
from xtts_core.settings import EngineSettings
from xtts_core.store import atomic_dir


def export_coqui(checkpoint_dir: Path, out_dir: Path) -> Path:
    """Write `model.pth`, `config.json`, `vocab.json` and `speakers_xtts.pth` to `out_dir`.

    coqui-tts loads the folder with
    `Xtts.init_from_config(config).load_checkpoint(config, checkpoint_dir=out_dir)`; the voices of
    the checkpoint are its speakers, by name.

    Raises:
        ModelError: the checkpoint is damaged, has a vocoder of a size that coqui-tts cannot
            build, or `out_dir` is there already.
    """
    import torch

    from xtts_core.model.engine import Engine, read_reference
    from xtts_core.model.loading import CONFIG_FILE, MODEL_FILE, read_tensors

    manifest = verify(checkpoint_dir)
    if not read_architecture(checkpoint_dir).public_vocoder:
        raise ModelError(
            "coqui-tts builds its vocoder in one size only, and this checkpoint's is another",
            where=str(checkpoint_dir),
            remedy="Fine-tune xtts_v2 to export to coqui-tts",
        )
    if out_dir.exists():
        raise ModelError(
            "There is something at the place of the export already",
            where=str(out_dir),
            remedy="Give a folder that does not exist",
        )
    with atomic_dir(out_dir) as aside:
        for name in (CONFIG_FILE, VOCABULARY_FILE, LICENCE_FILE):
            if name in manifest.files:
                shutil.copyfile(checkpoint_dir / name, aside / name)
        torch.save({"model": read_tensors(checkpoint_dir / MODEL_FILE)}, aside / "model.pth")
        engine = Engine.load(checkpoint_dir, EngineSettings(device="cpu"))
        speakers = {}
        for speaker, clips in engine.voices().items():
            voice = engine.latents([read_reference(clip) for clip in clips])
            # coqui's `synthesize` unpacks these by their order.
            speakers[speaker] = {
                "gpt_cond_latent": voice.gpt_cond.clone(),
                "speaker_embedding": voice.speaker.clone(),
            }
        if speakers:
            torch.save(speakers, aside / "speakers_xtts.pth")
    return out_dir

"""A base model of random weights at the public size, the vocoder too, for measuring speed."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from xtts_core.model import tiny
from xtts_core.model.architecture import PUBLIC_GPT, Architecture, write_architecture
from xtts_core.model.checkpoint import Manifest, Origin, describe_files, write_manifest
from xtts_core.model.loading import CONFIG_FILE, build_model, save_model


def write_base(directory: Path) -> None:
    """Write the folder; its sentences never end by themselves."""
    directory.mkdir(parents=True)
    tiny.build(directory)
    config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    config["model_args"] |= PUBLIC_GPT
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    write_architecture(directory, Architecture())
    torch.manual_seed(0)
    model = build_model(directory)
    with torch.no_grad():
        model.gpt.mel_head.bias[model.gpt.stop_audio_token] = -1e4
    save_model(model, directory)
    write_manifest(
        directory,
        Manifest(
            kind="base",
            licence="Apache-2.0",
            base_model=Origin(name="random", source="benchmarks/service", revision="1"),
            files=describe_files(directory),
        ),
    )

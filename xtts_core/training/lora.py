"""Low-rank adapters (Hu et al., LoRA, 2021) on the GPT's transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtts_core.errors import SettingsError
from xtts_core.settings import LoraSettings

HEADS = ("text_head", "mel_head")
EMBEDDINGS = ("text_embedding", "mel_embedding", "text_pos_embedding", "mel_pos_embedding")
LAYERS_FILE = "trained_layers.safetensors"
"""Beside the adapter: the layers that were trained whole, under their names in the GPT."""


def add_lora(gpt: Any, settings: LoraSettings) -> Any:
    """Freeze `gpt` but for the layers that the settings name, and add trainable adapters to its
    transformer, in place.

    GPT-2's linear layers are `Conv1D`, whose weights are (in, out): hence `fan_in_fan_out`. Its
    attention is one fused `c_attn`; there is no `q_proj`.

    Returns:
        The `peft.PeftModel` around `gpt.gpt`, for `save_adapter` and `merge_lora`.
    Raises:
        SettingsError: a target is not in the model.
    """
    from peft import LoraConfig, get_peft_model

    layers = [name for name, _ in gpt.gpt.named_modules()]
    strangers = [t for t in settings.targets if not any(f".{n}".endswith(f".{t}") for n in layers)]
    if strangers:
        raise SettingsError(
            f"The model has no layers {', '.join(strangers)}",
            where="lora.targets in training.yaml",
            remedy="Use names of the GPT's layers: c_attn, c_proj, c_fc",
        )
    gpt.requires_grad_(False)
    whole = (HEADS if settings.train_heads else ()) + (
        EMBEDDINGS if settings.train_embeddings else ()
    )
    for name in whole:
        getattr(gpt, name).requires_grad_(True)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        fan_in_fan_out=True,
    )
    return get_peft_model(gpt.gpt, config)


def save_adapter(adapter: Any, gpt: Any, folder: Path) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` as peft reads them, and
    `trained_layers.safetensors` where layers beside the adapter were trained."""
    from safetensors.torch import save_file

    adapter.save_pretrained(folder)
    (folder / "README.md").unlink()
    whole = {
        name: parameter.detach().contiguous()
        for name, parameter in gpt.named_parameters()
        if parameter.requires_grad and "lora_" not in name
    }
    if whole:
        save_file(whole, folder / LAYERS_FILE)


def merge_lora(adapter: Any) -> None:
    """Fold the adapters into the weights they stand beside and remove them, in place."""
    adapter.merge_and_unload()

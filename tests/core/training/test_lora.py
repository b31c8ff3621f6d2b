from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from xtts_core.errors import SettingsError
from xtts_core.model.loading import load_model
from xtts_core.settings import LoraSettings
from xtts_core.store import CorpusStore
from xtts_core.training.lora import add_lora, merge_lora, save_adapter

LORA = LoraSettings(rank=4, alpha=8.0, dropout=0.1)


@pytest.fixture
def gpt(corpus: CorpusStore) -> Any:
    return load_model(corpus.base_model("tiny")).gpt


@pytest.fixture
def adapter(gpt: Any) -> Any:
    """An adapter that changes something: its second halves start at zero."""
    torch.manual_seed(0)
    adapter = add_lora(gpt, LORA)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return adapter


def hidden(transformer: Any) -> torch.Tensor:
    torch.manual_seed(1)
    inputs = torch.randn(2, 20, transformer.config.n_embd)
    with torch.no_grad():
        output: torch.Tensor = transformer(inputs_embeds=inputs).last_hidden_state
    return output


def test_only_the_adapters_of_the_transformer_are_trained(gpt: Any) -> None:
    add_lora(gpt, LORA)
    trained = [name for name, p in gpt.named_parameters() if p.requires_grad]
    layers = {(name.split(".")[4], name.split(".")[5]) for name in trained}
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 4 * len(gpt.gpt.h)
    assert layers == {
        ("c_attn", "lora_A"),
        ("c_attn", "lora_B"),
        ("c_proj", "lora_A"),
        ("c_proj", "lora_B"),
        ("c_fc", "lora_A"),
        ("c_fc", "lora_B"),
    }


def test_a_merged_adapter_equals_the_unmerged_one(gpt: Any, adapter: Any) -> None:
    gpt.eval()
    before = hidden(gpt.gpt)
    names = {name.replace(".base_layer", "") for name in gpt.state_dict() if "lora_" not in name}
    merge_lora(adapter)
    torch.testing.assert_close(hidden(gpt.gpt), before, atol=1e-5, rtol=1e-5)
    assert set(gpt.state_dict()) == names


def test_a_saved_adapter_is_read_by_peft(
    corpus: CorpusStore, gpt: Any, adapter: Any, tmp_path: Path
) -> None:
    save_adapter(adapter, gpt, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    fresh = load_model(corpus.base_model("tiny")).gpt.gpt
    gpt.eval()
    read = PeftModel.from_pretrained(fresh, tmp_path).eval()
    torch.testing.assert_close(hidden(read), hidden(gpt.gpt))


def test_a_target_that_the_model_has_not_is_refused(gpt: Any) -> None:
    with pytest.raises(SettingsError, match=r"lora\.targets.*no layers q_proj, c_fcx"):
        add_lora(gpt, LoraSettings(targets=("q_proj", "c_attn", "c_fcx")))
    assert all(parameter.requires_grad for parameter in gpt.gpt.h.parameters())
    add_lora(gpt, LoraSettings(targets=("attn.c_proj",)))

from __future__ import annotations

from typing import Any

import pytest
import torch

from xtts_core.model.loading import load_model
from xtts_core.settings import LoraSettings
from xtts_core.store import CorpusStore
from xtts_core.training.layers import lighten
from xtts_core.training.lora import add_lora, merge_lora


def adapted(base_dir: Any, dropout: float) -> tuple[Any, Any]:
    """A GPT with an adapter that changes something: its second halves start at zero."""
    gpt = load_model(base_dir).gpt
    adapter = add_lora(gpt, LoraSettings(rank=4, alpha=8.0, dropout=dropout))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return gpt, adapter


def trained(gpt: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output of its transformer, and the gradient of every weight that learns."""
    torch.manual_seed(1)
    inputs = torch.randn(2, 20, gpt.gpt.config.n_embd)
    output = gpt.gpt(inputs_embeds=inputs).last_hidden_state
    output.square().mean().backward()
    return output.detach(), {n: p.grad for n, p in gpt.named_parameters() if p.requires_grad}


def test_outputs_and_gradients_of_an_adapter_are_peft_s(corpus: CorpusStore) -> None:
    base_dir = corpus.base_model("tiny")
    ours, _ = adapted(base_dir, dropout=0.0)
    peft, _ = adapted(base_dir, dropout=0.0)
    lighten(ours.train(), frozen=True)
    found, expected = trained(ours), trained(peft.eval())
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-4)


def test_outputs_and_gradients_of_a_full_fine_tune_are_coqui_tts_s(corpus: CorpusStore) -> None:
    ours, theirs = (load_model(corpus.base_model("tiny")).gpt.eval() for _ in range(2))
    for gpt in (ours, theirs):
        gpt.gpt.requires_grad_(True)
    lighten(ours, frozen=False)
    found, expected = trained(ours), trained(theirs)
    torch.testing.assert_close(found[0], expected[0])
    for name, gradient in expected[1].items():
        if gradient is not None:
            torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_an_adapter_drops_out_while_it_learns_and_alike_in_the_repeated_pass(
    corpus: CorpusStore,
) -> None:
    gpt, _ = adapted(corpus.base_model("tiny"), dropout=0.5)
    lighten(gpt.train(), frozen=True)
    first, again = trained(gpt), trained(gpt)
    assert torch.equal(first[0], again[0])
    assert not torch.allclose(first[0], trained(gpt.eval())[0], atol=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_keeps_its_share_and_the_mean(corpus: CorpusStore, share: float) -> None:
    gpt = load_model(corpus.base_model("tiny")).gpt
    lighten(gpt.train(), frozen=False)
    dropout = gpt.gpt.drop
    dropout.p = share
    torch.manual_seed(0)
    dropped = dropout(torch.ones(100_000))
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.01)
    assert torch.equal(dropout.eval()(torch.ones(9)), torch.ones(9))


def test_a_merged_model_is_coqui_tts_s_own_again(corpus: CorpusStore) -> None:
    gpt, adapter = adapted(corpus.base_model("tiny"), dropout=0.1)
    lighten(gpt, frozen=True)
    gpt.eval()
    before = trained(gpt)[0]
    merge_lora(adapter)
    gpt.requires_grad_(True)
    torch.testing.assert_close(trained(gpt)[0], before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(trained(gpt.train())[0], before, atol=1e-4, rtol=1e-4)

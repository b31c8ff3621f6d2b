"""A step over all places at once, as CUDA repeats it, beside the step of the places in use."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xtts_core.model.decoder import Code, Decoder, Request
from xtts_core.model.engine import Latents
from xtts_core.model.loading import load_model
from xtts_core.model.sampling import Sampling, drawing
from xtts_core.model.tokenizer import Tokenizer
from xtts_core.model.transformer import Transformer, as_cuda_graph

TEXTS = ("a feira abre às seis horas.", "sim.", "só os gatos passeiam.", "quanto custa?")
LIMIT = 30


def as_it_is(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return compute


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return "cuda"


def requests(tiny_dir: Path, voice: Latents, device: str = "cpu") -> list[Request]:
    tokenizer = Tokenizer.load(tiny_dir)
    return [
        Request(
            tokenizer.encode(text, "pt"),
            voice.gpt_cond.to(device),
            drawing(Sampling(), torch.Generator().manual_seed(number)),
            at_least=0,
            limit=LIMIT,
            penalise_prefix=True,
            check=lambda: None,
        )
        for number, text in enumerate(TEXTS)
    ]


def drawn_by_turns(decoder: Decoder, asked: list[Request]) -> list[list[Code]]:
    """The codes of requests of which one more joins at every third turn."""
    begun = [decoder.decode(request) for request in asked]
    drawn: list[list[Code]] = [[] for _ in asked]
    over = [False for _ in asked]
    for turn in itertools.count():
        for number in range(min(len(asked), 1 + turn // 3)):
            code = next(begun[number], None)
            over[number] = code is None
            drawn[number] += [code] if code else []
        if all(over):
            return drawn
    raise AssertionError


def assert_alike(ours: list[list[Code]], theirs: list[list[Code]], apart: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert [code for code, _ in one] == [code for code, _ in other]
        for (_, latent), (_, expected) in zip(one, other, strict=True):
            torch.testing.assert_close(latent, expected, atol=apart, rtol=0)


def test_a_step_of_all_places_gives_each_request_what_a_step_of_its_own_gives(
    tiny_dir: Path, voice: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Decoder(load_model(tiny_dir).gpt, slots=3, precision="float32")
    expected = drawn_by_turns(usual, requests(tiny_dir, voice))
    monkeypatch.setattr(
        "xtts_core.model.decoder.Transformer", partial(Transformer, repeat=as_it_is)
    )
    whole = Decoder(load_model(tiny_dir).gpt, slots=3, precision="float32")
    asked = requests(tiny_dir, voice)
    assert_alike(drawn_by_turns(whole, asked), expected, 1e-5)


def test_a_step_of_all_places_is_prepared_once_and_keeps_its_tensors(
    tiny_dir: Path, voice: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA records reads and writes fixed addresses, so the computation may take nothing from
    the request that it was first made for."""
    results: list[Tensor] = []

    def recorded(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        results.append(compute().clone())

        def play() -> Tensor:
            results[0].copy_(compute())
            return results[0]

        return play

    monkeypatch.setattr(
        "xtts_core.model.decoder.Transformer", partial(Transformer, repeat=recorded)
    )
    decoder = Decoder(load_model(tiny_dir).gpt, slots=3, precision="float32")
    together = drawn_by_turns(decoder, requests(tiny_dir, voice))
    for number, request in enumerate(requests(tiny_dir, voice)):
        assert_alike([list(decoder.decode(request))], [together[number]], 1e-5)
    assert len(results) == 1


def test_what_is_no_number_in_a_place_does_not_reach_its_next_request(
    tiny_dir: Path, voice: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "xtts_core.model.decoder.Transformer", partial(Transformer, repeat=as_it_is)
    )
    decoder = Decoder(load_model(tiny_dir).gpt, slots=1, precision="float32")
    expected = list(decoder.decode(requests(tiny_dir, voice)[1]))
    damaged = requests(tiny_dir, voice)[0]
    damaged.gpt_cond = torch.full_like(voice.gpt_cond, torch.nan)
    with pytest.raises(RuntimeError):
        list(decoder.decode(damaged))
    assert_alike([list(decoder.decode(requests(tiny_dir, voice)[1]))], [expected], 1e-5)


def test_models_that_come_and_go_on_cuda_do_not_disturb_each_other(
    cuda: str, tiny_dir: Path, voice: Latents
) -> None:
    models = [
        Decoder(load_model(tiny_dir, cuda).gpt, slots=3, precision="float16") for _ in range(2)
    ]
    expected, _ = (drawn_by_turns(model, requests(tiny_dir, voice, cuda)) for model in models)
    del models[1]
    gc.collect()
    torch.cuda.empty_cache()
    assert_alike(drawn_by_turns(models[0], requests(tiny_dir, voice, cuda)), expected, 0)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_cuda_graph_draws_what_is_drawn_without_one(
    cuda: str, tiny_dir: Path, voice: Latents, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for repeat in (as_it_is, as_cuda_graph):
        monkeypatch.setattr(
            "xtts_core.model.decoder.Transformer", partial(Transformer, repeat=repeat)
        )
        decoder = Decoder(load_model(tiny_dir, cuda).gpt, slots=3, precision=precision)
        drawn.append(drawn_by_turns(decoder, requests(tiny_dir, voice, cuda)))
    assert_alike(drawn[1], drawn[0], 0)

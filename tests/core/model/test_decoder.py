from __future__ import annotations

import itertools
import json
import platform
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xtts_core.errors import ModelError, RequestError
from xtts_core.model.architecture import PUBLIC_GPT
from xtts_core.model.decoder import Code, Decoder, Request
from xtts_core.model.engine import Latents
from xtts_core.model.loading import build_model, load_model
from xtts_core.model.projections import Precision, packs, project
from xtts_core.model.sampling import Sampling, drawing
from xtts_core.model.tokenizer import Tokenizer

TEXTS = (
    "a feira abre às seis horas.",
    "quem chega primeiro encontra as melhores frutas e paga menos.",
    "sim.",
    "depois do almoço a rua fica vazia, e só os gatos passeiam.",
    "quanto custa?",
)
PACKED: tuple[Precision, ...] = ("float16", "int8") if packs() else ()
"""Only x86 has them; a test below holds that it does."""
EXACT: tuple[Precision, ...] = ("float32", *PACKED) if packs() else ()
"""In these a row of a product is the same to the last bit, however many there are."""


class GoneError(Exception):
    """The caller went away."""


@pytest.fixture(scope="module")
def tokens(tiny_dir: Path) -> list[list[int]]:
    tokenizer = Tokenizer.load(tiny_dir)
    return [tokenizer.encode(text, "pt") for text in TEXTS]


@pytest.fixture
def gpt(tiny_dir: Path) -> Any:
    return load_model(tiny_dir).gpt


@pytest.fixture
def ask(tokens: list[list[int]], voice: Latents) -> Callable[..., Request]:
    """A request for one of the texts; each has its own way of drawing."""

    def make(number: int, *, check: Callable[[], None] = lambda: None, **asked: Any) -> Request:
        settings = {
            "temperature": 0.6 + 0.2 * number,
            "top_k": 10 + 20 * number,
            "top_p": 0.8 + 0.04 * number,
            "repetition_penalty": 1.0 + number,
        }
        sampling = Sampling(**{**settings, **asked})
        return Request(
            tokens=tokens[number],
            gpt_cond=voice.gpt_cond,
            draw=drawing(sampling, torch.Generator().manual_seed(number)),
            at_least=0,
            limit=40,
            penalise_prefix=sampling.penalise_prefix,
            check=check,
        )

    return make


def codes(drawn: Iterator[Code]) -> list[int]:
    return [code for code, _ in drawn]


def coqui_codes(
    gpt: Any, tokens: list[int], gpt_cond: Tensor, penalty: float, most: int
) -> list[int]:
    """coqui-tts's own greedy decoding, up to `most` codes."""
    gpt.init_gpt_for_inference()
    gpt.eval()
    with torch.inference_mode():
        spoken = gpt.generate(
            cond_latents=gpt_cond,
            text_inputs=torch.tensor([tokens]),
            do_sample=False,
            num_beams=1,
            repetition_penalty=penalty,
            max_new_tokens=most,
        )
    return [int(code) for code in spoken[0]]


@pytest.mark.parametrize("penalty", [1.0, 2.0, 10.0])
def test_greedy_codes_are_those_of_coqui(
    gpt: Any,
    tiny_dir: Path,
    tokens: list[list[int]],
    ask: Callable[..., Request],
    voice: Latents,
    penalty: float,
) -> None:
    decoder = Decoder(gpt, slots=2, precision="float32")
    theirs = load_model(tiny_dir).gpt
    for number in range(len(TEXTS)):
        request = ask(number, top_k=1, repetition_penalty=penalty)
        expected = coqui_codes(theirs, tokens[number], voice.gpt_cond, penalty, request.limit)
        assert codes(decoder.decode(request)) == expected


def test_greedy_codes_at_the_public_size_are_those_of_coqui(
    tiny_dir: Path, tmp_path: Path, tokens: list[list[int]]
) -> None:
    for name in ("vocab.json", "architecture.json"):
        shutil.copy(tiny_dir / name, tmp_path)
    config = json.loads((tiny_dir / "config.json").read_text(encoding="utf-8"))
    config["model_args"] |= PUBLIC_GPT
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        gpt = build_model(tmp_path).gpt.eval()
        gpt_cond = torch.randn(1, 32, 1_024)
    expected = coqui_codes(gpt, tokens[1], gpt_cond, 10.0, 8)
    greedy = drawing(Sampling(top_k=1), torch.Generator())
    precisions: tuple[Precision | None, ...] = (None, "float32")
    for precision in precisions:
        decoder = Decoder(gpt, slots=1, precision=precision)
        request = Request(tokens[1], gpt_cond, greedy, 0, 8, True, lambda: None)
        assert codes(decoder.decode(request)) == expected


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16", *PACKED])
def test_a_request_gets_the_same_codes_alone_and_in_a_crowd_that_comes_and_goes(
    tiny_dir: Path, ask: Callable[..., Request], precision: Precision | None
) -> None:
    decoder = Decoder(load_model(tiny_dir).gpt, slots=3, precision=precision)
    alone = [list(decoder.decode(ask(number))) for number in range(len(TEXTS))]
    crowd = [decoder.decode(ask(number)) for number in range(len(TEXTS))]
    together: list[list[Code]] = [[] for _ in TEXTS]
    for turn in itertools.count():
        # One more joins at every third turn; five share three places.
        for number in range(min(len(TEXTS), 1 + turn // 3)):
            together[number] += itertools.islice(crowd[number], 1)
        if [len(row) for row in together] == [len(row) for row in alone]:
            break
    assert [codes(iter(row)) for row in together] == [codes(iter(row)) for row in alone]
    for ours, theirs in zip(together, alone, strict=True):
        for (_, latent), (_, other) in zip(ours, theirs, strict=True):
            apart = 0 if precision in EXACT else 1e-5
            torch.testing.assert_close(latent, other, atol=apart, rtol=0)


def test_requests_of_one_batch_share_its_steps(gpt: Any, ask: Callable[..., Request]) -> None:
    decoder = Decoder(gpt, slots=3, precision="float32")
    crowd = [decoder.decode(ask(number)) for number in (0, 1, 3)]
    for request in crowd:
        next(request)
    drawn = [1 + len(codes(request)) for request in crowd]
    # The first code of each comes from its prompt.
    assert decoder.steps == max(drawn) - 1


def test_a_caller_that_opens_more_requests_than_there_are_places_gets_all(
    gpt: Any, ask: Callable[..., Request]
) -> None:
    decoder = Decoder(gpt, slots=2, precision="float32")
    crowd = [decoder.decode(ask(number)) for number in range(len(TEXTS))]
    for request in crowd:
        next(request)
    assert all(codes(request) for request in crowd)


def test_a_request_that_is_left_frees_its_place(gpt: Any, ask: Callable[..., Request]) -> None:
    decoder = Decoder(gpt, slots=1, precision="float32")
    expected = codes(decoder.decode(ask(1)))
    left = decoder.decode(ask(0))
    next(left)
    left.close()
    steps = decoder.steps
    assert codes(decoder.decode(ask(1))) == expected
    assert decoder.steps - steps == len(expected) - 1


def test_a_request_that_is_left_during_a_step_is_over(
    gpt: Any, ask: Callable[..., Request]
) -> None:
    decoder = Decoder(gpt, slots=2, precision="float32")
    drawn = 0
    leaving, staying = ask(0), ask(1)
    draw_one, draw_other = leaving.draw, staying.draw

    def count(spoken: Tensor, logits: Tensor) -> Tensor:
        nonlocal drawn
        drawn += 1
        return draw_one(spoken, logits)

    def leave(spoken: Tensor, logits: Tensor) -> Tensor:
        left.close()
        return draw_other(spoken, logits)

    leaving.draw, staying.draw = count, leave
    left = decoder.decode(leaving)
    next(left)
    codes(decoder.decode(staying))
    assert drawn == 1


def test_codes_that_another_thread_adds_while_a_request_looks_are_not_lost(
    gpt: Any, ask: Callable[..., Request]
) -> None:
    decoder = Decoder(gpt, slots=2, precision="float32")
    expected = codes(decoder.decode(ask(0)))
    neighbour = decoder.decode(ask(1))

    class Watched(deque[Code]):
        def __len__(self) -> int:
            before = super().__len__()
            if not before:
                # What follows this look happens in another thread.
                list(neighbour)
            return before

    request = decoder.decode(ask(0))
    first = next(request).code
    row = decoder._rows[0]
    row.ready = Watched(row.ready)
    assert [first, *codes(request)] == expected


def test_a_request_whose_draw_fails_ends_alone_with_its_reason(
    gpt: Any, ask: Callable[..., Request]
) -> None:
    decoder = Decoder(gpt, slots=2, precision="float32")
    expected = codes(decoder.decode(ask(1)))
    failing = ask(0)

    def fail(spoken: Tensor, logits: Tensor) -> Tensor:
        raise IndexError("no such code")

    first = decoder.decode(ask(1))
    begun = next(first).code
    broken = decoder.decode(failing)
    next(broken)
    failing.draw = fail
    assert [begun, *codes(first)] == expected
    with pytest.raises(IndexError, match="no such code"):
        list(broken)


def test_a_request_whose_caller_went_away_is_not_moved_on(
    gpt: Any, ask: Callable[..., Request]
) -> None:
    decoder = Decoder(gpt, slots=2, precision="float32")
    gone = False

    def check() -> None:
        if gone:
            raise GoneError

    asked = ask(0, check=check)
    drawn: list[bool] = []
    draw = asked.draw

    def counted(spoken: Tensor, logits: Tensor) -> Tensor:
        drawn.append(gone)
        return draw(spoken, logits)

    asked.draw = counted
    leaving, staying = decoder.decode(asked), decoder.decode(ask(1))
    next(leaving)
    next(staying)
    gone = True
    codes(staying)
    with pytest.raises(GoneError):
        list(leaving)
    assert drawn
    assert not any(drawn)


@pytest.mark.parametrize("precision", ["float32", *PACKED])
def test_a_caller_that_goes_away_within_a_step_changes_nothing_for_the_others(
    gpt: Any, ask: Callable[..., Request], precision: Precision
) -> None:
    decoder = Decoder(gpt, slots=2, precision=precision)
    expected = codes(decoder.decode(ask(1)))
    looks = itertools.count()
    steps = None

    def check() -> None:
        if steps == decoder.steps - 1 and next(looks) == 1:
            raise GoneError

    leaving, staying = decoder.decode(ask(0, check=check)), decoder.decode(ask(1))
    begun = [next(leaving), next(staying)][1].code
    steps = decoder.steps
    with pytest.raises(GoneError):
        list(leaving)
    assert decoder.steps == steps + 1
    assert next(looks) == 2, "it went away at the second layer"
    assert [begun, *codes(staying)] == expected


def test_a_request_with_damaged_conditioning_ends_alone(
    gpt: Any, ask: Callable[..., Request], voice: Latents
) -> None:
    decoder = Decoder(gpt, slots=2, precision="float32")
    expected = codes(decoder.decode(ask(1)))
    damaged = ask(0)
    damaged.gpt_cond = torch.full_like(voice.gpt_cond, torch.nan)
    first, second = decoder.decode(ask(1)), decoder.decode(damaged)
    started = next(first).code
    with pytest.raises(RuntimeError):
        list(second)
    assert [started, *codes(first)] == expected


@pytest.mark.parametrize("precision", PACKED)
def test_a_voice_that_was_heard_before_speaks_as_it_did(
    gpt: Any, ask: Callable[..., Request], voice: Latents, precision: Precision
) -> None:
    decoder = Decoder(gpt, slots=1, precision=precision)
    first, again = (list(decoder.decode(ask(1))) for _ in range(2))
    assert codes(iter(again)) == codes(iter(first))
    for (_, latent), (_, other) in zip(first, again, strict=True):
        torch.testing.assert_close(latent, other, atol=1e-5, rtol=0)
    other_voice = ask(1)
    other_voice.gpt_cond = -3 * voice.gpt_cond
    assert codes(decoder.decode(other_voice)) != codes(iter(first))


def test_more_voices_than_are_kept_speak_all(gpt: Any, ask: Callable[..., Request]) -> None:
    decoder = Decoder(gpt, slots=1, precision="float32")
    request = ask(2)
    for number in range(20):
        request.gpt_cond = request.gpt_cond + number
        assert next(decoder.decode(request)).latent.isfinite().all()
    assert len(decoder._transformer._voices._known) == 16


def test_the_penalty_on_the_prefix_can_be_left_out(gpt: Any, ask: Callable[..., Request]) -> None:
    with torch.no_grad():
        gpt.mel_head.bias[1] = 5.0
    decoder = Decoder(gpt, slots=1, precision=None)
    first = {
        prefix: next(
            decoder.decode(ask(0, top_k=1, repetition_penalty=20.0, penalise_prefix=prefix))
        ).code
        for prefix in (True, False)
    }
    assert first[False] == 1
    assert first[True] != 1


def test_a_sentence_of_too_many_tokens_is_refused(gpt: Any, ask: Callable[..., Request]) -> None:
    request = ask(0)
    request.tokens = [5] * gpt.max_text_tokens
    with pytest.raises(RequestError, match="shorter sentences"):
        next(Decoder(gpt, slots=1, precision=None).decode(request))


def test_an_x86_processor_has_every_precision() -> None:
    assert packs() == (platform.machine() in {"x86_64", "AMD64"})


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_weights_that_a_processor_cannot_pack_are_refused_with_the_remedy(
    gpt: Any, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    monkeypatch.setattr("xtts_core.model.projections.packs", lambda: False)
    with pytest.raises(ModelError, match="auto, float32 or bfloat16"):
        Decoder(gpt, slots=1, precision=precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", *PACKED])
def test_weights_of_any_precision_give_each_row_its_own_product(precision: Precision) -> None:
    error = {"float32": 1e-5, "bfloat16": 0.01, "float16": 1e-3, "int8": 0.03}[precision]
    from transformers.pytorch_utils import Conv1D

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Conv1D(3_072, 1_024)
        rows = torch.randn(47, 1_024) * torch.logspace(-2, 2, 47)[:, None]
    packed = project(module, precision)
    with torch.inference_mode():
        exact, ours = module(rows), packed(rows)
        alone = torch.cat([packed(row[None]) for row in rows])
    bias = module.bias.detach()
    relative = (ours - exact).norm(dim=1) / (exact - bias).norm(dim=1)
    assert relative.max() < error
    apart = 0 if precision in EXACT else {"bfloat16": 2**-7}.get(precision, 1e-5)
    torch.testing.assert_close(ours, alone, atol=apart, rtol=apart)


def test_a_packed_decoder_takes_the_weights_out_of_the_model(gpt: Any) -> None:
    before = sum(parameter.numel() for parameter in gpt.gpt.parameters())
    Decoder(gpt, slots=1, precision="float32")
    assert sum(parameter.numel() for parameter in gpt.gpt.parameters()) < 0.1 * before

"""The vocoder beside coqui-tts's own, at the public size and at `tiny`'s, whole and in pieces."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from TTS.tts.layers.xtts.hifigan_decoder import HifiDecoder

from xtts_core.model.loading import load_model
from xtts_core.model.streaming import frame_count, frames_between, vocode
from xtts_core.model.vocoder import Vocoder, _Folded

TOLERANCE = 1e-5
"""Of the peak."""


@pytest.fixture(scope="module")
def public() -> Any:
    """The public size with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return HifiDecoder().eval()


@pytest.fixture(scope="module")
def small(tiny_dir: Path) -> Any:
    return load_model(tiny_dir).hifigan_decoder


@pytest.fixture(params=["public", "small"])
def decoder(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def channels_of(decoder: Any) -> int:
    return int(decoder.waveform_decoder.conv_pre.in_channels)


def one_by_one(latents: Tensor) -> Iterator[Tensor]:
    return iter(torch.split(latents, 1, dim=1))


def unwatched() -> None:
    pass


@torch.inference_mode()
def coqui_audio(decoder: Any, latents: Tensor, speaker: Tensor, speed: float) -> Tensor:
    """What coqui-tts's `inference` makes of latents [1, n, channels]."""
    faster = functional.interpolate(latents.transpose(1, 2), scale_factor=1 / speed, mode="linear")
    wave: Tensor = decoder(faster.transpose(1, 2), g=speaker)[0, 0]
    return wave


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    peak = theirs.abs().max()
    assert 1e-4 < peak < 0.99
    assert (ours - theirs).abs().max() < TOLERANCE * peak


@pytest.mark.parametrize("n", [1, 12, 94])
def test_the_audio_is_that_of_coqui(decoder: Any, n: int) -> None:
    frames, speaker = drawn(1, channels_of(decoder), n), drawn(1, 512, 1)
    ours = Vocoder(decoder)(frames, speaker, unwatched)
    with torch.inference_mode():
        theirs = decoder.waveform_decoder(frames, g=speaker)[0, 0]
    assert_same(ours, theirs)


@pytest.mark.parametrize("context", [(13, 13), (0, 13), (13, 0), (20, 14)])
def test_frames_of_context_give_no_audio_and_change_none(
    decoder: Any, context: tuple[int, int]
) -> None:
    frames, speaker = drawn(1, channels_of(decoder), 60), drawn(1, 512, 1)
    vocoder = Vocoder(decoder)
    whole = vocoder(frames, speaker, unwatched)
    inside = vocoder(frames, speaker, unwatched, context)
    left, right = (side * vocoder.hop_length for side in context)
    assert_same(inside, whole[left : len(whole) - right])


def test_residual_blocks_of_the_second_type_sound_like_coqui() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        decoder = HifiDecoder(
            decoder_input_dim=16,
            resblock_type_decoder="2",
            resblock_dilation_sizes_decoder=[[1, 3], [1, 3]],
            resblock_kernel_sizes_decoder=[3, 5],
            upsample_initial_channel_decoder=32,
            cond_d_vector_in_each_upsampling_layer=False,
        ).eval()
    frames, speaker = drawn(1, 16, 20), drawn(1, 512, 1)
    with torch.inference_mode():
        theirs = decoder.waveform_decoder(frames, g=speaker)[0, 0]
    assert_same(Vocoder(decoder)(frames, speaker, unwatched), theirs)


def test_a_live_decoder_is_left_as_it_is(decoder: Any) -> None:
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    vocoder = Vocoder(decoder)
    vocoder(drawn(1, channels_of(decoder), 4), drawn(1, 512, 1), unwatched)
    after = decoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in decoder.waveform_decoder.parameters())


def test_elsewhere_than_on_a_cpu_the_vocoder_is_a_folded_copy_of_coquis(small: Any) -> None:
    frames, speaker = drawn(1, channels_of(small), 40), drawn(1, 512, 1)
    names = list(small.state_dict())
    folded = _Folded(small.waveform_decoder, small.output_hop_length)
    with torch.inference_mode():
        theirs = small.waveform_decoder(frames, g=speaker)[0, 0]
        assert_same(folded(frames, speaker, unwatched, (0, 0)), theirs)
        hop = small.output_hop_length
        assert_same(folded(frames, speaker, unwatched, (3, 2)), theirs[3 * hop : -2 * hop])
    assert list(small.state_dict()) == names


def test_later_changes_of_a_live_decoder_are_not_heard() -> None:
    decoder: Any = HifiDecoder(decoder_input_dim=16, upsample_initial_channel_decoder=32).eval()
    vocoder = Vocoder(decoder)
    frames, speaker = drawn(1, 16, 5), drawn(1, 512, 1)
    before = vocoder(frames, speaker, unwatched)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
    assert torch.equal(vocoder(frames, speaker, unwatched), before)


def test_a_decoder_that_is_taken_keeps_its_speaker_encoder_alone(tiny_dir: Path) -> None:
    taken: Any = load_model(tiny_dir).hifigan_decoder
    frames, speaker = drawn(1, channels_of(taken), 5), drawn(1, 512, 1)
    expected = Vocoder(taken)(frames, speaker, unwatched)
    vocoder = Vocoder(taken, take=True)
    assert {name.split(".")[0] for name in taken.state_dict()} == {"speaker_encoder"}
    assert torch.equal(vocoder(frames, speaker, unwatched), expected)


class CancelledError(Exception):
    pass


def test_a_call_stops_where_the_check_raises(decoder: Any) -> None:
    vocoder = Vocoder(decoder)
    frames, speaker = drawn(1, channels_of(decoder), 12), drawn(1, 512, 1)
    convolutions = sum(isinstance(m, torch.nn.Conv1d) for m in decoder.modules())
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise CancelledError

    limit = -1
    vocoder(frames, speaker, count)
    speaker_layers = 1 + len(decoder.waveform_decoder.ups)
    assert calls >= convolutions - speaker_layers
    for limit in (1, calls // 2, calls):
        calls = 0
        with pytest.raises(CancelledError):
            vocoder(frames, speaker, count)
        assert calls == limit


SCALES = (4.0, 24_000 / 22_050)


@pytest.mark.parametrize("speed", [0.5, 0.77, 0.8, 1.0, 1.3, 1.7, 2.0])
@pytest.mark.parametrize("n", [5, 147, 605])
def test_frames_of_a_window_are_those_of_all_latents(speed: float, n: int) -> None:
    scales = (1 / speed, *SCALES)
    latents = drawn(1, 3, n)
    whole = latents
    for scale in scales:
        whole = functional.interpolate(whole, scale_factor=scale, mode="linear")
    assert frame_count(n, scales) == whole.shape[-1]
    torch.testing.assert_close(
        frames_between(latents, 0, n, scales, 0, whole.shape[-1]), whole, rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("speed", [0.5, 0.77, 1.0, 1.3, 2.0])
@pytest.mark.parametrize(("start", "stop"), [(0, 9), (31, 60), (150, 151)])
def test_latents_outside_the_window_are_not_touched(speed: float, start: int, stop: int) -> None:
    n, scales = 120, (1 / speed, *SCALES)
    latents = drawn(1, 3, n)
    expected = frames_between(latents, 0, n, scales, 0, frame_count(n, scales))[:, :, start:stop]
    per_latent = scales[0] * SCALES[0] * SCALES[1]
    low = max(0, int(start / per_latent) - 3)
    high = int(stop / per_latent) + 4
    holed = torch.full_like(latents, torch.nan)
    holed[:, :, low:high] = latents[:, :, low:high]
    assert torch.equal(frames_between(holed, 0, n, scales, start, stop), expected)
    window = latents[:, :, low:high]
    assert torch.equal(frames_between(window, low, n, scales, start, stop), expected)


class Counted:
    """A vocoder that writes down how many frames it was given."""

    def __init__(self, vocoder: Vocoder) -> None:
        self._vocoder = vocoder
        self.scales = vocoder.scales
        self.frames: list[int] = []

    def __call__(
        self, frames: Tensor, speaker: Tensor, check: Any, context: tuple[int, int] = (0, 0)
    ) -> Tensor:
        self.frames.append(frames.shape[-1])
        return self._vocoder(frames, speaker, check, context)


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.3, 2.0])
@pytest.mark.parametrize(("first", "following"), [(1, 1), (8, 20), (64, 64), (500, 500)])
def test_the_pieces_joined_are_coquis_whole(
    small: Any, speed: float, first: int, following: int
) -> None:
    latents, speaker = drawn(1, 90, channels_of(small)), drawn(1, 512, 1)
    pieces = list(
        vocode(
            Vocoder(small),
            one_by_one(latents),
            speaker,
            speed,
            first=first,
            following=following,
            check=unwatched,
        )
    )
    assert all(piece.dtype == np.float32 and len(piece) for piece in pieces)
    ours = torch.from_numpy(np.concatenate(pieces))
    assert_same(ours, coqui_audio(small, latents, speaker, speed))


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.3])
def test_the_pieces_of_the_public_vocoder_joined_are_coquis_whole(
    public: Any, speed: float
) -> None:
    latents, speaker = drawn(1, 30, 1_024), drawn(1, 512, 1)
    pieces = list(
        vocode(
            Vocoder(public),
            one_by_one(latents),
            speaker,
            speed,
            first=6,
            following=10,
            check=unwatched,
        )
    )
    assert len(pieces) >= 3
    ours = torch.from_numpy(np.concatenate(pieces))
    assert_same(ours, coqui_audio(public, latents, speaker, speed))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_sound_of_a_few_latents_is_coquis(small: Any, n: int) -> None:
    latents, speaker = drawn(1, n, channels_of(small)), drawn(1, 512, 1)
    (piece,) = vocode(
        Vocoder(small),
        one_by_one(latents),
        speaker,
        1.0,
        first=1,
        following=1,
        check=unwatched,
    )
    assert_same(torch.from_numpy(piece), coqui_audio(small, latents, speaker, 1.0))


def test_latents_too_few_for_one_frame_give_no_audio(small: Any) -> None:
    latents, speaker = drawn(1, 1, channels_of(small)), drawn(1, 512, 1)
    for some in ([], [latents]):
        pieces = vocode(
            Vocoder(small), iter(some), speaker, 2.0, first=1, following=1, check=unwatched
        )
        assert list(pieces) == []


def test_a_piece_comes_as_soon_as_its_latents_allow(small: Any) -> None:
    taken = 0

    def latents() -> Iterator[Tensor]:
        nonlocal taken
        for latent in one_by_one(drawn(1, 60, channels_of(small))):
            taken += 1
            yield latent

    arrivals = [
        taken
        for _ in vocode(
            Vocoder(small),
            latents(),
            drawn(1, 512, 1),
            1.0,
            first=8,
            following=20,
            check=unwatched,
        )
    ]
    assert arrivals == [8, 28, 48, 60]


def test_every_piece_costs_the_same_however_much_came_before(small: Any) -> None:
    counted = Counted(Vocoder(small))
    latents = drawn(1, 400, channels_of(small))
    for _ in vocode(
        counted,
        one_by_one(latents),
        drawn(1, 512, 1),
        1.0,
        first=20,
        following=20,
        check=unwatched,
    ):
        pass
    per_piece = 20 * SCALES[0] * SCALES[1]
    assert len(counted.frames) > 18
    assert max(counted.frames) <= per_piece + 4 * 13


def test_latents_that_are_no_longer_needed_are_let_go(small: Any) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def latents() -> Iterator[Tensor]:
        for number in range(200):
            latent = torch.full((1, 1, channels_of(small)), float(number % 5))
            alive.append(weakref.ref(latent))
            yield latent

    most = 0
    for _ in vocode(
        Vocoder(small),
        latents(),
        drawn(1, 512, 1),
        1.0,
        first=10,
        following=10,
        check=unwatched,
    ):
        most = max(most, sum(reference() is not None for reference in alive))
    assert most <= 10 + 2 * 10


def test_a_stream_stops_where_the_check_raises(small: Any) -> None:
    def stop() -> None:
        raise CancelledError

    pieces = vocode(
        Vocoder(small),
        one_by_one(drawn(1, 20, channels_of(small))),
        drawn(1, 512, 1),
        1.0,
        first=5,
        following=5,
        check=stop,
    )
    with pytest.raises(CancelledError):
        next(pieces)

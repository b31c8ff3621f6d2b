"""From the GPT's latents to audio: coqui-tts's HiFiGAN with the same numbers for fewer operations.

On a CPU the vocoder costs 58 GFLOP per second of audio, nearly all of it in the convolutions of
its residual blocks. Signals are kept as rows of channels [time, channels], in which oneDNN's direct
convolution reaches a machine's peak; where there are enough channels, a convolution is computed
from products at a few points (Toom-Cook, Winograd), with two to four times fewer operations.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from xtts_core.model.turns import Turns

Matrix = NDArray[np.float64]

_SLOPE = 0.1
_LAST_SLOPE = 0.01
"""Slopes of the leaky ReLUs: inside and before the last convolution (coqui-tts and its F's default,
`hifigan_generator.py`)."""


@dataclass(frozen=True)
class _Points:
    """Where a short convolution's polynomials are multiplied: all `roots`-th roots of unity, 0,
    infinity and `others`. A pair of complex roots costs three products, the rest one each."""

    roots: int
    others: tuple[float, ...]
    channels: int
    """From how many channels on the products that it saves outweigh its transforms."""


_POINTS = {
    3: _Points(2, (2.0, -2.0), channels=128),
    7: _Points(8, (1.5, -1.5, 1 / 1.5, -1 / 1.5), channels=64),
    11: _Points(16, (1.5, -1.5, 1 / 1.5, -1 / 1.5), channels=64),
}
"""By kernel size: at 128 channels 1.9, 2.8 and 3.6 times fewer operations, transforms included;
where they begin to pay was measured with AVX2 and two threads. Any other convolution is computed
directly. Beside float64 the audio is as exact as coqui-tts's own, to 2e-6 of the peak."""

_ROWS = 512
"""Rows of products at a time: fewer spend more on starting threads, more leave the cache."""


class Vocoder:
    """coqui-tts's `HifiDecoder.waveform_decoder`, folded and on a CPU faster.

    Calls from several threads do not disturb each other. Later changes of the decoder's weights
    are not seen.

    Args:
        decoder: coqui-tts's `HifiDecoder` of any size, on its device.
        take: nobody else needs `decoder.waveform_decoder`, so it is removed to save its memory;
            else the decoder is left as it is.
        turns: who may compute on this machine (None: this vocoder alone).

    Attributes:
        hop_length: samples per frame.
        scales: the linear resamplings from latents to frames, one after the other.
    """

    def __init__(self, decoder: Any, *, take: bool = False, turns: Turns | None = None) -> None:
        self._turns = turns or Turns()
        self.hop_length: int = decoder.output_hop_length
        self.scales: tuple[float, ...] = (
            decoder.ar_mel_length_compression / decoder.output_hop_length,
            decoder.output_sample_rate / decoder.input_sample_rate,
        )
        generator = decoder.waveform_decoder
        on_cpu = generator.conv_pre.weight.device.type == "cpu"
        with torch.no_grad():
            self._generate = (
                _Generator(generator) if on_cpu else _Folded(generator, self.hop_length)
            )
        if take:
            del decoder.waveform_decoder

    @torch.inference_mode()
    def __call__(
        self,
        frames: Tensor,
        speaker: Tensor,
        check: Callable[[], None],
        context: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """The audio of frames.

        Args:
            frames: shape [1, channels, n].
            speaker: shape [1, 512, 1].
            check: called before every convolution; what it raises ends the call.
            context: how many of the first and of the last frames are only there for the others:
                they give no audio, and little is computed for them.

        Returns:
            Shape [(n - sum(context)) * hop_length], between -1 and 1.
        """
        with self._turns.take(check):
            return self._generate(frames, speaker, check, context)


class _Folded:
    """The vocoder as it is, with its weight norm computed once: coqui-tts's own
    `remove_weight_norm` raises on it."""

    def __init__(self, generator: Any, hop_length: int) -> None:
        self._generator = copy.deepcopy(generator)
        self._hop_length = hop_length
        for module in self._generator.modules():
            if parametrize.is_parametrized(module, "weight"):
                # torch's `remove_parametrizations` would change the class, which a copy shares.
                weight = module.weight.detach().clone()
                del module.parametrizations
                module.__class__ = module.__class__.__base__
                module.weight = nn.Parameter(weight, requires_grad=False)

    def __call__(
        self,
        frames: Tensor,
        speaker: Tensor,
        check: Callable[[], None],
        context: tuple[int, int],
    ) -> Tensor:
        check()
        wave: Tensor = self._generator(frames, g=speaker)[0, 0]
        left, right = context
        return wave[left * self._hop_length : (frames.shape[-1] - right) * self._hop_length]


class _Generator:
    """`HifiganGenerator.forward` on rows of channels.

    The mean over a stage's residual blocks is left to the weights after it: a leaky ReLU
    commutes with a positive factor.
    """

    def __init__(self, generator: Any) -> None:
        blocks = len(generator.resblocks) // len(generator.ups)
        self._before = _Direct(generator.conv_pre)
        self._speaker = _Linear(generator.cond_layer)
        self._stages = [
            _Stage(
                _Upsampling(up, 1 if number == 0 else 1 / blocks),
                _Linear(generator.conds[number]) if generator.cond_in_each_up_layer else None,
                [
                    _residual_block(block)
                    for block in generator.resblocks[number * blocks : (number + 1) * blocks]
                ],
            )
            for number, up in enumerate(generator.ups)
        ]
        self._after = _Direct(generator.conv_post, 1 / blocks)
        # From the last convolution back: the rows that each stage must be given around those
        # that are asked for.
        reach = self._after.reach
        self._reaches: list[int] = []
        for stage in reversed(self._stages):
            reach = stage.up.reach(reach + max(block.reach for block in stage.blocks))
            self._reaches.insert(0, reach)

    def __call__(
        self,
        frames: Tensor,
        speaker: Tensor,
        check: Callable[[], None],
        context: tuple[int, int],
    ) -> Tensor:
        vector = speaker[0, :, 0]
        check()
        rows = self._before(frames[0].t().contiguous()).add_(self._speaker(vector))
        left, right = context
        for stage, reach in zip(self._stages, self._reaches, strict=True):
            rows = rows[max(0, left - reach) : len(rows) - max(0, right - reach)]
            left, right = (min(side, reach) * stage.up.stride for side in (left, right))
            check()
            rows = stage.up(rows, None if stage.speaker is None else stage.speaker(vector))
            total = torch.zeros_like(rows)
            for block in stage.blocks:
                block(rows, total, check)
            rows = total
        check()
        rows = self._after(functional.leaky_relu_(rows, _LAST_SLOPE))
        return rows[left : len(rows) - right, 0].tanh()


@dataclass(frozen=True)
class _Stage:
    up: _Upsampling
    speaker: _Linear | None
    blocks: list[_DirectBlock | _ShortBlock]


class _Linear:
    """A convolution of kernel size 1 on one vector."""

    def __init__(self, conv: nn.Conv1d) -> None:
        self._weight = conv.weight[:, :, 0].clone()
        self._bias = None if conv.bias is None else conv.bias.clone()

    def __call__(self, vector: Tensor) -> Tensor:
        return functional.linear(vector, self._weight, self._bias)


class _Direct:
    """A convolution of rows [time, channels] that keeps their number."""

    def __init__(self, conv: nn.Conv1d, factor: float = 1.0) -> None:
        self._weight = (conv.weight * factor)[:, :, None].to(memory_format=torch.channels_last)
        self._bias = None if conv.bias is None else conv.bias.clone()
        (self._dilation,) = conv.dilation
        self.reach = self._dilation * (conv.kernel_size[0] - 1) // 2

    def __call__(self, rows: Tensor) -> Tensor:
        n, channels = rows.shape
        # An image of one line: oneDNN takes rows of channels as they are in two dimensions only.
        image = rows.as_strided((1, channels, 1, n), (rows.numel(), 1, rows.numel(), channels))
        convolved = functional.conv2d(
            image,
            self._weight,
            self._bias,
            padding=(0, self.reach),
            dilation=(1, self._dilation),
        )
        return convolved[0, :, 0].t().contiguous()


class _Upsampling:
    """A transposed convolution of the leaky ReLU of rows, by one product per tap and stride."""

    def __init__(self, conv: nn.ConvTranspose1d, factor: float) -> None:
        (self.stride,), (self._kernel,) = conv.stride, conv.kernel_size
        self._crop = int(conv.padding[0])
        taps = -(-self._kernel // self.stride)
        weight = functional.pad(conv.weight * factor, (0, taps * self.stride - self._kernel))
        inputs, outputs, _ = weight.shape
        self._weights = [
            part.permute(0, 2, 1).reshape(inputs, self.stride * outputs).contiguous()
            for part in torch.split(weight, self.stride, dim=2)
        ]
        self._bias = conv.weight.new_zeros(outputs) if conv.bias is None else conv.bias.clone()

    def reach(self, rows: int) -> int:
        """The rows beyond an edge that `rows` upsampled ones beyond it are made of."""
        before = (rows - self._crop + self._kernel - 1) // self.stride
        after = (rows - 1 + self._crop) // self.stride + 1
        return max(before, after)

    def __call__(self, rows: Tensor, offset: Tensor | None) -> Tensor:
        n, channels = rows.shape
        more = len(self._weights) - 1
        padded = rows.new_zeros(n + 2 * more, channels)
        torch.ops.aten.leaky_relu.out(rows, _SLOPE, out=padded[more : more + n])
        bias = (self._bias if offset is None else self._bias + offset).repeat(self.stride)
        risen = torch.addmm(bias, padded[more:], self._weights[0])
        for tap, weight in enumerate(self._weights[1:], 1):
            risen.addmm_(padded[more - tap : len(padded) - tap], weight)
        length = (n - 1) * self.stride - 2 * self._crop + self._kernel
        return risen.view(-1, len(self._bias))[self._crop : self._crop + length]


def _residual_block(block: Any) -> _DirectBlock | _ShortBlock:
    """coqui-tts's `ResBlock1` or `ResBlock2`, by the cheaper method."""
    if not hasattr(block, "convs1"):
        return _DirectBlock([(conv,) for conv in block.convs])
    chains = list(zip(block.convs1, block.convs2, strict=True))
    points = _POINTS.get(chains[0][0].kernel_size[0])
    if points is None or chains[0][0].out_channels < points.channels:
        return _DirectBlock(chains)
    return _ShortBlock(chains, points)


class _DirectBlock:
    """A residual block whose convolutions are computed as they are written."""

    def __init__(self, chains: Sequence[Sequence[nn.Conv1d]]) -> None:
        self._chains = [[_Direct(conv) for conv in chain] for chain in chains]
        self.reach = sum(conv.reach for conv in itertools.chain(*self._chains))

    def __call__(self, rows: Tensor, total: Tensor, check: Callable[[], None]) -> None:
        """Add the block's output for `rows` to `total`, both [time, channels]."""
        for chain in self._chains:
            inner = functional.leaky_relu(rows, _SLOPE)
            for number, conv in enumerate(chain):
                check()
                inner = conv(functional.leaky_relu_(inner, _SLOPE) if number else inner)
            rows = inner.add_(rows)
        total.add_(rows)


class _ShortBlock:
    """A residual block whose convolutions are multiplied at points."""

    def __init__(self, chains: Sequence[tuple[nn.Conv1d, nn.Conv1d]], points: _Points) -> None:
        transform = _Transform.at(points, chains[0][0].kernel_size[0])
        self._chains = [
            (_Short(outer, transform), _Short(inner, transform)) for outer, inner in chains
        ]
        convs = list(itertools.chain(*self._chains))
        self.reach = sum(conv.reach for conv in convs)
        self._before = max(conv.reach for conv in convs)
        self._after = max(conv.overshoot for conv in convs)
        self._scratch = max(conv.scratch for conv in convs)

    def __call__(self, rows: Tensor, total: Tensor, check: Callable[[], None]) -> None:
        """Add the block's output for `rows` to `total`, both [time, channels]."""
        n, channels = rows.shape
        padded, inner = (rows.new_zeros(self._before + n + self._after, channels) for _ in range(2))
        padded[self._before : self._before + n] = rows
        scratch = rows.new_empty(2, self._scratch)
        for first, second in self._chains:
            check()
            first(padded, inner, self._before, n, scratch, inside=True)
            check()
            second(inner, padded, self._before, n, scratch, inside=False)
        total.add_(padded[self._before : self._before + n])


@dataclass(frozen=True)
class _Transform:
    """A correlation of `taps` weights w with `inputs` values x, `outputs` values y at a time:
    y = after @ ((weights @ w) * (before @ x)), exact but for rounding.

    The transpose (S. Winograd, 1980) of a product of polynomials by their values at points. At 1
    and -1 and further roots of unity the values are well conditioned; three real products make a
    complex one.
    """

    weights: Matrix
    before: Matrix
    after: Matrix

    @classmethod
    def at(cls, points: _Points, taps: int) -> _Transform:
        singles = [1.0, -1.0, 0.0, *points.others, math.inf]
        half_turns = [2 * number / points.roots for number in range(1, points.roots // 2)]
        size = len(singles) + 2 * len(half_turns)
        outputs = size - taps + 1
        products = len(singles) + 3 * len(half_turns)

        def values(length: int) -> Matrix:
            """What takes the coefficients of a polynomial to its values at the points."""
            powers = np.arange(length)
            real = [powers == length - 1 if math.isinf(x) else x**powers for x in singles]
            turned = [np.pi * turn * powers for turn in half_turns]
            return np.array(
                [*real, *itertools.chain(*((np.cos(a), np.sin(a)) for a in turned))], np.float64
            )

        # (a + bi)(c + di) = (p - r) + (p + q)i with p = (a + b)c, q = a(d - c), r = b(c + d).
        of_weights, of_inputs = np.zeros((2, products, size))
        joined = np.zeros((size, products))
        n = len(singles)
        for matrix in (of_weights, of_inputs, joined):
            matrix[:n, :n] = np.eye(n)
        for pair in range(len(half_turns)):
            at, to = slice(n + 2 * pair, n + 2 * pair + 2), slice(n + 3 * pair, n + 3 * pair + 3)
            of_weights[to, at] = [[1, 0], [-1, 1], [1, 1]]
            of_inputs[to, at] = [[1, 1], [1, 0], [0, 1]]
            joined[at, to] = [[1, 0, -1], [1, 1, 0]]
        before = np.linalg.solve(values(size), joined).T
        after = (of_inputs @ values(outputs)).T
        # Values of like size on both sides lose the least. The first point stays as it is: a
        # bias is added there.
        balance = np.sqrt(np.abs(before).max(axis=1) / np.abs(after).max(axis=0))
        balance[0] = 1
        return cls(of_weights @ values(taps), before / balance[:, None], after * balance)


class _Short:
    """One convolution multiplied at points, on rows with zeros around them.

    A dilated convolution is one over rows of `dilation` times the channels.
    """

    def __init__(self, conv: nn.Conv1d, transform: _Transform) -> None:
        (self._dilation,), (taps,) = conv.dilation, conv.kernel_size
        channels = conv.out_channels
        self._before = torch.from_numpy(transform.before).float()
        self._after = torch.from_numpy(transform.after).float()
        spread = torch.from_numpy(transform.weights) @ conv.weight.double().flatten(0, 1).t()
        shape = (len(spread), channels, channels)
        self._weight = spread.float().view(shape).transpose(1, 2).contiguous()
        self._bias = None if conv.bias is None else conv.bias.clone()
        self._tiles = max(1, _ROWS // self._dilation)
        self.reach = self._dilation * (taps - 1) // 2
        self.overshoot = self._dilation * len(self._after) + self.reach
        self.scratch = len(spread) * self._tiles * self._dilation * channels

    def __call__(
        self, source: Tensor, target: Tensor, start: int, n: int, scratch: Tensor, *, inside: bool
    ) -> None:
        """Convolve `n` rows of `source` from `start` on.

        With `inside`, of the leaky ReLU of the rows, and the leaky ReLU of the result is put into
        `target`; else of the rows, and the result is added to it.
        """
        channels = source.shape[1]
        products, inputs = self._before.shape
        outputs = len(self._after)
        width, step = self._dilation * channels, self._dilation * outputs
        every = -(-n // step)
        for tile in range(0, every, self._tiles):
            tiles = min(self._tiles, every - tile)

            def part(half: int, count: int, tiles: int = tiles) -> Tensor:
                return scratch[half, : count * tiles * width].view(count, tiles * width)

            at = start + tile * step
            taken = part(0, inputs)
            taken.view(inputs, tiles, width).copy_(
                source.as_strided(
                    (inputs, tiles, width),
                    (width, step * channels, 1),
                    (at - self.reach) * channels,
                )
            )
            if inside:
                functional.leaky_relu_(taken, _SLOPE)
            spread = torch.mm(self._before, taken, out=part(1, products))
            multiplied = part(0, products)
            by_product = (products, tiles * self._dilation, channels)
            torch.bmm(spread.view(by_product), self._weight, out=multiplied.view(by_product))
            if self._bias is not None:
                # The first point is 1, whose value is part of every output as it is.
                multiplied.view(by_product)[0].add_(self._bias)
            result = torch.mm(self._after, multiplied, out=part(1, outputs))
            if inside:
                functional.leaky_relu_(result, _SLOPE)
            placed = result.view(outputs, tiles, width).transpose(0, 1)
            aim = target[at : at + tiles * step].view(tiles, outputs, width)
            if inside:
                aim.copy_(placed)
            else:
                aim.add_(placed)
        target[start + n :].zero_()

"""The GPT's matrix products, which take nine tenths of a decoding step, in several precisions.

Every form scales and rounds each row by itself: on x86 a request gets the same bits alone and in a
crowd with all but bfloat16. What each form takes: docs/architecture.md and
benchmarks/service/precision.py.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from xtts_core.errors import ModelError

Precision = Literal["float32", "float16", "bfloat16", "int8"]

_SEVEN_BITS = 63
"""Activations take 7 of 8 bits: without VNNI, FBGEMM adds two products of 8 bits in 16, which
overflow (pytorch/FBGEMM#125; `reduce_range` in torch.ao.quantization)."""


class Projection(Protocol):
    """x [n, in] to x @ weight + bias [n, out], float32."""

    def __call__(self, x: Tensor) -> Tensor: ...


def project(module: Any, precision: Precision) -> Projection:
    """What transformers' `Conv1D` computes, with its weight [in, out] in another precision.

    Raises:
        ModelError: the device cannot compute with this precision.
    """
    weight, bias = module.weight.detach().t(), module.bias.detach().float()
    if precision in ("float32", "bfloat16") or (weight.is_cuda and precision == "float16"):
        cast = weight.contiguous().to(getattr(torch, precision))
        return (_LaidOut if _onednn_multiplies(cast) else _Cast)(cast, bias)
    if weight.is_cuda or not packs():
        raise ModelError(
            f"{weight.device.type.upper()} cannot compute with {precision} weights here",
            where="engine.weights",
            remedy="Set it to auto, float32 or bfloat16",
        )
    return (_Int8 if precision == "int8" else _Float16)(weight.contiguous(), bias)


def cpu_precision() -> Precision:
    """What is chosen on a CPU where the settings leave it open: the fastest whose codes stay those
    of float32 (benchmarks/service/precision.py)."""
    return "float16" if packs() else "float32"


def packs() -> bool:
    """Whether torch was built with FBGEMM, which has float16 and int8 weights (x86 alone)."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def _onednn_multiplies(weight: Tensor) -> bool:
    """Whether oneDNN, where torch has it, multiplies such weights here: bfloat16 takes AVX512-BF16
    or AMX."""
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.is_cuda or not built:
        return False
    return weight.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Cast:
    """Weights and activations of one type, as torch multiplies them."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(self._weight.dtype), self._weight).float() + self._bias


class _LaidOut:
    """Weights laid out once for oneDNN. torch's own `linear` leaves float32 to MKL, which takes two
    to three times as long and rounds a row by how many there are, and lays bfloat16 out anew on
    every call."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._dtype = weight.dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise(
            x.to(self._dtype).contiguous(), self._packed, None, "none", [], ""
        )
        return product.float() + self._bias  # type: ignore[no-any-return]


class _Float16:
    """Weights of 16 bits, products in float32: what FBGEMM calls a dynamic fp16 linear."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        with _fbgemm():
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x.contiguous(), self._packed)
        return product


class _Int8:
    """Weights of 8 bits scaled by output channel, activations of 7 bits scaled by row.

    torch's own dynamic quantisation scales all rows of a batch by their common extremes. Each row
    is divided by its largest value first, so that one fixed scale fits every row.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        with _fbgemm(), warnings.catch_warnings():
            # FBGEMM takes no other tensor; torch is pinned, and a later one may do without
            # (pytorch/pytorch#184982).
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch.quantize_per_channel(
                weight, scale.double(), torch.zeros(len(scale), dtype=torch.long), 0, torch.qint8
            )
            self._packed = torch.ops.quantized.linear_prepack(quantised, None)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / scale, 1 / _SEVEN_BITS, _SEVEN_BITS + 1, self._packed
        )
        return product * scale + self._bias


@contextlib.contextmanager
def _fbgemm() -> Iterator[None]:
    """Pack weights for FBGEMM in the block; torch's own choice could be oneDNN."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        yield
    finally:
        torch.backends.quantized.engine = before

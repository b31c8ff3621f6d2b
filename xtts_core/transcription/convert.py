"""Whisper weights of CTranslate2 as a checkpoint of openai-whisper, layer by layer.

The binary layout is that of `ctranslate2/specs/model_spec.py` (ModelSpec._serialize), the names
on the other side those of `whisper/model.py`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from xtts_core.errors import TranscriptionError
from xtts_core.store import atomic_file

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_TYPES: dict[int, type[np.generic]] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
}


def convert_to_openai(ct2_dir: Path, target: Path) -> None:
    """Write `target`, a float16 checkpoint that `whisper.load_model(str(target))` opens.

    Args:
        ct2_dir: a folder with a float or int8 `model.bin` of a Whisper model.

    Raises:
        TranscriptionError: `model.bin` is no Whisper model of CTranslate2.
    """
    import torch

    values = read_ct2(ct2_dir / "model.bin")
    state = {name: tensor.half() for name, tensor in _openai_state(values).items()}
    with atomic_file(target) as aside:
        torch.save({"dims": _dimensions(state), "model_state_dict": state}, aside)


def read_ct2(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a CTranslate2 `model.bin`, aliases included.

    Raises:
        TranscriptionError: the file is cut short, or of another kind or version.
    """
    try:
        with path.open("rb") as file:
            return _read_arrays(file)
    except (struct.error, ValueError, KeyError) as error:
        raise TranscriptionError(
            f"The file is no Whisper model of CTranslate2: {error}",
            where=str(path),
            remedy="Get the weights again",
        ) from error


def _read_arrays(file: BinaryIO) -> dict[str, NDArray[Any]]:
    def number(code: str) -> int:
        value: int = struct.unpack("<" + code, file.read(struct.calcsize(code)))[0]
        return value

    def text() -> str:
        return file.read(number("H"))[:-1].decode()

    version, kind, _revision = number("I"), text(), number("I")
    if version < 5 or kind != "WhisperSpec":
        raise ValueError(f"version {version}, kind {kind!r}")
    arrays: dict[str, NDArray[Any]] = {}
    for _ in range(number("I")):
        name, rank = text(), number("B")
        shape = [number("I") for _ in range(rank)]
        kind_of, size = number("B"), number("I")
        arrays[name] = np.frombuffer(file.read(size), _TYPES[kind_of]).reshape(shape)
    for _ in range(number("I")):
        alias, name = text(), text()
        arrays[alias] = arrays[name]
    return arrays


def _openai_state(values: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    import torch

    state: dict[str, torch.Tensor] = {}

    def tensor(name: str) -> torch.Tensor:
        array = values[name].astype(np.float32)
        scale = values.get(f"{name}_scale")
        if scale is not None:  # int8: value = code / scale, one scale a row
            array = array / scale.astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
        return torch.from_numpy(array)

    def norm(source: str, target: str) -> None:
        state[f"{target}.weight"] = tensor(f"{source}/gamma")
        state[f"{target}.bias"] = tensor(f"{source}/beta")

    def linear(source: str, *targets: str) -> None:
        """One matrix of CTranslate2, stacked by rows, is one layer or several."""
        weights = tensor(f"{source}/weight").chunk(len(targets))
        biases = tensor(f"{source}/bias").chunk(len(targets))
        for target, weight, bias in zip(targets, weights, biases, strict=True):
            state[f"{target}.weight"] = weight.clone()
            if not target.endswith(".key"):  # openai's key projection has no bias
                state[f"{target}.bias"] = bias.clone()

    def attention(source: str, target: str, *fused: tuple[str, ...]) -> None:
        norm(f"{source}/layer_norm", f"{target}_ln")
        for index, names in enumerate(fused):
            linear(f"{source}/linear_{index}", *(f"{target}.{name}" for name in names))

    for conv in ("conv1", "conv2"):
        state[f"encoder.{conv}.weight"] = tensor(f"encoder/{conv}/weight")
        state[f"encoder.{conv}.bias"] = tensor(f"encoder/{conv}/bias")
    state["encoder.positional_embedding"] = tensor("encoder/position_encodings/encodings")
    state["decoder.token_embedding.weight"] = tensor("decoder/embeddings/weight")
    state["decoder.positional_embedding"] = tensor("decoder/position_encodings/encodings")
    for side in ("encoder", "decoder"):
        for layer in range(_layers(values, side)):
            source, target = f"{side}/layer_{layer}", f"{side}.blocks.{layer}"
            attention(
                f"{source}/self_attention", f"{target}.attn", ("query", "key", "value"), ("out",)
            )
            if side == "decoder":
                attention(
                    f"{source}/attention",
                    f"{target}.cross_attn",
                    ("query",),
                    ("key", "value"),
                    ("out",),
                )
            norm(f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
            linear(f"{source}/ffn/linear_0", f"{target}.mlp.0")
            linear(f"{source}/ffn/linear_1", f"{target}.mlp.2")
    norm("encoder/layer_norm", "encoder.ln_post")
    norm("decoder/layer_norm", "decoder.ln")
    return state


def _layers(values: dict[str, NDArray[Any]], side: str) -> int:
    prefix = f"{side}/layer_"
    names = {name.split("/")[1] for name in values if name.startswith(prefix)}
    return len(names - {"layer_norm"})


def _dimensions(state: dict[str, torch.Tensor]) -> dict[str, int]:
    """The fields of `whisper.model.ModelDimensions`; a head of Whisper has 64 channels."""
    contexts = {s: state[f"{s}.positional_embedding"].shape for s in ("encoder", "decoder")}
    blocks = {
        side: len({name.split(".")[2] for name in state if name.startswith(f"{side}.blocks.")})
        for side in contexts
    }
    width = contexts["encoder"][1]
    return {
        "n_mels": state["encoder.conv1.weight"].shape[1],
        "n_audio_ctx": contexts["encoder"][0],
        "n_audio_state": width,
        "n_audio_head": width // 64,
        "n_audio_layer": blocks["encoder"],
        "n_vocab": state["decoder.token_embedding.weight"].shape[0],
        "n_text_ctx": contexts["decoder"][0],
        "n_text_state": width,
        "n_text_head": width // 64,
        "n_text_layer": blocks["decoder"],
    }

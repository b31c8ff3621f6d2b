"""What the service itself adds to a call: gRPC, checks, the queue, encoding.

A service in a process of its own answers with an engine that gives ready-made audio at once; each
client calls again as soon as it is answered. One client, because what a second one waits for on a
machine of few cores is the first one's work. What the engine took is nought, so a call's seconds
are the service's and the client's. The peer is gRPC with no service at all: a handler that sends as
many bytes. Limit: 5 ms per request at p99 for a text as a whole, in PCM16 and WAV; streams and FLAC
are given beside it.

    python benchmarks/service/overhead.py [--calls 2000]

Exits 1 where the limit is not held.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import numpy as np
import soundfile
import torch
from tiny_service import machine

from xtts_core.model.checkpoint import Manifest, Origin, describe_files, version_of, write_manifest
from xtts_core.model.engine import Latents
from xtts_core.settings import EngineSettings, ServiceSettings
from xtts_core.text import split_sentences
from xtts_grpc.client import Encoding, SynthesisClient
from xtts_grpc.model_store import Checkpoint
from xtts_grpc.serve import Service

TEXT = "Bom dia, tudo bem?"
SPEECH_S = 2.0
STREAM_PIECES = 3
LIMIT_MS = 5.0
BYTES = int(SPEECH_S * 24_000) * 2


class ReadyEngine:
    """Speaks two seconds of noise, which it has ready."""

    sample_rate_hz = 24_000
    languages = ("pt",)

    def __init__(self, directory: Path) -> None:
        self.version = version_of(directory)
        self._clips = sorted(directory.glob("*.wav"))
        noise = np.random.default_rng(0).standard_normal(int(SPEECH_S * self.sample_rate_hz))
        self._audio = (0.1 * noise).astype(np.float32)

    def voices(self) -> dict[str, list[Path]]:
        return {"noise": self._clips}

    def latents(self, references: object, **how: Any) -> Latents:
        return Latents(torch.zeros(1, 32, 8), torch.zeros(1, 512, 1))

    def sentences(self, text: str, language: str) -> list[str]:
        return split_sentences(text, language, 203)

    def synthesize(self, *asked: Any, **how: Any) -> np.ndarray[Any, Any]:
        return self._audio

    def stream(self, *asked: Any, **how: Any) -> Iterator[np.ndarray[Any, Any]]:
        yield from np.array_split(self._audio, STREAM_PIECES)

    def close(self) -> None:
        pass


def checkpoint(directory: Path) -> Checkpoint:
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * 22_050)
    soundfile.write(directory / "clip.wav", noise, 22_050, subtype="PCM_16")
    origin = Origin(name="ready", source="benchmarks/service", revision="1")
    files = describe_files(directory)
    write_manifest(
        directory, Manifest(kind="base", licence="Apache-2.0", base_model=origin, files=files)
    )
    return Checkpoint(directory, "custom-checkpoint")


def serve(folder: Path, to_parent: Connection) -> None:
    """Serve until the other end of the pipe closes, and beside it bare gRPC."""

    def load(directory: Path, _: EngineSettings) -> Any:
        return ReadyEngine(directory)

    model = folder / "model"
    model.mkdir()
    service = Service(
        ServiceSettings(), "127.0.0.1:0", folder / "voices", checkpoint(model), load_engine=load
    )
    service.start()
    reply = bytes(BYTES)
    bare = grpc.server(ThreadPoolExecutor(4))
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: reply)
    bare.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", {"Do": handler}),))
    port = bare.add_insecure_port("127.0.0.1:0")
    bare.start()
    to_parent.send((service.address, f"127.0.0.1:{port}"))
    with contextlib.suppress(EOFError):
        to_parent.recv()
    service.stop()
    bare.stop(None)


def taken_ms(call: Callable[[], object], calls: int) -> np.ndarray[Any, Any]:
    for _ in range(min(100, calls)):
        call()
    times = []
    for _ in range(calls):
        began = perf_counter()
        call()
        times.append(1_000 * (perf_counter() - began))
    return np.array(times)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--calls", type=int, default=2_000)
    asked = arguments.parse_args()
    print(machine())
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = spawning.Process(target=serve, args=(Path(folder), theirs))
        process.start()
        theirs.close()
        try:
            address, bare_address = ours.recv()
            figures = measure(address, bare_address, asked.calls)
        finally:
            ours.close()
            process.join(60)
    good = True
    print(f"{asked.calls} calls of {SPEECH_S:g} s of speech, ms{'p50':>20s}{'p99':>8s}{'max':>8s}")
    for name, (times, limited) in figures.items():
        p50, p99 = np.percentile(times, [50, 99])
        held = not limited or p99 <= LIMIT_MS
        good &= held
        verdict = f"  (limit {LIMIT_MS:g} at p99)" if limited else ""
        verdict += "" if held else "  NOT HELD"
        print(f"{name:46s}{p50:8.2f}{p99:8.2f}{times.max():8.2f}{verdict}")
    return 0 if good else 1


def measure(
    address: str, bare_address: str, calls: int
) -> dict[str, tuple[np.ndarray[Any, Any], bool]]:
    """Milliseconds of each call, and whether the limit is for them."""
    figures = {}
    with grpc.insecure_channel(bare_address) as channel:
        bare: Any = channel.unary_unary("/bare/Do")
        figures["gRPC alone, as many bytes"] = taken_ms(lambda: bare(b""), calls), False
    with SynthesisClient(address) as client:
        client.wait_until_serving(60)
        for encoding in (Encoding.PCM16, Encoding.WAV, Encoding.FLAC):
            whole = partial(client.synthesize, TEXT, voice_id="noise", encoding=encoding)
            limited = encoding != Encoding.FLAC
            figures[f"a text as a whole, {encoding.name}"] = taken_ms(whole, calls), limited
        figures[f"a stream of {STREAM_PIECES} pieces to its end, PCM16"] = (
            taken_ms(
                lambda: list(client.stream(TEXT, voice_id="noise", encoding=Encoding.PCM16)), calls
            ),
            False,
        )
    return figures


if __name__ == "__main__":
    sys.exit(main())

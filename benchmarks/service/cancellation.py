"""How long work goes on after its caller went away, at the public size: limit 200 ms.

One text is given up while its prompt is read, while its codes are drawn and while it is vocoded,
and a recording of 30 s while it is listened to, alone and among seven texts; the caller's thread
has to come back, and the batch has to be without it.

    OMP_NUM_THREADS=2 python benchmarks/service/cancellation.py [--weights float32]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import torch
from public_size import write_base

from xtts_core.model.engine import Engine, Latents
from xtts_core.model.sampling import Sampling
from xtts_core.settings import EngineSettings

TEXT = "a feira abre às seis horas, e quem chega primeiro encontra as melhores frutas da cidade."
LIMIT_S = 0.2
CODES = 60
AFTER_S = (0.1, 0.3, 0.9, 2.0, 3.5, 5.0, 6.5)


class GoneError(Exception):
    """The caller went away."""


def given_up(work: Callable[[Callable[[], None]], object], after_s: float) -> float | None:
    """Seconds from giving up to the end of the work; None where it had ended by itself."""
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise GoneError

    def begin() -> None:
        with contextlib.suppress(GoneError):
            work(check)

    thread = threading.Thread(target=begin)
    thread.start()
    sleep(after_s)
    if not thread.is_alive():
        return None
    started = perf_counter()
    gone.set()
    thread.join()
    return perf_counter() - started


@contextlib.contextmanager
def among_others(engine: Engine, voice: Latents) -> Iterator[None]:
    """Seven longer texts are spoken meanwhile."""
    over = threading.Event()

    def check() -> None:
        if over.is_set():
            raise GoneError

    def speak(seed: int) -> None:
        with contextlib.suppress(GoneError):
            engine.synthesize(
                TEXT, "pt", voice, Sampling(seed=seed, max_audio_tokens=300), check=check
            )

    with ThreadPoolExecutor(7) as pool:
        for seed in range(7):
            pool.submit(speak, seed)
        try:
            yield
        finally:
            over.set()


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--base", type=Path, help="a folder to keep the model in")
    arguments.add_argument("--weights", default="auto", help="as in config/service.yaml")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = asked.base or Path(folder) / "base"
        if not base.exists():
            write_base(base)
        engine = Engine.load(base, EngineSettings(device="cpu", weights=asked.weights))
        voice = Latents(torch.randn(1, 32, 1_024), torch.randn(1, 512, 1))
        engine.synthesize(TEXT, "pt", voice, Sampling(max_audio_tokens=3))
        slowest = max(print_delays("alone", engine, voice))
        with among_others(engine, voice):
            slowest = max(slowest, *print_delays("among eight", engine, voice))
    print(f"slowest {1e3 * slowest:.0f} ms, limit {1e3 * LIMIT_S:.0f} ms")
    return 0 if slowest <= LIMIT_S else 1


def print_delays(where: str, engine: Engine, voice: Latents) -> list[float]:
    recording = 0.1 * np.random.default_rng(0).standard_normal(30 * 22_050).astype(np.float32)
    works: dict[str, Callable[[Callable[[], None]], object]] = {
        "speaking": lambda check: engine.synthesize(
            TEXT, "pt", voice, Sampling(seed=0, max_audio_tokens=CODES), check=check
        ),
        "listening": lambda check: engine.latents([recording], check=check),
    }
    every = []
    for name, work in works.items():
        delays = [delay for after in AFTER_S if (delay := given_up(work, after)) is not None]
        every += delays
        told = ", ".join(f"{1e3 * delay:.0f}" for delay in delays)
        print(f"{where}, {name}: {told} ms", flush=True)
    return every


if __name__ == "__main__":
    sys.exit(main())

"""Ten thousand requests to a real `xtts-serve` that speaks with `tiny`: memory and errors.

Four clients ask for short texts of many lengths, as a whole and as streams by turns, in two
voices, one of them cloned. The resident memory of the service is read after every twentieth of
the calls. Limits: no call fails, and the mean of the last fifth of the readings is within 5 % of
the mean of the second fifth, which leaves out what is loaded once.

    OMP_NUM_THREADS=2 python benchmarks/service/soak.py [--calls 10000] [--clients 4]

Exits 1 where a limit is not held.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from time import perf_counter

import numpy as np
import soundfile
from tiny_service import SPEAKER, ServeProcess, TinyReleases, machine

from xtts_grpc.client import SamplingOptions, ServiceDownError, ServiceError, SynthesisClient

TEXT = "bom dia tudo bem hoje vamos à feira comprar frutas e depois voltamos para casa"
WORDS = TEXT.split()
CODES = SamplingOptions(max_audio_tokens=8)
READINGS = 20
LIMIT = 1.05


def reference() -> bytes:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(1).standard_normal(5 * 22_050)
    soundfile.write(file, noise, 22_050, format="WAV", subtype="PCM_16")
    return file.getvalue()


class Soak:
    """Calls that several clients share, with what was seen of them."""

    def __init__(self, service: ServeProcess, voices: tuple[str, str], calls: int) -> None:
        self.failures: list[str] = []
        self.memory: list[float] = []
        self._service = service
        self._voices = voices
        self._every = max(1, calls // READINGS)
        self._numbers = iter(range(calls))
        self._lock = threading.Lock()
        self._answered = itertools.count(1)
        self._began = perf_counter()

    def work(self) -> None:
        """Call until there is no call left."""
        with SynthesisClient(self._service.address) as client:
            while True:
                with self._lock:
                    number = next(self._numbers, None)
                if number is None:
                    return
                try:
                    self._call(client, number)
                except (ServiceError, ServiceDownError) as error:
                    self.failures.append(str(error))
                with self._lock:
                    answered = next(self._answered)
                    if answered % self._every == 0:
                        self._read(answered)

    def _call(self, client: SynthesisClient, number: int) -> None:
        text = " ".join(WORDS[: 1 + number % len(WORDS)]) + "."
        voice_id = self._voices[number // 2 % 2]
        if number % 2:
            *_, end = client.stream(text, voice_id=voice_id, seed=number, sampling=CODES)
            spoken_s = getattr(end, "duration_s", 0.0)
        else:
            spoken_s = client.synthesize(
                text, voice_id=voice_id, seed=number, sampling=CODES
            ).duration_s
        if not spoken_s:
            self.failures.append(f"call {number} gave no speech")

    def _read(self, answered: int) -> None:
        self.memory.append(self._service.resident_mb())
        seconds = perf_counter() - self._began
        print(f"{answered:6d} calls {seconds:7.1f} s {self.memory[-1]:8.1f} MB", flush=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--calls", type=int, default=10_000)
    arguments.add_argument("--clients", type=int, default=4)
    asked = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        TinyReleases(Path(folder)).publish(1)
        with ServeProcess(Path(folder)) as service:
            with SynthesisClient(service.address) as client:
                client.wait_until_serving(60)
                cloned = client.clone_voice([reference()]).voice_id
            soak = Soak(service, (SPEAKER, cloned), asked.calls)
            with ThreadPoolExecutor(asked.clients) as pool:
                for each in [pool.submit(soak.work) for _ in range(asked.clients)]:
                    each.result()
    fifth = max(1, len(soak.memory) // 5)
    growth = mean(soak.memory[-fifth:]) / mean(soak.memory[fifth : 2 * fifth])
    print(f"{len(soak.failures)} of {asked.calls} calls failed (limit 0)", *soak.failures[:5])
    print(f"memory, last fifth to second fifth: {growth:.3f} (limit {LIMIT})")
    held = not soak.failures and growth <= LIMIT
    print("held" if held else "NOT HELD")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

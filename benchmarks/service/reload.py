"""What ten releases cost a service under load: memory, and the gap of each swap.

A real `xtts-serve` speaks with `tiny` for eight clients, in a speaker's voice and in a cloned one,
unary calls and streams by turns, while ten releases are published, one of them cut short and one
with weights that do not load. All have the same weights otherwise, so each voice must sound the
same under every one. Limits: no call fails, the broken ones are refused and never serve, the
resident memory after the tenth is within 10 % of that after the first, and the slowest call while
a release comes up and is swapped in takes at most 2 times the median of those calls. The releases
are loaded on the two cores that the calls are answered with, so the median during loads is given
beside the one of a quiet service.

    OMP_NUM_THREADS=2 python benchmarks/service/reload.py [--releases 10] [--clients 8]

Exits 1 where a limit is not held.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np
import soundfile
from numpy.typing import NDArray
from tiny_service import SPEAKER, ServeProcess, TinyReleases, machine

from xtts_grpc.client import Encoding, SamplingOptions, ServiceError, SynthesisClient

TEXT = "Bom dia, tudo bem?"
CODES = SamplingOptions(max_audio_tokens=20)
MEMORY_LIMIT, GAP_LIMIT, STEPS_LIMIT = 1.10, 2.0, 1
SETTLE_S = 5.0
CUT_SHORT, DOES_NOT_LOAD = 5, 8


@dataclass(frozen=True)
class Call:
    """An answered call, in seconds of the benchmark's clock."""

    began: float
    ended: float
    version: str
    voice_id: str
    audio: bytes

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def overlaps(self, span: tuple[float, float]) -> bool:
        return self.began < span[1] and self.ended > span[0]


def keep_calling(address: str, voices: Sequence[str], stop: threading.Event) -> list[Call]:
    calls: list[Call] = []
    with SynthesisClient(address) as client:
        while not stop.is_set():
            voice_id = voices[len(calls) // 2 % len(voices)]
            options = {"voice_id": voice_id, "seed": 1, "encoding": Encoding.PCM16}
            began = perf_counter()
            if len(calls) % 2:
                start, *parts, _ = client.stream(TEXT, sampling=CODES, **options)
                version, audio = start.model_version, b"".join(parts)
            else:
                speech = client.synthesize(TEXT, sampling=CODES, **options)
                version, audio = speech.model_version, speech.audio
            calls.append(Call(began, perf_counter(), version, voice_id, audio))
    return calls


def reload(client: SynthesisClient, version: str, *, sound: bool) -> None:
    """Make the service look at the release that was published; a broken one must not serve."""
    try:
        client.reload_model()
    except ServiceError as error:
        if sound or error.service_reason != "invalid_release":
            raise
    model = client.get_model()
    if sound != (model.model_version == version) or sound == bool(model.last_error):
        raise SystemExit(f"release {version}: {model}")


def recording() -> bytes:
    """A reference to clone a voice from, as a WAV file."""
    file = io.BytesIO()
    noise = 0.05 * np.random.default_rng(1).standard_normal(6 * 22_050)
    soundfile.write(file, noise, 22_050, format="WAV", subtype="PCM_16")
    return file.getvalue()


def apart(calls: Sequence[Call]) -> int:
    """How far two answers in the same voice are apart at most, in steps of PCM16."""
    first: dict[str, NDArray[np.int32]] = {}
    most = 0
    for call in calls:
        samples = np.frombuffer(call.audio, "<i2").astype(np.int32)
        most = max(most, int(np.abs(samples - first.setdefault(call.voice_id, samples)).max()))
    return most


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--releases", type=int, default=10)
    arguments.add_argument("--clients", type=int, default=8)
    asked = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        releases = TinyReleases(Path(folder))
        versions = {releases.publish(1)}
        with ServeProcess(Path(folder)) as service, SynthesisClient(service.address) as client:
            client.wait_until_serving(60)
            voices = [SPEAKER, client.clone_voice([recording()]).voice_id]
            stop = threading.Event()
            memory, swaps = [], []
            with ThreadPoolExecutor(asked.clients) as pool:
                running = [
                    pool.submit(keep_calling, service.address, voices, stop)
                    for _ in range(asked.clients)
                ]
                try:
                    for release in range(1, asked.releases + 1):
                        if release > 1:
                            whole, loads = release != CUT_SHORT, release != DOES_NOT_LOAD
                            version = releases.publish(release, whole=whole, loads=loads)
                            began = perf_counter()
                            reload(client, version, sound=whole and loads)
                            swaps.append((began, perf_counter()))
                            if whole and loads:
                                versions.add(version)
                        sleep(SETTLE_S)
                        memory.append(service.resident_mb())
                        print(f"release {release:2d}: {memory[-1]:7.1f} MB", flush=True)
                finally:
                    stop.set()
                calls = [call for each in running for call in each.result()]
    during = [c for c in calls if any(c.overlaps(swap) for swap in swaps)]
    quiet = [c for c in calls if not any(c.overlaps(swap) for swap in swaps)]
    served = {call.version for call in calls}
    growth = memory[-1] / memory[0]
    slowest, usual = max(c.seconds for c in during), median(c.seconds for c in during)
    swapped = median(ended - began for began, ended in swaps)
    steps = apart(calls)
    print(f"{len(calls)} calls, {len(served)} versions of {len(versions)}, none failed")
    print(f"two answers in the same voice are {steps} steps of PCM16 apart (limit {STEPS_LIMIT})")
    print(f"a load takes {swapped:.2f} s; a call {median(c.seconds for c in quiet):.3f} s (median)")
    print(f"    and at most {max(c.seconds for c in quiet):.3f} s while nothing is loaded")
    print(f"memory after the last to after the first: {growth:.3f} (limit {MEMORY_LIMIT})")
    print(f"slowest call in {len(during)} during loads: {slowest:.3f} s, median {usual:.3f} s:")
    print(f"    {slowest / usual:.2f} times (limit {GAP_LIMIT})")
    print(f"    {slowest / median(c.seconds for c in quiet):.2f} times that of a quiet service")
    held = growth <= MEMORY_LIMIT and slowest <= GAP_LIMIT * usual
    held = held and steps <= STEPS_LIMIT and served == versions
    print("held" if held else "NOT HELD")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

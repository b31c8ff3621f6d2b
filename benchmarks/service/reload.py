"""What ten releases cost a service under load: memory, and the gap of each swap.

A real `xtts-serve` speaks with `tiny` for four clients, unary calls and streams by turns, while
ten releases are published. Limits: its resident memory after the tenth is within 10 % of that after
the first, and the slowest call while a release comes up and is swapped in takes at most 2 times the
median of those calls. The releases are loaded on the two cores that the calls are answered with,
so the median during loads is given beside the one of a quiet service.

    OMP_NUM_THREADS=2 python benchmarks/service/reload.py [--releases 10] [--clients 4]

Exits 1 where a limit is not held.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

from tiny_service import SPEAKER, ServeProcess, TinyReleases, machine

from xtts_grpc.client import SamplingOptions, SynthesisClient

TEXT = "Bom dia, tudo bem?"
CODES = SamplingOptions(max_audio_tokens=20)
MEMORY_LIMIT, GAP_LIMIT = 1.10, 2.0
SETTLE_S = 5.0


@dataclass(frozen=True)
class Call:
    """An answered call, in seconds of the benchmark's clock."""

    began: float
    ended: float
    version: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def overlaps(self, span: tuple[float, float]) -> bool:
        return self.began < span[1] and self.ended > span[0]


def keep_calling(address: str, stop: threading.Event) -> list[Call]:
    calls: list[Call] = []
    with SynthesisClient(address) as client:
        while not stop.is_set():
            began = perf_counter()
            if len(calls) % 2:
                start, *_ = client.stream(TEXT, voice_id=SPEAKER, seed=1, sampling=CODES)
                version = getattr(start, "model_version", "")
            else:
                speech = client.synthesize(TEXT, voice_id=SPEAKER, seed=1, sampling=CODES)
                version = speech.model_version
            calls.append(Call(began, perf_counter(), version))
    return calls


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--releases", type=int, default=10)
    arguments.add_argument("--clients", type=int, default=4)
    asked = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        releases = TinyReleases(Path(folder))
        versions = [releases.publish(1)]
        with ServeProcess(Path(folder)) as service, SynthesisClient(service.address) as client:
            client.wait_until_serving(60)
            stop = threading.Event()
            memory, swaps = [], []
            with ThreadPoolExecutor(asked.clients) as pool:
                running = [
                    pool.submit(keep_calling, service.address, stop) for _ in range(asked.clients)
                ]
                try:
                    for release in range(1, asked.releases + 1):
                        if release > 1:
                            version = releases.publish(release)
                            began = perf_counter()
                            client.reload_model()
                            swaps.append((began, perf_counter()))
                            versions.append(version)
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
    print(f"{len(calls)} calls, {len(served)} versions of {len(versions)}, none failed")
    print(f"a load takes {swapped:.2f} s; a call {median(c.seconds for c in quiet):.3f} s (median)")
    print(f"    and at most {max(c.seconds for c in quiet):.3f} s while nothing is loaded")
    print(f"memory after the last to after the first: {growth:.3f} (limit {MEMORY_LIMIT})")
    print(f"slowest call in {len(during)} during loads: {slowest:.3f} s, median {usual:.3f} s:")
    print(f"    {slowest / usual:.2f} times (limit {GAP_LIMIT})")
    print(f"    {slowest / median(c.seconds for c in quiet):.2f} times that of a quiet service")
    held = growth <= MEMORY_LIMIT and slowest <= GAP_LIMIT * usual and served == set(versions)
    print("held" if held else "NOT HELD")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""What every Dagster run pays before it starts: loading the code location.

The limit is 2.5 s and 200 MB; the peer is `import dagster` alone, in the same run.

    python benchmarks/definitions.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys

ROUNDS = 7
LIMIT_S = 2.5
LIMIT_MB = 200.0

MEASURE = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
start = time.perf_counter()
__import__(sys.argv[1])
seconds = time.perf_counter() - start
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak_mb]))
"""


def measure(module: str) -> tuple[float, float]:
    """Import seconds and peak memory in MB of a fresh process."""
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, module], check=True, capture_output=True, text=True
    )
    seconds, peak_mb = json.loads(output.stdout)
    return seconds, peak_mb


def main() -> int:
    modules = ("dagster", "xtts_assets.definitions")
    rounds = [{module: measure(module) for module in modules} for _ in range(ROUNDS)]
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'import':28} {'median s':>9} {'max s':>7} {'peak MB':>8}")
    found = {}
    for module in modules:
        seconds = [r[module][0] for r in rounds]
        peak = max(r[module][1] for r in rounds)
        found[module] = (statistics.median(seconds), peak)
        print(f"{module:28} {found[module][0]:9.2f} {max(seconds):7.2f} {peak:8.0f}")
    seconds, peak = found["xtts_assets.definitions"]
    print(f"ratio to dagster alone: {seconds / found['dagster'][0]:.2f}")
    held = seconds < LIMIT_S and peak < LIMIT_MB
    print(f"limit {LIMIT_S} s and {LIMIT_MB:g} MB: {'held' if held else 'NOT HELD'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())

"""How long may OpenMP's threads spin? Milliseconds a decoding step, the machine idle and beside busy processes.

Each setting in a process of its own, since libgomp reads it once: python bench/spin.py [--rounds 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {
    # An invalid count keeps jeito from setting its own, and libgomp at its default.
    "default": {"GOMP_SPINCOUNT": "none"},
    "passive": {"GOMP_SPINCOUNT": "none", "OMP_WAIT_POLICY": "passive"},
    "0": {"GOMP_SPINCOUNT": "0"},
    "100": {"GOMP_SPINCOUNT": "100"},
    "300": {"GOMP_SPINCOUNT": "300"},
    "1000": {"GOMP_SPINCOUNT": "1000"},
    "10000": {"GOMP_SPINCOUNT": "10000"},
}
STEPS = 60
LOADS = (0, 1, 2, 4)


def measure() -> None:
    """In the child: the median step of one stream, in milliseconds."""
    from jeito.engines.base import Row
    from jeito.engines.demo import demo_file
    from jeito.engines.llamacpp import LlamaEngine

    engine = LlamaEngine(demo_file())
    logits = engine.extend([Row(0, engine.tokens("Once upon a time there was", special=False))])[0]
    steps = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        logits = engine.extend([Row(0, [int(logits[0].argmax())])])[0]
        steps.append(time.perf_counter() - begun)
    print(1000 * statistics.median(steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="one setting, in this process")
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    found: dict[tuple[int, str], list[float]] = {}
    for _ in range(options.rounds):
        for load in LOADS:
            neighbours = [
                subprocess.Popen(
                    [sys.executable, "-c", "import time\nend = time.time() + 240\nwhile time.time() < end: pass"]
                )
                for _ in range(load)
            ]
            for name, setting in SETTINGS.items():
                command = [sys.executable, __file__, "--measure"]
                out = subprocess.run(command, env=os.environ | setting, capture_output=True, text=True, check=True)
                found.setdefault((load, name), []).append(float(out.stdout))
            for neighbour in neighbours:
                neighbour.kill()
                neighbour.wait()
    print(f"ms a step, median of {options.rounds}; columns: busy processes beside")
    print(f"{'setting':10}" + "".join(f"{load:>8}" for load in LOADS))
    for name in SETTINGS:
        print(f"{name:10}" + "".join(f"{statistics.median(found[load, name]):8.1f}" for load in LOADS))


if __name__ == "__main__":
    main()

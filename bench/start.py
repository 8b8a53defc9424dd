"""Seconds from typing `jeito ask` to its first token, and of `jeito --help`: python bench/start.py [--runs 7]"""

import argparse
import statistics
import subprocess
import time
from pathlib import Path
from sys import executable

JEITO = str(Path(executable).with_name("jeito"))
COMMANDS = {
    "jeito ask, first token": [JEITO, "ask", "What is 2+2?", "-b", "technical", "--seed", "7", "--no-log"],
    "jeito --help, first byte": [JEITO, "--help"],
}


def first_byte(command: list[str]) -> float:
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - begun
        process.kill()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    for name, command in COMMANDS.items():
        first_byte(command)
        found = [first_byte(command) for _ in range(options.runs)]
        print(
            f"{name:26} median {statistics.median(found):.2f} s, {min(found):.2f} to {max(found):.2f}, n={len(found)}"
        )


if __name__ == "__main__":
    main()

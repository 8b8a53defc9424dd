"""Does a proof survive kill -9? python bench/proof_kill.py [--runs 500] [--kills 20] [--model toy] [--seed 1]

A plan is proved undisturbed; then again in another home, by processes that are killed at random moments until so many
are dead; the last one ends it. The two proofs must be equal, no run lost, none counted twice.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jeito.trace.log import Log

REPEATS = 5
COMMAND = (sys.executable, "-m", "jeito.cli.main", "prove", "plain+max_new_tokens=24")


def main() -> int:
    wanted = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("runs", 500), ("kills", 20), ("model", "toy"), ("seed", 1)):
        wanted.add_argument(f"--{name}", type=type(default), default=default)
    said = wanted.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases.jsonl"
        cases = [{"name": f"case {n}", "prompt": f"Say {n} in words."} for n in range(said.runs // REPEATS)]
        file.write_text("".join(json.dumps(case) + "\n" for case in cases))
        words = [*COMMAND, "-m", said.model, "--cases", str(file), "-n", str(REPEATS), "--seed", str(said.seed)]
        words += ["--check", "words: {max: 4}", "--at-least", "0.5", "--no-early", "--json"]
        undisturbed, _ = _prove(words, Path(folder) / "one", None)
        chance = random.Random(said.seed)
        whole, kills = None, 0
        home = Path(folder) / "other"
        while whole is None:
            # So many more runs before it is killed that the last kill comes before the end.
            before = chance.randint(0, 2 * said.runs // (said.kills + 1)) if kills < said.kills else None
            whole, killed = _prove(words, home, before)
            kills += killed
        runs = Log(home / "log.db").recent(10**6)
        ended = sum(run.finish is not None for run in runs)
        print(f"{kills} kills, {len(runs) - ended} runs broken off, {ended} ended of {said.runs} planned")
        print(f"the proof is {'identical' if whole == undisturbed else 'NOT identical'}: {whole['decision']}")
        return 0 if whole == undisturbed and ended == said.runs else 1


def _prove(words: list[str], home: Path, before: int | None) -> tuple[dict[str, object] | None, int]:
    """A proof, or none when its process was killed after `before` more runs had ended."""
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        words, env={**os.environ, "JEITO_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if before is not None:
        log = Log(home / "log.db")
        first = _ended(log)
        while process.poll() is None and _ended(log) < first + before:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return None, 1
    out, _ = process.communicate()
    return json.loads(out), 0


def _ended(log: Log) -> int:
    (row,) = log.rows("select count(*) from runs where finish is not null", {}) or [(0,)]
    return int(row[0])


if __name__ == "__main__":
    sys.exit(main())

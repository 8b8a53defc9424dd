"""The main job, as a newcomer runs it."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from jeito.cli.demo import BEHAVIOURS, TASKS, share_of_distinct
from jeito.cli.demo_claims import PENALTY, Sizes, show_claims
from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine
from jeito.proof.comparison import Comparison
from jeito.proof.judge import Judge
from jeito.trace.log import Log

PAGES = ("contract", "sums", "personalities", "portuguese")


def test_the_demo_asks_every_question_in_every_behaviour_then_puts_claims_to_the_test(warm_home: Path) -> None:
    command = [sys.executable, "-m", "jeito.cli.main", "demo", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in (*TASKS.values(), *BEHAVIOURS, "model too simple", "tokens/s", "peak memory", "agente_tecnico.yaml:11"):
        assert word in done.stdout
    for page in PAGES:
        file = warm_home / "reports" / f"demo-{page}.html"
        assert str(file) in done.stdout
        assert "<!doctype html>" in file.read_text()
    traces = Log().recent(500)
    asked = Counter(trace.behaviour for trace in traces if "+" not in trace.behaviour)
    switched = {name: count for name, count in asked.items() if " with " not in name}
    assert switched == dict.fromkeys(BEHAVIOURS, len(TASKS)) | {"agente_tecnico": 1}
    assert all(trace.finish in ("stop", "length") and trace.answer for trace in traces)
    tokens = sum(trace.usage.generated for trace in traces)
    assert f"\n{tokens} tokens in " in done.stdout, "every token that was generated is counted, once"


def test_the_demo_says_what_was_measured_and_not_what_was_hoped(toy: LocalModel, tmp_path: Path) -> None:
    # A toy that repeats the question keeps no penalty's promise and has no personality.
    found = {one.page: one for one in show_claims(toy, Log(tmp_path / "log.db"), 7, Sizes(4, 6, 6))}
    assert tuple(found) == PAGES
    assert "0 of 6 simple sums are right" in found["portuguese"].sentence
    assert "not sure" in found["sums"].sentence
    assert "none surely changes it" in found["sums"].sentence
    assert "Surely different: none" in found["personalities"].sentence
    assert isinstance(found["contract"].result, Judge)
    sums = found["sums"].result
    assert isinstance(sums, Comparison)
    assert sums.cause is not None
    assert PENALTY in [part.name for part in sums.cause.parts]
    assert isinstance(toy.decoder.engine, ToyEngine)


def test_the_share_of_distinct_words_is_of_pairs_inside_a_text() -> None:
    assert share_of_distinct(["a", "b", "a", "b"], 2) == 2 / 3
    assert share_of_distinct(["a"], 2) == 1

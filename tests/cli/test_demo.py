"""The main job, as a newcomer runs it."""

import subprocess
import sys
from collections import Counter

from jeito.cli.demo import BEHAVIOURS, TASKS, share_of_distinct
from jeito.trace.log import Log


def test_the_demo_asks_every_question_in_every_behaviour_and_shows_a_receipt() -> None:
    done = subprocess.run([sys.executable, "-m", "jeito.cli.main", "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in (*TASKS.values(), *BEHAVIOURS, "model too simple", "tokens/s", "peak memory", "agente_tecnico.yaml:11"):
        assert word in done.stdout
    traces = Log().recent(50)
    assert Counter(trace.behaviour for trace in traces) == dict.fromkeys(BEHAVIOURS, len(TASKS)) | {"agente_tecnico": 1}
    assert all(trace.finish in ("stop", "length") and trace.answer for trace in traces)


def test_the_share_of_distinct_words_is_of_pairs_inside_a_text() -> None:
    assert share_of_distinct(["a", "b", "a", "b"], 2) == 2 / 3
    assert share_of_distinct(["a"], 2) == 1

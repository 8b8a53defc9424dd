import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Jeito = Callable[..., Any]

SAYS_ITS_PEAK = """
import sys
from pathlib import Path
from jeito.cli.main import _run
code = _run()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print("peak", status["VmHWM"].split()[0], file=sys.stderr)
sys.exit(code)
"""


def test_every_value_of_the_technical_agent_has_its_file_and_line(jeito: Jeito) -> None:
    done = jeito("explain", "-b", "agente_tecnico", "--json")
    explained = json.loads(done.out)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    for knob, value in (("temperature", 0.2), ("top_p", 0.7), ("repetition_penalty", 1.25)):
        found = explained["values"][knob]
        assert (found["value"], found["source"]) == (value, "behaviour")
        line = Path(found["file"]).read_text().splitlines()[found["line"] - 1]
        assert line.strip() == f"{knob}: {value}"
    assert explained["values"]["top_k"]["source"] == "neutral"
    assert explained["facts"]["engine"] == "llamacpp"
    assert [Path(file).name for file in explained["facts"]["files"]] == ["agente_tecnico.yaml"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_explaining_loads_no_weights(shell: Jeito, warm_home: Path) -> None:
    def peak(*words: str) -> int:
        done = shell(*words, command=(sys.executable, "-c", SAYS_ITS_PEAK))
        assert done.code == 0
        return int(done.err.split()[-1]) * 1024

    asked = peak("ask", "hi", "--set", "max_new_tokens=1")
    explained = peak("explain", "-b", "agente_tecnico")
    weights = json.loads(shell("ask", "hi", "--set", "max_new_tokens=1", "--json").out)["environment"]["weight_bytes"]
    assert weights > 50_000_000
    assert explained < asked - weights / 2


def test_what_is_explained_is_what_is_asked(jeito: Jeito) -> None:
    common = ["-m", "toy", "-b", "creative+top_k=4", "--seed", "3", "--json"]
    explained = json.loads(jeito("explain", *common).out)
    asked = json.loads(jeito("ask", "hi", *common).out)["receipt"]
    assert explained["values"] == asked["values"]
    assert (explained["template"], explained["placement"]) == (asked["template"], asked["placement"])


def test_the_table_names_each_values_file_and_line(jeito: Jeito) -> None:
    out = jeito("explain", "-m", "toy", "-b", "agente_tecnico").out
    (row,) = [line for line in out.splitlines() if line.startswith("repetition_penalty")]
    assert row.split() == ["repetition_penalty", "1.25", "behaviour", "agente_tecnico.yaml:11"]

"""Hugging Face models and what is known of models, on the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Jeito = Callable[..., Any]


def process(*words: object) -> "subprocess.CompletedProcess[str]":
    """In a process of its own, as users start it: nothing has loaded torch before."""
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    return subprocess.run(
        [sys.executable, "-m", "jeito.cli.main", *map(str, words)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_nf4_answers_and_its_trace_has_precision_bytes_and_peak(unpacked_demo: Path, warm_home: Path) -> None:
    done = process(
        "ask", "What is 2+2?", "-m", "demo", "--engine", "transformers", "--precision", "nf4", "-b", "technical",
        "--seed", "7", "--set", "max_new_tokens=6", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trace = json.loads(done.stdout)
    ran = trace["environment"]
    assert (ran["engine"], ran["precision"], ran["format"], ran["compute"]) == (
        "transformers",
        "nf4",
        "safetensors",
        "bf16",
    )
    assert ran["weights"].keys() == {"bfloat16", "float32", "uint8"}
    assert 105e6 < ran["weight_bytes"] < 115e6
    assert ran["memory"]["decode"]["resident_peak"] > ran["weight_bytes"]
    assert len(trace["tokens"]) == 6
    assert "Warning" not in done.stderr


def test_an_exact_reply_of_a_crowd_comes_again_alone_in_another_process(
    unpacked_demo: Path, kept_facts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is found of the files, which takes seconds, is kept for the tests of engines.
    monkeypatch.setenv("JEITO_HOME", str(kept_facts.parent))
    crowd = process(
        "compare", "What is 2+2?", "-m", "demo@transformers:fp32", "-b", "creative", "-b", "technical", "-n", "1",
        "--seed", "7", "--set", "max_new_tokens=8", "--json",
    )  # fmt: skip
    one = next(one for one in json.loads(crowd.stdout)["runs"] if (one["behaviour"], one["seed"]) == ("technical", 7))
    assert one["receipt"]["exact"]["held"], one["receipt"]["exact"]
    again = process("replay", one["id"], "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["replays"][0]["verdict"] == "same"


@pytest.mark.parametrize("how", [(), ("--engine", "transformers")])
def test_a_models_files_say_what_touches_behaviour(
    jeito: Jeito, unpacked_demo: Path, warm_home: Path, how: tuple[str, ...]
) -> None:
    done = jeito("model", "demo", *how)
    assert done.code == 0
    above, _, below = done.out.partition("────────")
    assert "chat_template" in above
    assert "context" in above
    assert " architecture  " not in above
    assert " architecture  " in below
    assert "editing config.json does not change how a model behaves" in done.out
    found = json.loads(jeito("model", "demo", *how, "--json").out)
    assert found["system_role"] is True
    assert found["tools_reach_the_prompt"] is False
    assert found["context"] == 8192
    touched = {fact["key"]: fact["touches"] for fact in found["facts"]}
    assert "end" in touched.values()
    assert set(touched.values()) <= {
        "sampling", "length", "end", "prompt", "template", "context", "engine", "precision", "nothing", "architecture",
    }  # fmt: skip


def test_what_a_config_says_of_sampling_is_called_unread(jeito: Jeito, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "n_positions": 64, "vocab_size": 9, "temperature": 0.1, "n_layer": 2})
    )
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"temperature": 0.6, "eos_token_id": 3, "max_length": 9})
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<think>{{ messages }}{{ tools }}"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    found = json.loads(jeito("model", tmp_path, "--json").out)
    facts = {(fact["file"], fact["key"]): fact["touches"] for fact in found["facts"]}
    assert facts["config.json", "temperature"] == "nothing"
    assert facts["generation_config.json", "temperature"] == "sampling"
    assert facts["generation_config.json", "max_length"] == "nothing"
    assert facts["config.json", "n_layer"] == "architecture"
    assert found["sampling_defaults"] == {"temperature": 0.6}
    assert found["tools_reach_the_prompt"] is True
    assert found["reasoning_marks"] == ["<think>"]


@pytest.mark.parametrize(
    ("size", "bytes"), [("15GB", 15 * 10**9), ("1.5 GiB", 3 * 2**29), ("900m", 9 * 10**8), ("512", 512)]
)
def test_sizes_are_read_as_people_write_them(size: str, bytes: int) -> None:
    from jeito.cli import options

    assert options.size(size) == bytes


@pytest.mark.parametrize("size", ["", "much", "-1GB", "15GHz", "0"])
def test_what_is_no_size_is_refused(jeito: Jeito, size: str) -> None:
    done = jeito("ask", "hi", "-m", "toy", f"--budget={size}")
    assert (done.code, "no amount of memory" in done.err) == (64, True)


def test_what_does_not_fit_the_budget_says_what_to_type(jeito: Jeito, unpacked_demo: Path, warm_home: Path) -> None:
    done = jeito("ask", "hi", "-m", "demo@bf16", "--budget", "1GB")
    assert done.code == 64
    assert "the budget is 1.00 GB" in done.err
    assert "try: --context" in done.err

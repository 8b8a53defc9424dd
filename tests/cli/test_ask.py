import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from jeito.engines.demo import demo_file
from jeito.trace.log import Log

Jeito = Callable[..., Any]

RUN = {
    "id", "behaviour", "model", "seed", "case", "answer", "reasoning", "calls", "finish", "tokens", "usage", "receipt",
    "seconds", "environment", "error",
}  # fmt: skip
RECEIPT = {"values", "unsupported", "placement", "template", "prompt_digest", "dropped", "exact"}


def test_the_answer_is_all_that_stands_on_standard_output(shell: Jeito) -> None:
    assert shell("ask", "olá, hi", "-m", "toy") == (0, "olá, hi\n", "")


def test_json_is_one_object_with_the_promised_keys_and_nothing_else(shell: Jeito) -> None:
    done = shell("ask", "hi é", "-m", "toy", "--json", "--seed", "7", "--set", "max_new_tokens=3", "--receipt")
    assert done.out.count("\n") == 1
    trace = json.loads(done.out)
    assert trace.keys() >= RUN
    assert trace["usage"].keys() == {"prompt", "cached", "generated", "forced"}
    assert trace["seconds"].keys() == {"queue", "prefill", "decode", "total"}
    assert trace["receipt"].keys() >= RECEIPT
    assert all(token.keys() >= {"id", "text", "logprob", "forced"} for token in trace["tokens"])
    assert all(value.keys() == {"value", "source", "file", "line"} for value in trace["receipt"]["values"].values())
    assert (trace["seed"], trace["finish"], trace["error"]) == (7, "length", None)
    # Notes go to standard error: why the reply ended, and the receipt as a table.
    assert done.err.startswith("[length]\n")
    assert f"receipt of {trace['id']}" in done.err


def test_json_is_what_the_log_keeps(jeito: Jeito, home: Path) -> None:
    shown = json.loads(jeito("ask", "hi", "-m", "toy", "--json").out)
    assert shown == Log().get(shown["id"]).model_dump(mode="json")


def test_a_dash_reads_the_question_from_standard_input(jeito: Jeito, shell: Jeito) -> None:
    assert shell("ask", "-", "-m", "toy", input="olá\n").out == "olá\n"
    assert jeito("ask", "-", "-m", "toy", input="two\nlines").out == "two\nlines\n"


@pytest.mark.parametrize("words", [["ask", "-", "-m", "toy"], ["chat", "-m", "toy"]])
def test_what_is_not_text_is_refused_with_a_sentence(shell: Jeito, words: list[str]) -> None:
    done = shell(*words, input=b"a\xff\n", env={"PYTHONIOENCODING": "utf-8:strict"})
    assert "error: this is not text" in done.err
    assert "Traceback" not in done.err


def test_nothing_is_kept_where_no_log_is_wanted(jeito: Jeito, home: Path) -> None:
    assert jeito("ask", "hi", "-m", "toy", "--no-log").code == 0
    assert not (home / "log.db").exists()


def test_what_is_not_honoured_by_leave_is_said_in_the_receipt(jeito: Jeito) -> None:
    done = jeito("ask", "hi", "-m", "toy", "--set", "reasoning.show=true", "--allow-unsupported", "--receipt")
    assert (done.code, done.out) == (0, "hi\n")
    assert "not honoured: this model cannot honour reasoning" in done.err


SCHEMA = {
    "type": "object",
    "properties": {"area": {"type": "number"}, "unit": {"enum": ["cm", "m"]}},
    "required": ["area", "unit"],
    "additionalProperties": False,
}


def test_a_schema_holds_the_answer_and_the_receipt_says_where_it_comes_from(jeito: Jeito, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SCHEMA))
    behaviour = tmp_path / "mine.yaml"
    behaviour.write_text("output: {regex: 'a+'}\n")
    trace = json.loads(jeito("ask", "hi", "-m", "toy", "-b", behaviour, "--schema", file, "--json").out)
    assert trace["finish"] == "stop"
    jsonschema.validate(json.loads(trace["answer"]), SCHEMA)
    assert trace["receipt"]["values"]["output"]["source"] == "flag"
    assert trace["receipt"]["values"]["output"]["value"]["json_schema"] == SCHEMA
    assert trace["usage"]["forced"] == sum(token["forced"] for token in trace["tokens"]) > 0


def test_the_technical_behaviour_answers_by_a_schema_whatever_the_seed(
    jeito: Jeito, warm_home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SCHEMA))
    ask = "Give the area of a circle of radius 2 as JSON"
    for seed in range(1, 4):
        done = jeito("ask", "-b", "technical", ask, "--schema", file, "--json", "--seed", seed)
        jsonschema.validate(json.loads(json.loads(done.out)["answer"]), SCHEMA)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{", "holds no JSON schema: EOF while parsing"),
        ("[1]", "holds no JSON schema: Input should be a valid dictionary"),
        ('{"name": "Ann"}', "'name' is no keyword of JSON Schema"),
        ('{"type": "array", "uniqueItems": true}', "'uniqueItems', which replies cannot be held to"),
        ("[" * 100_000, "recursion limit exceeded"),
        (" " * 1_000_001, "has over 1,000,000 bytes"),
    ],
)
def test_a_schema_that_is_none_is_refused_in_one_line(
    jeito: Jeito, tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "s.json"
    if content is not None:
        file.write_text(content)
    done = jeito("ask", "hi", "-m", "toy", "--schema", file)
    error, hint = done.err.splitlines()
    assert (done.code, done.out) == (64, "")
    assert said in error
    assert hint.startswith("  try: ")


def test_a_behaviour_and_what_is_set_on_top_of_it_act(jeito: Jeito, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("system: Be brief.\nsampling: {max_new_tokens: 9}\n")
    words = ["ask", "hello", "-m", "toy", "--json", "-b", f"{file}+top_k=5", "--set", "max_new_tokens=2"]
    trace = json.loads(jeito(*words).out)
    values = trace["receipt"]["values"]
    assert trace["prompt"] == "<system>Be brief.\n<user>hello\n<assistant>"
    assert trace["answer"] == "he"
    assert values["system"] == {"value": "Be brief.", "source": "behaviour", "file": str(file), "line": 1}
    assert (values["top_k"]["source"], values["max_new_tokens"]["source"]) == ("flag", "flag")


def test_log_probabilities_are_printed_where_they_are_asked_for(jeito: Jeito) -> None:
    tokens = json.loads(jeito("ask", "hi", "-m", "toy", "--json", "--logprobs", "2").out)["tokens"]
    assert [len(token["top"]) for token in tokens] == [2, 2, 2]
    assert all(token["logprob"] <= 0 for token in tokens)


def test_one_seed_is_one_exact_reply_alone_again_and_in_a_crowd(shell: Jeito, warm_home: Path) -> None:
    common = ["Who are you?", "--seed", "7", "--exact", "--json", "--set", "max_new_tokens=16"]
    alone, again = (json.loads(shell("ask", *common).out) for _ in range(2))
    crowd = json.loads(shell("compare", *common, "-n", "8").out)["runs"]
    replies = [[token["id"] for token in one["tokens"]] for one in (alone, again, crowd[0])]
    assert replies[0] == replies[1] == replies[2]
    assert len(replies[0]) == 16
    assert alone["id"] != again["id"]
    assert all(one["receipt"]["exact"]["held"] for one in (alone, again, *crowd))
    # The other seven have other seeds and say other things.
    assert len({one["seed"] for one in crowd}) == 8
    assert len({one["answer"] for one in crowd}) > 4


def test_precision_auto_is_the_files_own(shell: Jeito, warm_home: Path) -> None:
    done = shell("ask", "hi", "--precision", "auto", "--set", "max_new_tokens=2", "--json")
    assert json.loads(done.out)["environment"]["precision"] == "Q4_1"


def test_a_prompt_that_does_not_fit_is_refused_with_both_counts(shell: Jeito, warm_home: Path) -> None:
    done = shell("ask", " ".join(map(str, range(100))), "--context", "64", "--json")
    error, hint = done.err.splitlines()
    assert (done.code, done.out) == (64, "")
    (kept,) = Log().recent()
    assert kept.finish == "error"
    assert kept.error == error.removeprefix("error: ")
    counts = [int(word) for word in error.split() if word.isdigit()]
    assert error == f"error: the prompt is {counts[0]} tokens and the context 64, reply included"
    assert counts[0] > 100
    assert "--context" in hint


def broken(tmp_path: Path, what: str) -> Path:
    file = tmp_path / "broken.gguf"
    whole = demo_file().read_bytes()[:3_000_000]
    contents = {
        "empty": b"",
        "another kind": b"PK\x03\x04" + bytes(1000),
        "nothing but the mark": b"GGUF",
        "garbage after the mark": b"GGUF\x03\x00\x00\x00" + b"\xff" * 1000,
        "a version to come": b"GGUF" + b"x" * 1000,
        "cut in its header": whole[:5000],
        "cut in its weights": whole,
    }
    file.write_bytes(contents[what])
    return file


@pytest.mark.parametrize("what", ["empty", "another kind"])
def test_a_file_that_is_no_gguf_is_refused(jeito: Jeito, tmp_path: Path, what: str) -> None:
    done = jeito("ask", "hi", "-m", broken(tmp_path, what))
    error, hint = done.err.splitlines()
    assert (done.code, done.out) == (64, "")
    assert "broken.gguf" in error
    assert "no GGUF" in error
    assert hint.startswith("  try: ")


@pytest.mark.parametrize(
    "what",
    [
        "nothing but the mark",
        "garbage after the mark",
        "a version to come",
        "cut in its header",
        "cut in its weights",
    ],
)
def test_a_broken_gguf_is_refused_in_one_line(shell: Jeito, tmp_path: Path, what: str) -> None:
    done = shell("ask", "hi", "-m", broken(tmp_path, what))
    error, hint = done.err.splitlines()
    assert (done.code, done.out) == (64, "")
    assert error.startswith("error: ")
    assert "broken.gguf' cannot be loaded: " in error
    assert hint.startswith("  try: ")

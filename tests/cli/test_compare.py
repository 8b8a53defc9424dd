import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jeito.decode.noise import derive
from jeito.trace.log import Log

Jeito = Callable[..., Any]


def test_reply_i_of_each_side_has_the_same_seed(jeito: Jeito) -> None:
    done = jeito("compare", "hi", "-m", "toy", "-b", "creative", "-b", "technical", "-n", "3", "--seed", "7", "--json")
    found = json.loads(done.out)
    assert (done.code, done.out.count("\n")) == (0, 1)
    assert found.keys() == {"pairs", "separation", "parity", "readings", "runs"}
    assert [one["behaviour"] for one in found["runs"]] == ["creative"] * 3 + ["technical"] * 3
    assert [one["seed"] for one in found["runs"]] == [derive(7, index) for index in range(3)] * 2
    assert all(one["receipt"]["exact"]["held"] for one in found["runs"])


def test_replies_are_printed_under_what_gave_them(jeito: Jeito) -> None:
    done = jeito("compare", "hi", "-m", "toy", "-b", "creative", "-b", "technical", "--seed", "7")
    heads = [line for line in done.out.splitlines() if line.startswith("== ")]
    assert heads == ["== creative on toy, seed 7 [stop]", "== technical on toy, seed 7 [stop]"]
    assert done.out.splitlines().count("hi") == 2


def test_several_models_are_compared_too(jeito: Jeito) -> None:
    runs = json.loads(jeito("compare", "hi", "-m", "toy", "-m", "toy@toy", "--json").out)["runs"]
    assert [one["model"] for one in runs] == ["toy", "toy@toy"]


def test_models_are_measured_beside_the_first_of_them(jeito: Jeito, tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("the sea is deep")
    two = ("compare", "hi", "-m", "toy", "-m", "toy@toy", "-n", "2", "--text", page)
    found = json.loads(jeito(*two, "--json").out)
    (parity,) = found["parity"]
    assert (parity["a"], parity["b"], parity["walk"]["flips"]) == ("toy", "toy@toy", 0)
    assert [(reply["agree"], reply["tokens_a"]) for reply in parity["replies"]] == [(3, 3)] * 2
    (reading,) = found["readings"]
    assert reading["tokens_a"] == 14
    assert reading["perplexity_a"] == reading["perplexity_b"] > 1
    shown = jeito(*two).out
    assert "Parity: facts, not a verdict" in shown
    assert "toy → toy@toy" in shown
    assert "Parity" not in jeito(*two, "--no-parity").out


def test_models_that_end_replies_by_other_tokens_are_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    from jeito.cli.compare import _show_parity
    from jeito.proof.parity import Parity

    for same, words in ((False, "note: a and b end a reply by other tokens"), (True, "")):
        one = Parity(behaviour="plain", a="a", b="b", same_prompt=True, same_ends=same, why="no reply has a token")
        _show_parity([one], [], ["a", "b"])
        shown = capsys.readouterr().out
        assert (words in shown, "note:" in shown) == (True, not same)


def test_a_text_that_cannot_be_read_is_said_before_a_model_loads(jeito: Jeito, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "short").write_text("one")
    for name, words in (("missing", "cannot be read"), ("binary", "cannot be read"), ("short", "too little")):
        done = jeito("compare", "hi", "-m", "toy", "-m", "no.gguf", "--text", tmp_path / name)
        assert (done.code, words in done.err) == (64, True)


def test_exactness_can_be_given_up(jeito: Jeito) -> None:
    runs = json.loads(jeito("compare", "hi", "-m", "toy", "-n", "2", "--no-exact", "--json").out)["runs"]
    assert [one["receipt"]["exact"]["asked"] for one in runs] == [False, False]


def test_every_reply_is_in_the_log(jeito: Jeito, home: Path) -> None:
    runs = json.loads(jeito("compare", "hi", "-m", "toy", "-n", "12", "--json").out)["runs"]
    assert {one.id for one in Log().recent(100)} == {one["id"] for one in runs}
    assert len(runs) == 12


def test_a_reply_that_failed_is_printed_and_makes_the_work_fail(jeito: Jeito) -> None:
    done = jeito("compare", "far too long for it", "-m", "toy", "-n", "2", "--context", "20")
    assert done.code != 0
    assert done.out.count("[error]") == done.err.count("and the context 20") == 2
    assert "Traceback" not in done.err

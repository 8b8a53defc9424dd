"""Training data from what a behaviour gets right: what is kept, what is left out, how it is split."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from jeito.behaviour.load import Loaded, load
from jeito.cli.main import _run
from jeito.decode.local import LocalModel
from jeito.engines.base import Logits
from jeito.engines.toy import END, VOCABULARY, ToyEngine
from jeito.errors import InputError
from jeito.proof.cases import load_cases
from jeito.proof.measured import of_planned
from jeito.proof.runs import Asked, Asking
from jeito.proof.values import Case, Expected
from jeito.trace.log import Log
from jeito.tune import data
from jeito.tune.data import Example
from jeito.tune.pairs import Collected, collect, save
from jeito.types import Message, ToolCall

BEHAVIOUR = """\
system: Say it again.
placement: user_end
examples: [{user: one, assistant: one}]
sampling: {temperature: 0, max_new_tokens: 40}
checks: [{contains: [yes], at_least: 0.9}]
"""
CASES = tuple(Case(name=f"case {number}", prompt=f"{'yes' if number % 3 else 'no'} {number}") for number in range(12))


@pytest.fixture
def behaviour(tmp_path: Path) -> Loaded:
    (tmp_path / "again.yaml").write_text(BEHAVIOUR)
    return load(str(tmp_path / "again.yaml"))


def agree(tokens: Sequence[int]) -> Logits:
    """A model that says yes to everything, then ends."""
    said = bytes(token for token in tokens if token < 256).rpartition(b"<assistant>")[2]
    row = np.zeros(VOCABULARY, np.float32)
    row[b"yes"[len(said)] if len(said) < 3 else END] = 20.0
    return row


def collected(
    behaviour: Loaded, home: Path, *models: LocalModel, bake: bool = True, repeats: int = 2, share: float = 0.25
) -> Collected:
    asking = Asking(CASES, "twelve", repeats, 0)
    return collect(
        Asked("again", "again", behaviour), asking, models, Log(home / "log.db"), bake=bake, share=share,
        setting_of=of_planned,
    )  # fmt: skip


def test_what_passes_is_kept_once_and_the_card_counts_the_rest(behaviour: Loaded, home: Path, toy: LocalModel) -> None:
    found = collected(behaviour, home, toy)
    card = found.card
    assert (card.replies, card.passed, card.same, card.refused) == (24, 16, 8, {"contains": 8})
    assert card.without == ("case 0", "case 3", "case 6", "case 9")
    assert card.train + card.held_out == 8
    assert card.models == {"toy": toy.fingerprint}
    assert card.behaviour_fingerprint == behaviour.behaviour.fingerprint()
    assert card.digest == data.digest(found.split)


def test_no_case_stands_on_both_sides_and_held_out_cases_are_there_whether_a_reply_passed_or_not(
    behaviour: Loaded, home: Path, toy: LocalModel
) -> None:
    found = collected(behaviour, home, toy, share=0.5)
    train, apart = ({pair.case for pair in side} for side in found.split)
    held_out = {case.name for case in found.cases}
    assert len(held_out) == 6
    assert apart <= held_out
    assert not train & held_out
    assert held_out & set(found.card.without), "what the behaviour cannot do measures too"


def test_cases_that_ask_the_same_stay_together() -> None:
    names = data.held_out(["a", "b", "a", "c"], share=0.4, seed=3)
    assert len(names) == 1
    assert names == data.held_out(["c", "a", "b"], share=0.4, seed=3), "whatever their order"
    assert data.held_out(["only"], share=0.5, seed=0) == frozenset(), "something has to be learned from"


def test_baked_pairs_have_no_instruction_and_no_examples(behaviour: Loaded, home: Path, toy: LocalModel) -> None:
    baked = collected(behaviour, home, toy, bake=True).split.train[0]
    assert [message.role for message in baked.messages] == ["user", "assistant"]
    assert "again" not in baked.messages[0].content
    assert baked.given == 1


def test_other_pairs_have_both_where_the_behaviour_puts_them(behaviour: Loaded, home: Path, toy: LocalModel) -> None:
    pair = collected(behaviour, home, toy, bake=False).split.train[0]
    assert [message.content for message in pair.messages[:2]] == ["one", "one"]
    assert pair.messages[2].content.endswith("\n\nSay it again.")
    assert pair.given == 3, "the example's answer is shown, not learned"


def test_an_instruction_in_the_system_role_is_given_too(behaviour: Loaded, home: Path, toy: LocalModel) -> None:
    placed = behaviour._replace(behaviour=behaviour.behaviour.model_copy(update={"placement": "system"}))
    pair = collected(placed, home, toy, bake=False).split.train[0]
    assert pair.messages[0] == Message(role="system", content="Say it again.")
    assert (pair.given, len(pair.messages)) == (4, 5)


def test_a_teacher_is_asked_only_what_no_reply_passed(behaviour: Loaded, home: Path, toy: LocalModel) -> None:
    teacher = LocalModel(ToyEngine(agree), "teacher")
    found = collected(behaviour, home, toy, teacher)
    assert found.card.replies == 24 + 4 * 2
    assert found.card.without == ()
    taught = [pair for side in found.split for pair in side if pair.messages[-1].content == "yes"]
    assert {pair.case for pair in taught} == {"case 0", "case 3", "case 6", "case 9"}
    assert set(found.card.models) == {"toy", "teacher"}


def test_a_reply_that_was_cut_off_teaches_nothing(behaviour: Loaded, home: Path, toy: LocalModel) -> None:
    sampling = behaviour.behaviour.sampling.model_copy(update={"max_new_tokens": 4})
    short = behaviour._replace(behaviour=behaviour.behaviour.model_copy(update={"sampling": sampling}))
    with pytest.raises(InputError, match="none of 24 replies passed: 24 ended by length"):
        collected(short, home, toy)


def test_without_anything_to_check_no_reply_is_better_than_another(home: Path, toy: LocalModel) -> None:
    with pytest.raises(InputError, match="has no checks"):
        collected(load("plain"), home, toy)


def test_a_case_that_expects_nothing_is_judged_by_the_behaviours_checks(
    behaviour: Loaded, home: Path, toy: LocalModel
) -> None:
    wrong = Case(name="other", prompt="yes or no?", expect=Expected(text="no"))
    asking = Asking((*CASES, wrong), "thirteen", 1, 0)
    found = collect(
        Asked("again", "again", behaviour), asking, [toy], Log(home / "log.db"), bake=True, share=0.25,
        setting_of=of_planned,
    )  # fmt: skip
    assert found.card.passed == 8
    assert "other" in found.card.without
    assert "correct: not measured" not in found.card.refused


def test_calls_that_differ_by_their_ids_are_the_same() -> None:
    ask = Message(role="user", content="What is the time?")
    calls = [ToolCall(id=id, name=name, arguments={}) for id, name in (("1", "time"), ("2", "time"), ("3", "date"))]
    examples = [Example(messages=(ask, Message(role="assistant", content="", calls=(call,)))) for call in calls]
    assert [example.messages[1].calls[0].id for example in data.distinct(examples)] == ["1", "3"]


def test_what_was_written_is_read_again(behaviour: Loaded, home: Path, toy: LocalModel, tmp_path: Path) -> None:
    found = collected(behaviour, home, toy)
    save(tmp_path / "pairs", found)
    assert data.read(tmp_path / "pairs", share=0.9, seed=7) == found.split, "split already: share and seed say nothing"
    assert load_cases(str(tmp_path / "pairs" / data.CASES)) == found.cases
    card = json.loads((tmp_path / "pairs" / data.CARD).read_text())
    assert card["digest"] == found.card.digest


def test_pairs_of_which_nothing_is_held_out_are_read_again(
    behaviour: Loaded, home: Path, toy: LocalModel, tmp_path: Path
) -> None:
    found = collected(behaviour, home, toy, share=0)
    save(tmp_path / "pairs", found)
    assert (tmp_path / "pairs" / data.HELD_OUT).read_text() == ""
    assert data.read(tmp_path / "pairs", share=0.5, seed=1) == found.split


def test_calls_are_written_as_others_read_them(tmp_path: Path) -> None:
    call = ToolCall(id="call-0", name="now", arguments={"zone": "UTC"})
    example = Example(
        messages=(
            Message(role="user", content="When?"), Message(role="assistant", content="", calls=(call,)),
            Message(role="tool", content="noon", call_id="call-0"), Message(role="assistant", content="Noon."),
        ),
        tools=({"type": "function", "function": {"name": "now"}},),
    )  # fmt: skip
    data.write(tmp_path / "chat.jsonl", [example])
    line = json.loads((tmp_path / "chat.jsonl").read_text())
    assert line["messages"][1]["tool_calls"][0]["function"] == {"name": "now", "arguments": '{"zone": "UTC"}'}
    assert line["messages"][2]["tool_call_id"] == "call-0"
    assert data.read_chat(tmp_path / "chat.jsonl") == [example]


GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "this is not JSON"),
        ("[1]", "a line is an object"),
        ("{}", "messages: Field required"),
        ('{"messages": []}', "no turn of the assistant"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no turn of the assistant"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "messages.0.role"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "the assistant speaks first"),
        (GOOD.replace('"b"', '" "'), "a turn of the assistant is empty"),
        (GOOD.replace('"b"', "3"), "messages.1.content"),
        (GOOD[:-1] + ', "weights": 1}', "weights: Extra inputs"),
        (GOOD.replace('"content": "b"', '"tool_calls": [{"function": {"name": "x", "arguments": "{"}}]'),
         "this is not JSON"),
        (GOOD.replace('"content": "b"', '"tool_calls": [3]'), "messages.1.calls.0"),
    ],
)  # fmt: skip
def test_a_broken_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(InputError, match=said) as refused:
        data.read_chat(file)
    assert str(refused.value).startswith(f"{file}:3: ")
    assert refused.value.hint


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\n")
    for name, said in (("empty.jsonl", "is empty"), ("none.jsonl", "there is no file"), ("latin.jsonl", "as text")):
        with pytest.raises(InputError, match=said):
            data.read_chat(tmp_path / name)
    with pytest.raises(InputError, match=r"has no train\.jsonl"):
        data.read(tmp_path, share=0.5, seed=0)


@pytest.fixture
def jeito(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["jeito", *map(str, words)])
        capsys.readouterr()
        return (_run(), *capsys.readouterr())

    return call


def test_the_command_writes_pairs_and_a_second_one_runs_nothing_again(
    behaviour: Loaded, tmp_path: Path, home: Path, jeito: Callable[..., tuple[int, str, str]]
) -> None:
    lines = [json.dumps({"name": case.name, "prompt": case.prompt}) + "\n" for case in CASES]
    (tmp_path / "cases.jsonl").write_text("".join(lines))
    words = ("pairs", tmp_path / "again.yaml", "-m", "toy", "--cases", tmp_path / "cases.jsonl", "--bake", "-n", 1)
    code, out, _ = jeito(*words)
    assert code == 0
    assert "8 of 12 replies passed" in out
    assert "4 contains" in out
    folder = home / "pairs" / "again"
    before = (folder / data.TRAIN).read_text()
    runs = len(Log().recent(100))
    assert jeito(*words)[0] == 0
    assert len(Log().recent(100)) == runs == 12
    assert (folder / data.TRAIN).read_text() == before


def test_conversations_of_ones_own_are_checked_told_apart_and_split(
    tmp_path: Path, jeito: Callable[..., tuple[int, str, str]]
) -> None:
    lines = [GOOD.replace('"a"', f'"ask {number % 4}"') for number in range(8)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    code, out, _ = jeito("pairs", "--from", tmp_path / "chat.jsonl", "--to", tmp_path / "pairs", "--json")
    assert code == 0
    card = json.loads(out)["card"]
    assert (card["replies"], card["same"], card["train"], card["held_out"]) == (8, 4, 3, 1)
    code, _, err = jeito("pairs", "again")
    assert code == 64
    assert "a behaviour and cases" in err

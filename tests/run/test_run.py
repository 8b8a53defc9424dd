import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.engines.base import Logits
from jeito.engines.toy import END, ToyEngine, babble, echo
from jeito.errors import BehaviourError, ContextError, EngineError, InputError, UnsupportedError
from jeito.run.run import Run, run
from jeito.trace.log import Log
from jeito.types import Message, Sourced

Make = Callable[..., LocalModel]


def breaks_after(tokens: int) -> Callable[[Sequence[int]], Logits]:
    """A model that fails once its reply has so many letters."""

    def score(held: Sequence[int]) -> Logits:
        if len(bytes(token for token in held if token < 256).rpartition(b"<assistant>")[2]) >= tokens:
            raise EngineError("the machine is on fire")
        return echo(held)

    return score


def written(tmp_path: Path, text: str, name: str = "mine") -> str:
    file = tmp_path / f"{name}.yaml"
    file.write_text(text)
    return str(file)


def ids(one: Run) -> list[int]:
    return [token.id for token in one.trace.tokens]


def test_nothing_is_asked_and_nothing_logged_before_the_first_token_is_wanted(
    model: LocalModel, engine: ToyEngine, log: Log
) -> None:
    reply = run("plain", model, "hi", log=log)
    assert engine.calls == []
    assert not log.path.exists()
    assert reply.trace.finish is None
    assert next(iter(reply)).text == "h"
    assert engine.calls
    assert len(log.recent()) == 1


def test_no_more_is_computed_than_is_read(made_of: Make) -> None:
    model = made_of(echo)
    reply = iter(run("plain", model, "a long question"))
    next(reply)
    engine = model.decoder.engine
    assert isinstance(engine, ToyEngine)
    calls = len(engine.calls)
    next(reply)
    assert len(engine.calls) == calls + 1


def test_the_tokens_make_the_answer(model: LocalModel) -> None:
    reply = run("plain", model, "olá!")
    assert "".join(token.text for token in reply) == reply.trace.answer == "olá!"


def test_every_value_of_the_receipt_names_the_file_and_line_that_it_comes_from(
    model: LocalModel, tmp_path: Path
) -> None:
    parent = written(tmp_path, "sampling:\n  temperature: 0.3\n  top_p: 0.5\n", "parent")
    child = written(tmp_path, "extends: parent.yaml\nsystem: Be brief.\nsampling:\n  top_p: 0.9\n", "child")
    reply = run(f"{child}+top_k=5", model, "hi", seed=3)
    reply.text()
    values = reply.trace.receipt.values
    assert values["temperature"] == Sourced(value=0.3, source="behaviour", file=parent, line=2)
    assert values["top_p"] == Sourced(value=0.9, source="behaviour", file=child, line=4)
    assert values["system"] == Sourced(value="Be brief.", source="behaviour", file=child, line=2)
    assert values["top_k"] == Sourced(value=5, source="flag")
    assert values["seed"] == Sourced(value=3, source="flag")
    assert values["min_p"] == Sourced(value=0.0, source="neutral")


def test_a_finished_run_is_logged_whole(model: LocalModel, log: Log) -> None:
    reply = run("plain+max_new_tokens=20", model, "hi", seed=9, case="greeting", log=log)
    reply.text()
    trace = reply.trace
    assert log.get(trace.id) == trace
    assert (trace.finish, trace.answer, trace.error) == ("stop", "hi", None)
    assert [token.id for token in trace.tokens] == [*b"hi", 256]
    assert (trace.usage.prompt, trace.usage.cached, trace.usage.generated) == (20, 0, 3)
    assert (trace.seed, trace.request.sampling.seed, trace.case) == (9, 9, "greeting")
    assert (trace.behaviour, trace.model) == ("plain+max_new_tokens=20", "toy")
    assert trace.model_fingerprint == model.fingerprint
    assert trace.prompt == "<user>hi\n<assistant>"
    assert trace.environment["engine"] == "toy"
    assert trace.environment.keys() > {"jeito", "python", "platform", "context", "weight_bytes"}
    assert reply.losses == []


def test_the_log_keeps_the_behaviour_as_it_ran_with_every_value_that_acted(model: LocalModel, log: Log) -> None:
    reply = run("technical+temperature=0.1", model, "hi", seed=9, log=log)
    reply.text()
    kept = json.loads(log.behaviour_of(reply.trace.id))
    assert kept["system"] == reply.trace.request.system != ""
    assert kept["sampling"] == reply.trace.request.sampling.model_dump(mode="json")
    assert (kept["sampling"]["temperature"], kept["sampling"]["seed"]) == (0.1, 9)


def test_a_run_is_in_the_log_as_unfinished_while_it_goes_on(model: LocalModel, log: Log) -> None:
    reply = run("plain", model, "hi", log=log)
    tokens = iter(reply)
    next(tokens)
    assert [one.id for one in log.recent(finish="unfinished")] == [reply.trace.id]
    list(tokens)
    assert log.recent(finish="unfinished") == []


def test_a_reply_that_reaches_its_length_says_so(model: LocalModel, log: Log) -> None:
    reply = run("plain+max_new_tokens=2", model, "hello", log=log)
    assert reply.text() == "he"
    assert log.get(reply.trace.id).finish == "length"


def test_a_limit_ends_a_run_frees_its_slot_and_says_which_limit_it_was(made_of: Make, log: Log) -> None:
    model = made_of(echo, slots=1)
    reply = run("plain+limits.tokens=2", model, "hello", log=log)
    assert reply.text() == "he"
    kept = log.get(reply.trace.id)
    assert (kept.finish, kept.why, kept.error) == ("limit", "limits.tokens: 2", None)
    assert (kept.usage.prompt, kept.usage.generated, len(kept.tokens)) == (23, 2, 2)
    assert run("plain+limits.seconds=0.000001", model, "hello").text() != "hello"
    assert run("plain", model, "again").text() == "again"


def test_a_reply_that_ends_with_its_last_allowed_token_has_ended_by_itself(model: LocalModel) -> None:
    for behaviour, finish in (("plain+limits.tokens=3", "stop"), ("plain+limits.tokens=2+max_new_tokens=2", "length")):
        reply = run(behaviour, model, "hi")
        assert reply.text() == "hi"
        assert (reply.trace.finish, reply.trace.why) == (finish, None)


def test_a_run_that_fails_before_its_first_token_is_logged_with_its_error(made_of: Make, log: Log) -> None:
    reply = run("plain", made_of(echo, context=16), "hello", log=log)
    with pytest.raises(ContextError, match="23 tokens and the context 16"):
        reply.text()
    kept = log.get(reply.trace.id)
    assert (kept.finish, kept.answer, kept.tokens) == ("error", "", ())
    assert "23 tokens" in (kept.error or "")


def test_a_run_that_fails_in_mid_reply_is_logged_with_what_had_come(made_of: Make, log: Log) -> None:
    reply = run("plain", made_of(breaks_after(3)), "hello", log=log)
    with pytest.raises(EngineError, match="on fire"):
        reply.text()
    kept = log.get(reply.trace.id)
    assert kept == reply.trace
    assert (kept.finish, kept.error, kept.answer) == ("error", "the machine is on fire", "hel")
    assert [token.id for token in kept.tokens] == [*b"hel"]
    assert (kept.usage.prompt, kept.usage.generated) == (23, 3)


def test_a_run_that_is_closed_early_is_logged_as_cancelled_with_what_had_come(model: LocalModel, log: Log) -> None:
    reply = run("plain", model, "hello", log=log)
    tokens = iter(reply)
    next(tokens), next(tokens)
    reply.close()
    kept = log.get(reply.trace.id)
    assert kept == reply.trace
    assert (kept.finish, kept.answer, kept.error) == ("cancelled", "he", None)
    assert [token.id for token in kept.tokens] == [*b"he"]
    # What was computed is counted, although the model never came to its own count.
    assert (kept.usage.prompt, kept.usage.cached, kept.usage.generated) == (23, None, 2)
    assert kept.seconds.total > 0
    assert list(tokens) == []
    assert log.get(reply.trace.id) == kept


def test_an_abandoned_run_is_cancelled_and_frees_its_slot(made_of: Make, log: Log) -> None:
    model = made_of(echo, slots=1)
    for token in run("plain", model, "hello", log=log):
        assert token.text == "h"
        break
    assert run("plain", model, "again").text() == "again"
    assert [one.finish for one in log.recent()] == ["cancelled"]


def test_an_interrupt_while_the_model_makes_ready_leaves_a_cancelled_run(log: Log) -> None:
    class Interrupted(ToyEngine):
        def tokens(self, text: str, special: bool) -> list[int]:
            raise KeyboardInterrupt

    reply = run("plain", LocalModel(Interrupted(), "toy"), "hello", log=log)
    with pytest.raises(KeyboardInterrupt):
        reply.text()
    assert log.get(reply.trace.id).finish == "cancelled"


def test_a_run_given_up_before_it_began_was_never_asked_of_anyone(
    model: LocalModel, engine: ToyEngine, log: Log
) -> None:
    reply = run("plain", model, "hello", log=log)
    reply.close()
    assert reply.trace.finish == "cancelled"
    assert list(reply) == []
    assert (reply.losses, log.recent(), engine.calls) == ([], [], [])


def test_a_run_that_is_over_stays_as_it_is(model: LocalModel, log: Log) -> None:
    reply = run("plain", model, "hi", log=log)
    reply.text()
    trace = reply.trace
    reply.close()
    assert list(reply) == []
    assert reply.text() == "hi"
    assert reply.trace is trace
    assert len(log.recent()) == 1


def test_a_reply_comes_although_its_log_cannot_be_written(model: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    reply = run("plain", model, "hi", log=Log(tmp_path / "taken" / "log.db"))
    assert reply.text() == "hi"
    assert reply.trace.finish == "stop"
    (loss,) = reply.losses
    assert reply.trace.id in loss
    assert "taken" in loss


def test_a_log_that_can_be_written_by_the_end_has_the_whole_run(model: LocalModel, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file where the folder should be")
    log = Log(taken / "log.db")
    reply = run("plain", model, "hi", log=log)
    tokens = iter(reply)
    next(tokens)
    assert reply.losses
    taken.unlink()
    list(tokens)
    assert reply.losses == []
    assert log.get(reply.trace.id) == reply.trace
    assert reply.trace.answer == "hi"


def test_a_log_that_is_lost_in_mid_reply_is_said(model: LocalModel, log: Log) -> None:
    reply = run("plain", model, "hi", log=log)
    tokens = iter(reply)
    next(tokens)
    log.path.write_bytes(b"no database at all, but long enough to be looked at closely" * 99)
    log.path.with_name("log.db-wal").unlink()
    assert [token.text for token in tokens] == ["i", ""]
    (loss,) = reply.losses
    assert reply.trace.id in loss


def test_a_seed_that_nobody_gave_is_drawn_once_and_written_down(made_of: Make) -> None:
    model = made_of()
    replies = [run("plain+max_new_tokens=30", model, "hi") for _ in range(3)]
    texts = [reply.text() for reply in replies]
    for reply, text in zip(replies, texts, strict=True):
        seed = reply.trace.seed
        assert reply.trace.receipt.values["seed"] == Sourced(value=seed, source="drawn")
        assert reply.trace.request.sampling.seed == seed
        assert run("plain+max_new_tokens=30", model, "hi", seed=seed).text() == text
    assert len({reply.trace.seed for reply in replies}) == len(set(texts)) == 3


def test_the_callers_seed_wins_over_the_behaviours(model: LocalModel) -> None:
    assert run("plain+seed=5", model, "hi").trace.seed == 5
    assert run("plain+seed=5", model, "hi", seed=6).trace.seed == 6


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_does_not_fit_is_refused(model: LocalModel, seed: int) -> None:
    with pytest.raises(InputError, match=str(seed)):
        run("plain", model, "hi", seed=seed)


def test_examples_come_after_the_instruction_and_history_before_the_question(model: LocalModel, tmp_path: Path) -> None:
    behaviour = written(tmp_path, "system: Be kind.\nexamples:\n  - {user: one, assistant: two}\n")
    history = [Message(role="user", content="three"), Message(role="assistant", content="four")]
    reply = run(behaviour, model, "five", history=history)
    assert reply.text() == "five"
    assert reply.trace.prompt == (
        "<system>Be kind.\n<user>one\n<assistant>two\n<user>three\n<assistant>four\n<user>five\n<assistant>"
    )


def test_a_whole_conversation_can_be_asked(model: LocalModel) -> None:
    turns = [
        Message(role="user", content="a"),
        Message(role="assistant", content="b"),
        Message(role="user", content="c"),
    ]
    reply = run("plain", model, turns)
    assert reply.text() == "c"
    assert reply.trace.request.messages == tuple(turns)


@pytest.mark.parametrize("nothing", ["", " \n\t", []])
def test_an_empty_prompt_is_refused(model: LocalModel, nothing: str | list[Message]) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        run("plain", model, nothing)


NEEDS = {
    "adapters": "adapter: [{path: a.gguf}]\n",
    "steering": "steering: [{vector: v.gguf}]\n",
    "reasoning": "reasoning: {budget: 9}\n",
}


@pytest.mark.parametrize("need", NEEDS)
def test_what_the_model_cannot_honour_is_refused_before_anything_is_asked(
    model: LocalModel, engine: ToyEngine, log: Log, tmp_path: Path, need: str
) -> None:
    with pytest.raises(UnsupportedError, match=need) as caught:
        run(written(tmp_path, NEEDS[need]), model, "hi", log=log)
    assert "--allow-unsupported" in caught.value.hint
    assert engine.calls == []
    assert log.recent() == []


@pytest.mark.parametrize("need", NEEDS)
def test_what_is_not_honoured_by_leave_is_a_line_of_the_receipt(
    model: LocalModel, log: Log, tmp_path: Path, need: str
) -> None:
    reply = run(written(tmp_path, NEEDS[need]), model, "hi", allow_unsupported=True, log=log)
    assert reply.text() == "hi"
    (line,) = log.get(reply.trace.id).receipt.unsupported
    assert need in line


def test_a_contract_is_held_to_and_its_schema_keeps_its_order(made_of: Make, log: Log, tmp_path: Path) -> None:
    properties = "{z: {type: boolean}, a: {enum: [x, yy]}}"
    schema = f"{{type: object, properties: {properties}, required: [z, a], additionalProperties: false}}"
    reply = run(written(tmp_path, f"output: {{json_schema: {schema}}}\n"), made_of(), "hi", log=log, seed=1)
    assert list(json.loads(reply.text())) == ["z", "a"]
    kept = log.get(reply.trace.id)
    assert kept.request.output is not None
    assert list(kept.request.output.json_schema["properties"]) == ["z", "a"]
    assert kept.usage.forced == sum(token.forced for token in kept.tokens) > 0


def test_another_order_of_properties_is_another_behaviour(tmp_path: Path) -> None:
    first, second = (
        load(written(tmp_path, f"output: {{json_schema: {{properties: {{{order}}}}}}}\n")).behaviour
        for order in ("a: true, b: true", "b: true, a: true")
    )
    assert first.output == second.output
    assert first.fingerprint() != second.fingerprint()


THINKS = "{# <think> </think> #}" + (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}<assistant>"
)


def test_reasoning_stands_beside_the_answer_and_a_spent_budget_in_the_receipt(
    made_of: Make, log: Log, tmp_path: Path
) -> None:
    model = made_of(echo)
    model.decoder.engine.card = replace(model.decoder.engine.card, template=THINKS)
    model = LocalModel(model.decoder.engine, "toy")
    ask = "<think>one two three</think>four"
    free = run("plain+temperature=0", model, ask, log=log)
    assert free.text() == "four"
    assert (free.trace.reasoning, free.trace.receipt.notes) == ("one two three", ())
    held = run("plain+temperature=0+reasoning.budget=4", model, ask, log=log)
    held.text()
    kept = log.get(held.trace.id)
    assert kept.reasoning == "one"
    assert kept.receipt.notes == ("the reasoning was closed after 4 tokens, its budget",)
    assert kept.answer.endswith("four")


def test_a_loop_ends_a_run_where_the_behaviour_guards_against_it(made_of: Make) -> None:
    reply = run("plain+temperature=0+guard.repetition.tokens=6", made_of(echo), "so " * 30)
    reply.text()
    assert (reply.trace.finish, len(reply.trace.tokens)) == ("repetition", 12)


def test_an_empty_reply_is_refused_where_the_behaviour_says_so(made_of: Make) -> None:
    def silent(tokens: Sequence[int]) -> Logits:
        row = babble(tokens)
        row[END] = 50
        return row

    assert run("plain", made_of(silent), "hi").text() == ""
    assert run("plain+guard.empty=refuse", made_of(silent), "hi").text().strip() != ""


def test_a_behaviour_that_needs_more_context_than_there_is_is_refused(made_of: Make, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"4096 tokens, and this model has 512"):
        run(written(tmp_path, "requires: {context: 4096}\n"), made_of(echo, context=512), "hi")


def test_an_unknown_behaviour_is_refused_with_near_names(model: LocalModel) -> None:
    with pytest.raises(BehaviourError) as caught:
        run("tecnical", model, "hi")
    assert "technical" in caught.value.hint


def test_log_probabilities_come_when_they_are_asked_for(made_of: Make) -> None:
    behaviour = "plain+max_new_tokens=5+temperature=2"
    silent, telling = run(behaviour, made_of(), "hi", seed=1), run(behaviour, made_of(), "hi", seed=1, logprobs=2)
    silent.text(), telling.text()
    assert ids(silent) == ids(telling)
    assert all(token.logprob is None and token.top == () for token in silent.trace.tokens)
    for token in telling.trace.tokens:
        assert len(token.top) == 2
        assert token.logprob is not None
        assert token.logprob <= token.top[0].logprob < 0


def test_the_trace_calls_the_behaviour_what_was_typed_else_its_label_else_its_name(
    model: LocalModel, tmp_path: Path
) -> None:
    file = written(tmp_path, "name: gentle\n")
    assert run(file, model, "hi").trace.behaviour == file
    assert run(load(file), model, "hi").trace.behaviour == "gentle"
    assert run(load(file), model, "hi", label="left").trace.behaviour == "left"


def test_a_reply_that_is_not_exact_says_why_and_an_exact_one_in_which_shape(made_of: Make) -> None:
    loose, exact = run("plain", made_of(), "hi"), run("plain+exact=true", made_of(), "hi")
    loose.text(), exact.text()
    assert (loose.trace.receipt.exact.asked, loose.trace.receipt.exact.held) == (False, False)
    assert loose.trace.receipt.exact.why == "not asked for"
    assert (exact.trace.receipt.exact.asked, exact.trace.receipt.exact.held) == (True, True)
    assert exact.trace.receipt.exact.shape == "1 to 64 rows"


def test_dropped_turns_are_in_the_receipt(made_of: Make, log: Log) -> None:
    history = [Message(role="user", content="x" * 60), Message(role="assistant", content="y" * 60)]
    reply = run("plain+guard.overflow=drop_oldest", made_of(echo, context=100), "hi", history=history, log=log)
    assert reply.text() == "hi"
    dropped = log.get(reply.trace.id).receipt.dropped
    assert [line[:9] for line in dropped] == ["user: xxx", "assistant"]


def test_a_logit_that_is_no_number_fails_the_run_with_a_sentence(made_of: Make) -> None:
    def broken(tokens: Sequence[int]) -> Logits:
        return np.full_like(babble(tokens), np.nan)

    reply = run("plain", made_of(broken), "hi")
    with pytest.raises(EngineError, match="nan"):
        reply.text()
    assert reply.trace.finish == "error"

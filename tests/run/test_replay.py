from collections.abc import Callable, Sequence
from itertools import islice

import pytest

from jeito.decode.local import LocalModel
from jeito.engines.base import Logits
from jeito.engines.toy import ToyEngine, babble, echo
from jeito.errors import JeitoError
from jeito.run.replay import replay
from jeito.run.run import run, together
from jeito.trace.log import Log
from jeito.types import Trace

Make = Callable[..., LocalModel]
EXACT = "plain+exact=true+max_new_tokens=30"
LOOSE = "plain+max_new_tokens=30"


def until_the_fifth_letter(tokens: Sequence[int]) -> Logits:
    """The same model as `babble`, but after four letters it says nothing but `!`."""
    row = babble(tokens)
    if len(bytes(token for token in tokens if token < 256).rpartition(b"<assistant>")[2]) >= 4:
        row[:] = -100
        row[ord("!")] = 0
    return row


def breaks(tokens: Sequence[int]) -> Logits:
    raise JeitoError("the machine is on fire")


def said(model: LocalModel, behaviour: str = EXACT, *, seed: int = 1, ask: str = "hi") -> Trace:
    reply = run(behaviour, model, ask, seed=seed)
    reply.text()
    return reply.trace


def test_a_run_again_is_the_same(made_of: Make) -> None:
    trace = said(made_of())
    (found,) = replay([trace], made_of())
    assert (found.id, found.verdict, found.tokens) == (trace.id, "same", len(trace.tokens))
    assert (found.at, found.expected, found.found, found.why) == (None, None, None, "")


def test_a_run_is_followed_from_the_log_of_another_process(made_of: Make, log: Log) -> None:
    reply = run("creative+max_new_tokens=30", made_of(), "hi", log=log)
    reply.text()
    (found,) = replay(log.recent(), made_of())
    assert found.verdict == "same"
    assert len(log.recent()) == 1  # a replay is no run of its own


def test_a_run_under_a_contract_again_is_the_same_forced_tokens_too(demo_model: LocalModel, log: Log) -> None:
    behaviours = ["plain+exact=true+output.choice=[\"a blue whale\", \"a bluebird\"]",
                  "plain+exact=true+output.regex=\"It is [a-z]{3,9}, said [A-Z][a-z]{2,5}\\\\.\""]  # fmt: skip
    runs = [
        run(behaviour, demo_model, "What is it?", seed=seed, log=log) for behaviour in behaviours for seed in (1, 2)
    ]
    for _ in together(runs):
        pass
    assert all(one.trace.usage.forced for one in runs)
    assert [found.verdict for found in replay(log.recent(), demo_model)] == ["same"] * 4


def test_the_first_token_that_differs_is_named(made_of: Make) -> None:
    trace = said(made_of())
    (found,) = replay([trace], made_of(until_the_fifth_letter))
    assert (found.verdict, found.at, found.tokens) == ("different", 4, 4)
    assert found.expected == trace.tokens[4]
    assert found.found is not None
    assert (found.found.text, found.found.id) == ("!", ord("!"))


def test_a_model_that_changed_is_named_as_the_reason(made_of: Make) -> None:
    (found,) = replay([said(made_of())], made_of(until_the_fifth_letter))
    assert "the model is not the same" in found.why


def test_a_model_that_changed_and_says_the_same_is_noted(made_of: Make) -> None:
    trace = said(made_of())
    (found,) = replay([trace.model_copy(update={"model_fingerprint": "another"})], made_of())
    assert found.verdict == "same"
    assert "the model is not the same" in found.why


def test_a_prompt_that_is_rendered_differently_is_named_as_the_reason(made_of: Make) -> None:
    engine = ToyEngine(babble).without_template()
    (found,) = replay([said(made_of())], LocalModel(engine, "toy"))
    assert found.verdict == "different"
    assert "the prompt is rendered differently" in found.why


@pytest.mark.parametrize(
    ("behaviour", "words"), [(EXACT, "an exact reply should not differ"), (LOOSE, "the run was not exact")]
)
def test_without_another_reason_it_is_said_whether_the_run_was_exact(made_of: Make, behaviour: str, words: str) -> None:
    trace = said(made_of(), behaviour)
    tokens = (*trace.tokens[:2], trace.tokens[2].model_copy(update={"id": 1}), *trace.tokens[3:])
    (found,) = replay([trace.model_copy(update={"tokens": tokens})], made_of())
    assert (found.verdict, found.at) == ("different", 2)
    assert words in found.why


def test_a_reply_that_goes_on_differs_at_its_end(made_of: Make) -> None:
    trace = said(made_of())
    shorter = trace.model_copy(update={"tokens": trace.tokens[:6]})
    (found,) = replay([shorter], made_of())
    assert (found.verdict, found.at, found.expected) == ("different", 6, None)
    assert found.found == trace.tokens[6]


def test_a_reply_that_ends_sooner_differs_at_its_end(made_of: Make) -> None:
    trace = said(made_of())
    longer = trace.model_copy(update={"tokens": (*trace.tokens, trace.tokens[0])})
    (found,) = replay([longer], made_of())
    assert (found.verdict, found.at, found.found) == ("different", len(trace.tokens), None)
    assert found.expected == trace.tokens[0]


def test_the_same_tokens_with_another_end_differ(made_of: Make) -> None:
    trace = said(made_of()).model_copy(update={"finish": "contract"})
    (found,) = replay([trace], made_of())
    assert found.verdict == "different"
    assert "it ended by length, not contract" in found.why


def test_a_run_that_failed_cannot_be_followed(made_of: Make) -> None:
    reply = run("plain", made_of(context=10), "hi")
    with pytest.raises(JeitoError):
        reply.text()
    (found,) = replay([reply.trace], made_of())
    assert found.verdict == "impossible"
    assert "the context 10" in found.why


def test_a_run_that_never_ended_cannot_be_followed(made_of: Make, log: Log) -> None:
    reply = run("plain", made_of(), "hi", log=log)
    next(iter(reply.start()))
    trace = log.get(reply.trace.id).model_copy(update={"finish": None})
    (found,) = replay([trace], made_of())
    assert (found.verdict, found.why) == ("impossible", "the run never ended")


def test_a_model_that_fails_now_makes_a_replay_impossible_and_leaves_the_others(made_of: Make) -> None:
    long, short = said(made_of(), ask="x" * 90), said(made_of())
    for behaviour in (EXACT, LOOSE):
        long, short = said(made_of(), behaviour, ask="x" * 90), said(made_of(), behaviour)
        results = replay([long, short], made_of(context=80))
        assert [one.verdict for one in results] == ["impossible", "same"]
        assert "the context 80" in results[0].why


@pytest.mark.parametrize("behaviour", [EXACT, LOOSE])
@pytest.mark.parametrize("read", [0, 7])
def test_a_run_that_was_broken_off_is_followed_as_far_as_it_got(made_of: Make, behaviour: str, read: int) -> None:
    reply = run(behaviour, made_of(), "hi", seed=1)
    tokens = iter(reply.start())
    list(islice(tokens, read))
    reply.close()
    assert (reply.trace.finish, len(reply.trace.tokens)) == ("cancelled", read)
    model = made_of()
    (found,) = replay([reply.trace], model)
    assert (found.verdict, found.tokens) == ("same", read)
    assert model.decoder.active == []


def test_a_run_that_reached_a_limit_is_followed_as_far_as_it_got(made_of: Make) -> None:
    trace = said(made_of(), EXACT + "+limits.tokens=5")
    assert trace.finish == "limit"
    (found,) = replay([trace], made_of())
    assert (found.verdict, found.tokens) == ("same", 5)


def test_a_run_that_was_broken_off_can_differ_too(made_of: Make) -> None:
    reply = run(EXACT, made_of(), "hi", seed=1)
    list(islice(reply, 7))
    reply.close()
    (found,) = replay([reply.trace], made_of(until_the_fifth_letter))
    assert (found.verdict, found.at) == ("different", 4)


def test_results_come_in_the_order_of_the_traces(made_of: Make) -> None:
    traces = [said(made_of(), behaviour, seed=seed) for seed in range(3) for behaviour in (LOOSE, EXACT)]
    results = replay(traces, made_of())
    assert [one.id for one in results] == [trace.id for trace in traces]
    assert {one.verdict for one in results} == {"same"}


def test_exact_runs_share_calls_and_others_run_alone(made_of: Make) -> None:
    for behaviour, width in ((EXACT, 4), (LOOSE, 1)):
        model = made_of()
        replay([said(made_of(), behaviour, seed=seed) for seed in range(4)], model)
        engine = model.decoder.engine
        assert isinstance(engine, ToyEngine)
        assert max(len(rows) for rows in engine.calls) == width


def test_runs_of_a_crowd_are_the_same_again(made_of: Make) -> None:
    model = made_of(slots=3)
    runs = [run(EXACT, model, "hi", seed=seed) for seed in range(8)]
    for _ in together(runs):
        pass
    assert {one.verdict for one in replay([one.trace for one in runs], made_of())} == {"same"}


def test_nothing_to_follow_is_no_result(made_of: Make) -> None:
    assert replay([], made_of(echo)) == []

"""Remote models: the same behaviour on servers that we do not run, and exact words for what goes wrong there."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jeito.behaviour.behaviour import Behaviour, Claim
from jeito.behaviour.load import Loaded, load
from jeito.decode.local import LocalModel
from jeito.engines.base import Loading
from jeito.engines.chat_reply import Reading
from jeito.engines.chat_request import asked
from jeito.engines.remote import Remote, abilities
from jeito.engines.remote_open import open_remote
from jeito.engines.servers import Seen, Server, look, server_of, servers
from jeito.engines.toy import ToyEngine
from jeito.engines.wire import Patience
from jeito.errors import ContextError, EngineError, InputError, JeitoError, ModelError, UnsupportedError
from jeito.proof.cases import load_cases
from jeito.proof.compare import contrast
from jeito.proof.prove import prove
from jeito.proof.runs import Asked, Asking, gather
from jeito.run.open import open_model
from jeito.run.replay import replay
from jeito.run.run import Run, run, together
from jeito.trace.log import Log
from jeito.types import End, Message, Output, Repetition, Request, Sampling, Thinking, Token, ToolCall
from tests.engines.bad_server import BadServer, bad_server

HASTY = Patience(connect=5.0, silence=60.0, tries=3, first=0.001, longest=0.01)
ASK = "A train travels at 80 km/h for 3 hours. How far?"
SCHEMA: dict[str, Any] = {
    "type": "object", "properties": {"km": {"type": "integer", "minimum": 0, "maximum": 999}}, "required": ["km"]
}  # fmt: skip
BRIEF = Claim(name="words", value={"max": 60}, at_least=0.5)
Begin = Callable[..., str]


@pytest.fixture(scope="module")
def begin(kept_facts: Path) -> Iterator[Begin]:
    """Start a server process; its address."""
    begun: list[subprocess.Popen[str]] = []

    def start(*words: str) -> str:
        env = {**os.environ, "JEITO_HOME": str(kept_facts.parent)}
        process = subprocess.Popen(
            [sys.executable, *words], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if "http://127.0.0.1:" in line and "init:" not in line:
                # What it goes on to say is read, so that it never waits for a reader.
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return "http://" + line.rpartition("http://")[2].strip()
        raise AssertionError(f"{words} did not begin")

    start.begun = begun  # type: ignore[attr-defined]
    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def second_jeito(begin: Begin) -> str:
    return begin("-m", "jeito.cli.main", "serve", "-m", "demo", "--port", "0", "--no-log")


@pytest.fixture(scope="module")
def llama_server(begin: Begin, demo: Path) -> str:
    return begin(str(Path(__file__).with_name("llama_server.py")), str(demo)) + "/v1"


def behaviour(name: str = "plain", **keys: Any) -> Loaded:
    loaded = load(name)
    given = Behaviour.model_validate_json(json.dumps(keys))
    return loaded._replace(behaviour=loaded.behaviour.model_copy(update={key: getattr(given, key) for key in keys}))


def opened(server: BadServer, name: str | None = None, patience: Patience = HASTY) -> Remote:
    return open_remote(server.address, server.address, name, patience=patience)


def asked_of(model: Remote, **options: Any) -> Run:
    one = run("plain", model, "Count.", seed=1, **options)
    one.text()
    return one


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


# --- a second jeito


@pytest.mark.parametrize(
    "loaded",
    [
        load("technical", ["max_new_tokens=24"]),
        load("creative", ["max_new_tokens=12"]),
        behaviour(
            system="Be terse.",
            placement="user_end",
            examples=[{"user": "2 km/h for 2 h?", "assistant": "4 km"}],
            output={"json_schema": SCHEMA},
            guard={"empty": "refuse", "repetition": {"tokens": 8, "times": 3}},
        ),
        behaviour(
            sampling={
                "temperature": 1.3, "top_k": 40, "min_p": 0.02, "typical_p": 0.95, "top_n_sigma": 3.0,
                "xtc": {"threshold": 0.1, "probability": 0.5}, "dry": {"multiplier": 0.8, "window": 64},
                "repetition_penalty": 1.1, "repetition_window": 32, "presence_penalty": 0.3, "frequency_penalty": 0.2,
                "logit_bias": {"28": -2.0}, "min_new_tokens": 8, "max_new_tokens": 20, "stop": [" the"],
            }
        ),
        behaviour(output={"regex": "[0-9]{2,3} km"}, sampling={"temperature": 0.0}),
        behaviour(output={"lark": 'start: "about " /[0-9]+/ " km"'}),
    ],
    ids=["technical", "creative", "contract", "every knob", "regex", "lark"],
)  # fmt: skip
def test_a_second_jeito_gives_the_local_reply_token_for_token(
    loaded: Loaded, second_jeito: str, demo_model: LocalModel
) -> None:
    remote = open_model(f"{second_jeito}#demo")
    assert remote.fingerprint == demo_model.fingerprint
    assert remote.abilities == demo_model.abilities - {"adapters", "steering"}
    # What one of them has of the prompt in memory already must not matter.
    own = loaded.behaviour.sampling
    exact = Sampling(**{knob: getattr(own, knob) for knob in own.model_fields_set}, exact=True)
    loaded = loaded._replace(behaviour=loaded.behaviour.model_copy(update={"sampling": exact}))
    traces = []
    for model in (demo_model, remote):
        one = run(loaded, model, ASK, seed=7, logprobs=3)
        one.text()
        traces.append(one.trace)
    here, there = traces
    assert len(here.tokens) > 3
    assert [token.model_dump() for token in there.tokens] == [token.model_dump() for token in here.tokens]
    same = ("answer", "finish", "why", "prompt", "request", "model_fingerprint")
    assert {name: getattr(there, name) for name in same} == {name: getattr(here, name) for name in same}
    assert there.usage.model_copy(update={"cached": 0}) == here.usage.model_copy(update={"cached": 0})
    assert there.receipt == here.receipt
    assert [one.verdict for one in replay([there], demo_model)] == ["same"]
    remote.close()


def test_a_proof_over_a_second_jeito_is_of_replies_made_there_and_finds_what_it_finds_here(
    second_jeito: str, demo_model: LocalModel
) -> None:
    remote, cases, log = open_model(f"{second_jeito}#demo"), load_cases("train:en:simple:6"), Log()
    label = "technical+max_new_tokens=16"
    here, there = (
        prove(label, model, cases, repeats=2, log=log, seed=3, claims=[BRIEF], unit="run", early=False)
        for model in (demo_model, remote)
    )
    assert there.plan.model_fingerprint == here.plan.model_fingerprint
    assert there.plan.digest != here.plan.digest, "what a server says that it is does not make its replies known"
    assert (there.exact, there.runs, there.environment["engine"]) == (True, 12, "remote")
    assert there.findings == here.findings
    asking = Asking(cases, "train", 1, 3)
    one, other = (gather(asking, [Asked(label, label, load(label))], model, log)[0] for model in (demo_model, remote))
    assert [trace.answer for trace in other.traces] == [trace.answer for trace in one.traces]
    (parted,) = contrast([one, other._replace(name="there")]).divergence
    assert parted.identical == 6, "they share their noise"
    remote.close()


def test_calls_come_from_a_second_jeito_and_are_made_here(second_jeito: str, demo_model: LocalModel) -> None:
    loaded = behaviour(
        tools=["calculator"], tool_choice="required", parallel_calls=False,
        sampling={"max_new_tokens": 40, "temperature": 0.0, "exact": True},
        limits={"turns": 2},
    )  # fmt: skip
    remote = open_model(f"{second_jeito}#demo")
    here, there = (run(loaded, model, "What is 6 * 7?", seed=3) for model in (demo_model, remote))
    assert here.text() == there.text()
    assert [step.result for turn in there.trace.turns for step in turn.steps]
    assert [turn.steps[:1] and turn.steps[0].call for turn in there.trace.turns] == [
        turn.steps[:1] and turn.steps[0].call for turn in here.trace.turns
    ]
    assert [token.id for token in there.trace.tokens] == [token.id for token in here.trace.tokens]
    remote.close()


def test_adapters_and_vectors_are_never_sent_and_their_loss_is_said(second_jeito: str) -> None:
    """A second jeito has both: but files that lie here are not there, and no server is sent any."""
    loaded = behaviour(
        adapter=[{"path": "./terse"}], steering=[{"vector": "v.gguf"}], sampling={"max_new_tokens": 2, "seed": 1}
    )
    remote = open_model(f"{second_jeito}#demo")
    with pytest.raises(UnsupportedError, match="cannot honour adapters, steering"):
        run(loaded, remote, ASK)
    one = run(loaded, remote, ASK, allow_unsupported=True)
    one.text()
    said = one.trace.receipt.unsupported
    assert {"this model cannot honour adapters", "this model cannot honour steering"} <= set(said)
    assert one.trace.request.adapter == one.trace.request.steering == ()
    remote.close()
    request = Request(messages=(Message(role="user", content=ASK),), adapter=loaded.behaviour.adapter)
    for server in servers().values():
        assert not {"adapters", "steering"} & abilities(server)
        with pytest.raises(UnsupportedError, match="cannot honour adapter"):
            asked(request, server, "x")


def test_without_a_name_a_second_jeitos_only_model_is_taken_and_not_one_of_its_behaviours(second_jeito: str) -> None:
    remote = open_model(second_jeito)
    assert isinstance(remote, Remote)
    assert remote.served == "demo"
    with pytest.raises(ModelError, match="serves no 'dmeo'") as caught:
        open_model(f"{second_jeito}#dmeo")
    assert "demo" in caught.value.hint
    remote.close()


def test_a_server_killed_in_the_middle_of_a_reply_is_an_error_and_a_row_of_the_log(begin: Begin) -> None:
    url = begin("-m", "jeito.cli.main", "serve", "-m", "toy", "--port", "0", "--no-log")
    remote, log = open_model(f"{url}#toy"), Log()
    one = run("plain+max_new_tokens=2000", remote, "x" * 2000, seed=1, log=log)
    tokens = iter(one)
    next(tokens)
    begin.begun[-1].kill()  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match=f"{url}.*broke off"):
        for _ in tokens:
            pass
    kept = log.get(one.trace.id)
    assert (kept.finish, kept.error) == ("error", one.trace.error)
    assert 1 <= len(kept.tokens) < 2000
    remote.close()


def test_a_jeito_in_front_of_a_server_says_what_the_server_says(begin: Begin) -> None:
    behind = begin("-m", "jeito.cli.main", "serve", "-m", "toy", "--port", "0", "--no-log")
    front = begin("-m", "jeito.cli.main", "serve", "-m", f"{behind}#toy", "--port", "0", "--no-log")
    remote, toy = open_model(f"{front}#toy"), LocalModel(ToyEngine(), "toy")
    here, there = (run("creative", model, "abc", seed=5) for model in (toy, remote))
    assert here.text() == there.text()
    assert here.trace.tokens == there.trace.tokens
    assert remote.fingerprint == toy.fingerprint
    remote.close()


# --- the wheel's llama-server


def test_llama_server_is_known_for_what_it_is_and_takes_every_knob_that_its_table_has(llama_server: str) -> None:
    assert look(llama_server).kind == "llama-server"
    remote = open_model(llama_server)
    knobs = {
        "temperature": 1.2, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "top_n_sigma": 2.0, "typical_p": 0.9,
        "xtc": {"threshold": 0.1, "probability": 0.2}, "dry": {"multiplier": 0.5, "breakers": []},
        "repetition_penalty": 1.2, "presence_penalty": 0.2, "frequency_penalty": 0.1, "logit_bias": {"28": -1.0},
        "max_new_tokens": 9, "stop": ["zzz"], "seed": 2**40 + 5,
    }  # fmt: skip
    assert set(knobs) | {"repetition_window"} == remote.abilities & set(Sampling.model_fields)
    one = run(behaviour(sampling=knobs), remote, ASK)
    one.text()
    notes = one.trace.receipt.notes
    assert one.trace.finish == "length"
    assert one.trace.usage.generated == 9
    assert any("presence_penalty = 0.2: tokens of the prompt count too" in note for note in notes)
    assert any("names no tokens" in note for note in notes)
    assert {token.id for token in one.trace.tokens} == {None}
    remote.close()


def test_greedy_on_llama_server_is_greedy_here_with_the_same_ids(llama_server: str, demo_model: LocalModel) -> None:
    remote = open_model(llama_server)
    loaded = load("conservative", ["temperature=0", "max_new_tokens=12"])
    here, there = (run(loaded, model, ASK, seed=1, logprobs=2) for model in (demo_model, remote))
    assert here.text() == there.text()
    assert [token.id for token in there.trace.tokens] == [token.id for token in here.trace.tokens]
    assert [token.logprob for token in there.trace.tokens] == pytest.approx(
        [token.logprob for token in here.trace.tokens], abs=0.05
    )
    assert {len(token.top) for token in there.trace.tokens} == {2}
    remote.close()


@pytest.mark.parametrize("output", [{"choice": ["yes", "no"]}, {"json_schema": SCHEMA}])
def test_llama_server_holds_contracts(output: dict[str, Any], llama_server: str) -> None:
    remote = open_model(llama_server)
    text = run(behaviour(output=output, sampling={"max_new_tokens": 40}), remote, ASK, seed=2).text()
    assert text in ("yes", "no") if "choice" in output else "km" in json.loads(text)
    remote.close()


def test_several_replies_of_a_server_run_at_once_and_more_wait(llama_server: str) -> None:
    remote = open_model(llama_server)
    assert isinstance(remote, Remote)
    assert remote.slots == 2
    runs = [run("plain+max_new_tokens=6", remote, ASK, seed=seed) for seed in range(5)]
    assert {index for index, _ in together(runs)} == set(range(5))
    assert {one.trace.finish for one in runs} <= {"length", "stop"}
    remote.close()


def test_a_proof_over_llama_server_promises_nothing_exact(llama_server: str) -> None:
    remote, cases, log = open_model(llama_server), load_cases("train:en:simple:6"), Log()
    proof = prove("plain+max_new_tokens=6", remote, cases, repeats=1, log=log, seed=3, claims=[BRIEF], early=False)
    assert (proof.exact, proof.plan.exact, proof.runs) == (False, False, 6)
    assert "not every reply was exact: llama-server promises nothing" in proof.notes
    assert proof.findings[0].passed == 6
    assert {trace.finish for trace in log.recent(9)} <= {"length", "stop"}
    remote.close()


# --- what is sent


@pytest.mark.parametrize("kind", servers())
def test_what_a_kind_has_no_word_for_is_refused_and_never_dropped(kind: str) -> None:
    server, can = server_of(kind), abilities(server_of(kind))
    asks = [Message(role="user", content="hi")]
    values: dict[str, Any] = {
        "temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "top_n_sigma": 1.0, "typical_p": 0.5,
        "xtc": {"threshold": 0.1, "probability": 0.5}, "repetition_penalty": 1.1, "repetition_window": 9,
        "presence_penalty": 0.1, "frequency_penalty": 0.1, "dry": {"multiplier": 1.0}, "logit_bias": {"3": 1.0},
        "min_new_tokens": 2, "max_new_tokens": 77, "stop": ["x"], "exact": True,
    }  # fmt: skip
    assert set(values) | {"seed"} == set(Sampling.model_fields)
    requests = {knob: Request(messages=asks, sampling=_sampling(**{knob: value})) for knob, value in values.items()}
    requests |= {
        "json_schema": Request(messages=asks, output=Output(json_schema=SCHEMA)),
        "regex": Request(messages=asks, output=Output(regex="a")),
        "lark": Request(messages=asks, output=Output(lark="start: /a/")),
        "choice": Request(messages=asks, output=Output(choice=("a",))),
        "budget": Request(messages=asks, reasoning=Thinking(budget=3)),
        "repetition": Request(messages=asks, repetition=Repetition()),
        "refuse_empty": Request(messages=asks, refuse_empty=True),
        "drop_oldest": Request(messages=asks, drop_oldest=True),
        "logprobs": Request(messages=asks, logprobs=1),
        "dialect": Request(messages=asks, dialect="hermes"),
        "tools": Request(messages=asks, tools=[{"type": "function", "function": {"name": "f"}}]),
        "one call": Request(
            messages=asks, tools=[{"type": "function", "function": {"name": "f"}}], parallel_calls=False
        ),
    }
    plain = asked(Request(messages=asks), server, "m").body
    for name, request in requests.items():
        can_say = _can_say(request, server)
        assert can_say or name not in can
        if can_say:
            assert asked(request, server, "m").body != plain, name


def _can_say(request: Request, server: Server) -> bool:
    with suppress(UnsupportedError):
        return bool(asked(request, server, "m"))
    return False


def _sampling(**knobs: Any) -> Sampling:
    return Sampling.model_validate_json(json.dumps(knobs))


def test_vllm_is_told_every_knob_that_a_models_own_files_could_set() -> None:
    request = Request(
        messages=[
            Message(role="user", content="a"),
            Message(role="assistant", content="", calls=[ToolCall(id="c1", name="f", arguments={"x": 1})]),
            Message(role="tool", content="2", call_id="c1"),
        ],
        system="Be terse.",
        placement="user_end",
        sampling=Sampling(temperature=0.2, seed=9, stop=("END",)),
        output=Output(regex="[0-9]+"),
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="f",
        reasoning=Thinking(budget=64),
    )
    made = asked(request, server_of("vllm"), "org/name")
    assert made.body == {
        "model": "org/name", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.2, "top_k": 0,
        "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "max_completion_tokens": 512, "stop": ["END"], "seed": 9, "structured_outputs": {"regex": "[0-9]+"},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": True,
        "thinking_token_budget": 64, "return_token_ids": True,
        "messages": [
            {"role": "user", "content": "a\n\nBe terse."},
            {"role": "assistant", "content": "",
             "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
            {"role": "tool", "content": "2", "tool_call_id": "c1"},
        ],
    }  # fmt: skip
    assert any(note.startswith("output.regex = [0-9]+: in the dialect") for note in made.notes)


def test_llama_server_is_told_its_order_and_to_look_at_all_tokens() -> None:
    request = Request(messages=[Message(role="user", content="a")])
    body = asked(request, server_of("llama-server"), "m").body
    assert body["samplers"].index("temperature") < min(
        map(body["samplers"].index, ("top_k", "top_p", "min_p", "typ_p"))
    )
    assert body["repeat_last_n"] == body["dry_penalty_last_n"] == 2**20  # its version answers 400 to -1
    off = ("top_k", "min_p", "dry_multiplier", "xtc_probability", "presence_penalty", "frequency_penalty")
    assert {body[name] for name in off} == {0}


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_transformers_takes_the_config_that_it_is_sent(temperature: float) -> None:
    from transformers import GenerationConfig

    sampling = Sampling(temperature=temperature, top_k=9, repetition_penalty=1.1, logit_bias={5: 1.0}, seed=1)
    body = asked(
        Request(messages=[Message(role="user", content="a")], sampling=sampling), server_of("transformers"), "m"
    ).body
    config = GenerationConfig(**json.loads(body["generation_config"]))
    config.validate(strict=True)
    assert (config.do_sample, config.max_new_tokens) == (temperature > 0, 512)
    assert config.sequence_bias == [[[5], 1.0]]


# --- what comes back


def reading(*chunks: dict[str, Any], **request: Any) -> tuple[list[Token], End]:
    found = Reading(Request(messages=[Message(role="user", content="a")], **request))
    events = [event for one in chunks for event in found.events(one)]
    return [event for event in events if isinstance(event, Token)], found.end("http://host/v1", [])


def test_a_chunk_of_several_tokens_names_each_and_shows_its_text_with_the_last() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
    tokens, end = reading(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning": "Hm."}, token_ids=[1]),
        chunk({"content": "Hello there"}, token_ids=[2, 3]),
        chunk({"content": ""}, "stop", token_ids=[4]),
        {"choices": [], "usage": usage},
    )
    assert [(token.id, token.text, token.reasoning) for token in tokens] == [
        (1, "", "Hm."), (2, "", ""), (3, "Hello there", ""), (4, "", "")
    ]  # fmt: skip
    assert (end.finish, end.usage.prompt, end.usage.cached, end.usage.generated) == ("stop", 7, 5, 4)
    assert not end.notes


def test_calls_come_in_pieces_and_what_cannot_be_read_is_said() -> None:
    tokens, end = reading(
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x": '}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{oh"}}]}),
        chunk({}, "tool_calls"),
    )
    assert end.calls == (ToolCall(id="a", name="f", arguments={"x": 1}),)
    assert end.unreadable == ("the arguments of 'g' are no JSON object",)
    assert [piece.name + piece.arguments for token in tokens for piece in token.calls] == ["f", '{"x": ', "1}", "g{oh"]


@pytest.mark.parametrize(
    ("theirs", "generated", "finish"),
    [("stop", 4, "stop"), ("length", 512, "length"), ("length", 4, "context"), ("repetition", 4, "repetition"),
     ("content_filter", 4, "stop")],
)  # fmt: skip
def test_a_finish_is_what_it_means_here(theirs: str, generated: int, finish: str) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": generated, "total_tokens": generated + 1}
    _, end = reading(chunk({"content": "a"}), chunk({}, theirs), {"choices": [], "usage": usage})
    assert end.finish == finish
    assert (end.why is None) == (theirs in ("stop", "repetition") or finish == "length")


@pytest.mark.parametrize("wrong", [{"choices": [1]}, {"choices": [{"delta": "a"}]}, {"jeito": {"token": {"id": "x"}}}])
def test_a_chunk_of_another_shape_is_an_error_that_shows_it(wrong: dict[str, Any]) -> None:
    if "jeito" in wrong:
        wrong |= chunk({})
    with pytest.raises(EngineError, match="cannot be read"):
        reading(wrong)


# --- a server that misbehaves


@pytest.mark.parametrize(
    ("misdeed", "kind", "why"),
    [
        ("closes early", EngineError, "broke off"),
        ("closes at once", EngineError, r"no reply: .*\(3 tries\)"),
        ("broken events", EngineError, "an event that is no JSON: .*choices"),
        ("no finish", EngineError, "broke off the reply: no finish_reason"),
        ("gives up", EngineError, "finish_reason 'error'"),
        ("fails in mid-stream", EngineError, "in the middle of a reply: out of memory"),
        ("storm", EngineError, r"429: not now \(3 tries\)"),
        ("fails", EngineError, r"503: not now \(3 tries\)"),
        ("wants a key", InputError, "wants a key"),
        ("no such model", ModelError, "404: no model words"),
        ("too long", ContextError, "maximum context length is 8 tokens"),
    ],
)
def test_what_a_server_does_wrong_is_said_with_what_to_type_next(
    misdeed: Any, kind: type[JeitoError], why: str
) -> None:
    log = Log()
    with bad_server(misdeed) as server:
        one = run("plain", opened(server), "Count.", seed=1, log=log)
        with pytest.raises(kind, match=why) as caught:
            one.text()
        assert caught.value.hint
        assert type(caught.value) is kind
        assert server.address in str(caught.value)
        tries = {"closes at once": 3, "storm": 3, "fails": 3}.get(misdeed, 1)
        assert len(server.bodies) == tries  # never again after the first token
    assert log.get(one.trace.id).finish == "error"


@pytest.mark.parametrize(
    ("misdeed", "why"), [("slow bytes", "no whole event for 0.2 seconds"), ("silent", "nothing came")]
)
def test_a_server_that_says_nothing_is_given_up(misdeed: Any, why: str) -> None:
    with bad_server(misdeed) as server, pytest.raises(EngineError, match=why):
        asked_of(opened(server, patience=HASTY._replace(silence=0.2, tries=1)))


def test_what_is_no_api_is_refused_when_it_is_opened() -> None:
    with bad_server("no API") as server, pytest.raises(InputError, match="is no API") as caught:
        opened(server)
    assert "/v1" in caught.value.hint


def test_nobody_there_is_said_with_the_address() -> None:
    with bad_server() as server:
        url = server.address
    with pytest.raises(EngineError, match=f"nobody answers at {url}.*refused"):
        open_model(url)


def test_a_storm_that_ends_costs_tries_that_the_receipt_tells() -> None:
    with bad_server("storm", storms=2) as server:
        trace = asked_of(opened(server)).trace
    assert trace.answer == "One two three."
    assert sum("tried again" in note and "429" in note for note in trace.receipt.notes) == 2


def test_a_server_that_says_to_come_back_much_later_is_not_waited_for() -> None:
    with bad_server("storm") as server:
        server.pause = 3600
        with pytest.raises(EngineError, match="429") as caught:
            asked_of(opened(server))
        assert "3600 seconds" in caught.value.hint
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("misdeed", "note"), [("wrong usage", "5 and 2 tokens are not 99"), ("no usage", "counts no tokens")]
)
def test_usage_that_cannot_be_right_is_a_note_and_not_believed(misdeed: Any, note: str) -> None:
    with bad_server(misdeed) as server:
        trace = asked_of(opened(server)).trace
    assert any(note in one for one in trace.receipt.notes)
    assert trace.usage.generated == 4


def test_a_stream_may_end_without_its_mark_as_transformers_ends_it() -> None:
    with bad_server("no [DONE]") as server:
        assert asked_of(opened(server)).trace.answer == "One two three."


def test_what_a_kind_cannot_do_is_refused_or_by_leave_a_line_of_the_receipt() -> None:
    loaded = behaviour(
        tools=["calculator"], tool_choice="required", parallel_calls=False, reasoning={"budget": 9},
        guard={"empty": "refuse"}, sampling={"top_k": 4},
    )  # fmt: skip
    with bad_server() as server:
        model = open_model(server.address, loading=Loading(server="ollama"))
        with pytest.raises(UnsupportedError) as caught:
            run(loaded, model, "Count.", seed=1)
        lost = ("guard.empty", "parallel_calls", "reasoning.budget", "tool_choice", "top_k=4")
        assert all(one in str(caught.value) for one in lost)
        one = run(loaded, model, "Count.", seed=1, allow_unsupported=True)
        one.text()
    assert one.trace.receipt.unsupported == tuple(f"this model cannot honour {lack}" for lack in lost)
    assert "tools" in server.bodies[0]
    assert not {"top_k", "tool_choice", "parallel_tool_calls"} & server.bodies[0].keys()
    assert any("Modelfile" in note for note in one.trace.receipt.notes)


def test_whoever_leaves_is_noticed_by_the_server() -> None:
    with bad_server("slow bytes") as server:
        one = run("plain", opened(server), "Count.", seed=1)
        next(iter(one))
        one.close()
        assert one.trace.finish == "cancelled"
        assert server.left.wait(60)


def test_a_replay_compares_pieces_of_text_where_a_server_names_no_tokens() -> None:
    with bad_server() as server:
        model = opened(server)
        trace = asked_of(model).trace
        other = (*trace.tokens[:2], trace.tokens[2].model_copy(update={"text": " four"}), *trace.tokens[3:])
        found = replay([trace, trace.model_copy(update={"tokens": other})], model)
    assert [(one.verdict, one.at) for one in found] == [("same", None), ("different", 2)]


# --- several addresses


def test_a_dead_address_is_passed_over_and_tried_again_later() -> None:
    with bad_server() as dead:
        gone = dead.address
    with bad_server() as alive:
        both = f"{gone},{alive.address}"
        said: list[str] = []
        model = open_remote(f"{both}#words", both, "words", notify=said.append, patience=HASTY)
        assert "nobody answers" in said[0]
        runs = [asked_of(model).trace for _ in range(2)]
    assert {trace.answer for trace in runs} == {"One two three."}
    assert f"answered by {alive.address}" in runs[0].receipt.notes
    assert any(note.startswith(f"tried again: {gone}") for note in runs[0].receipt.notes)


def test_the_least_busy_address_is_asked_first() -> None:
    with bad_server("slow bytes") as one, bad_server("slow bytes") as other:
        both = f"{one.address},{other.address}"
        model = open_remote(both, both, "words", patience=HASTY)
        runs = [run("plain", model, "Count.", seed=seed) for seed in range(4)]
        replies = [iter(one) for one in runs]
        for reply in replies:
            next(reply)
        assert (len(one.bodies), len(other.bodies)) == (2, 2)
        for each in runs:
            each.close()


def test_addresses_that_serve_different_models_are_no_copies() -> None:
    with bad_server() as one, bad_server(owner="vllm") as other:
        both = f"{one.address},{other.address}"
        with pytest.raises(ModelError, match="do not serve the same"):
            open_remote(both, both, "words")


# --- keys


def test_a_key_is_sent_and_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEITO_REMOTE_KEY", "general")
    log = Log()
    with bad_server("echoes the key") as server:
        host = server.address.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setenv(f"JEITO_REMOTE_KEY_{host.replace('.', '_').replace(':', '_')}", "s3cret")
        model = opened(server)
        one = run("plain", model, "Count.", seed=1, log=log)
        with pytest.raises(InputError) as caught:
            one.text()
        assert set(server.keys) == {"Bearer s3cret"}
    told = f"{caught.value}{caught.value.hint}{model.environment()}{model.fingerprint}{log.get(one.trace.id)}"
    assert "s3cret" not in told
    with bad_server() as server:
        asked_of(opened(server))
        assert set(server.keys) == {"Bearer general"}


@pytest.mark.parametrize("url", ["http://me:s3cret@host:8000/v1", "http://host/v1?key=s3cret"])
def test_an_address_with_a_secret_is_refused_without_saying_it(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_model(url)
    assert "s3cret" not in str(caught.value)
    assert "JEITO_REMOTE_KEY" in caught.value.hint


# --- which server it is


@pytest.mark.parametrize(
    ("owner", "kind"), [("vllm", "vllm"), ("jeito", "jeito"), ("llamacpp", "llama-server"), ("x", "openai")]
)
def test_a_server_is_known_by_who_owns_its_models(owner: str, kind: str) -> None:
    with bad_server(owner=owner) as server:
        assert look(server.address) == Seen(kind, None)


def test_the_kind_can_be_said() -> None:
    with bad_server() as server:
        model = open_model(server.address, loading=Loading(server="vllm"))
        assert model.environment()["server"] == "vllm"
        asked_of(model)  # type: ignore[arg-type]
        assert server.bodies[0]["return_token_ids"] is True
        with pytest.raises(InputError, match="'vlm' is no kind"):
            open_model(server.address, loading=Loading(server="vlm"))
        with pytest.raises(InputError, match="has a context of its own"):
            open_model(server.address, loading=Loading(context=512))
        with pytest.raises(InputError, match="a server"):
            open_model(f"{server.address}@nf4")
    with pytest.raises(InputError, match="no server"):
        open_model("toy", loading=Loading(server="vllm"))


def test_of_several_models_one_has_to_be_named() -> None:
    with bad_server() as server:
        server.models = ("words", "more words")
        with pytest.raises(ModelError, match="serves 2 models") as caught:
            opened(server)
        assert "more words" in caught.value.hint
        assert opened(server, "more words").served == "more words"

"""What OpenAI's own client gets, of the demo model."""

import json
import threading
from typing import Any

import jsonschema
import openai
import pytest

from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.decode.noise import derive
from jeito.run.run import run
from jeito.trace.log import Log

ASK: Any = [{"role": "user", "content": "How far does a train travel in 3 hours at 80 km/h?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
PERSON: Any = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
def client(serve: Any, demo_model: LocalModel) -> openai.OpenAI:
    return serve(demo_model).openai


def chat(client: openai.OpenAI, *, own: dict[str, Any] | None = None, **given: Any) -> Any:
    """An exact reply: what was computed before, or runs beside it, changes nothing."""
    given = {"model": "demo", "messages": ASK, "max_tokens": 24, "seed": 7} | given
    extra = {"jeito": {"exact": True}} | (own or {})
    return client.chat.completions.create(**given, extra_body=extra)


def test_every_behaviour_is_a_model(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert {"demo", "demo:technical", "demo:criativo"} <= set(ids)
    assert client.models.retrieve("demo:technical").id == "demo:technical"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("demo:nobody")


def test_a_served_reply_is_the_local_one_token_for_token(client: openai.OpenAI, demo_model: LocalModel) -> None:
    loaded = load("technical", ["max_new_tokens=24", "exact=true"])
    local = run(loaded, demo_model, ASK[0]["content"], seed=7, logprobs=0)
    local.text()
    said = chat(client, model="demo:technical", logprobs=True)
    served = Log().get(said.choices[0].jeito["run"])
    assert [token.id for token in served.tokens] == [token.id for token in local.trace.tokens]
    assert said.choices[0].message.content == local.trace.answer
    assert [one.logprob for one in said.choices[0].logprobs.content] == [t.logprob for t in local.trace.tokens]
    assert b"".join(bytes(one.bytes) for one in said.choices[0].logprobs.content).decode() == local.trace.answer
    assert served.behaviour_fingerprint == local.trace.behaviour_fingerprint


def test_a_stream_says_what_the_whole_reply_says_and_what_it_used(client: openai.OpenAI) -> None:
    whole = chat(client, model="demo:creative")
    chunks = list(chat(client, model="demo:creative", stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_replies_of_one_request_draw_with_seeds_of_their_own(client: openai.OpenAI) -> None:
    several = chat(client, n=3, temperature=1.5)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in several.choices}) == 3
    third = chat(client, temperature=1.5, seed=derive(7, 2))
    assert third.choices[0].message.content == several.choices[2].message.content
    assert several.usage.completion_tokens == 3 * 24


def test_a_json_schema_is_met(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    said = chat(client, response_format=form, max_tokens=100)
    jsonschema.validate(json.loads(said.choices[0].message.content), PERSON)
    assert said.choices[0].finish_reason == "stop"


def test_a_required_call_comes_back_and_its_result_goes_on(client: openai.OpenAI) -> None:
    given: Any = {"tools": [WEATHER], "max_tokens": 100, "parallel_tool_calls": False}
    said = chat(client, tool_choice="required", **given)
    choice = said.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    turns = [*ASK, choice.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "22 degrees"}]
    after = chat(client, tools=[WEATHER], messages=turns, tool_choice="none")
    assert "22 degrees" in Log().get(after.choices[0].jeito["run"]).prompt


def test_a_streamed_call_is_the_whole_one(client: openai.OpenAI) -> None:
    given: Any = {"tools": [WEATHER], "max_tokens": 100, "parallel_tool_calls": False}
    given["tool_choice"] = {"type": "function", "function": {"name": "weather"}}
    whole = chat(client, **given).choices[0].message.tool_calls[0]
    deltas = [
        piece
        for chunk in chat(client, stream=True, **given)
        for piece in chunk.choices[0].delta.tool_calls or ()
    ]  # fmt: skip
    assert deltas[0].function.name == "weather"
    assert [piece.id is not None for piece in deltas] == [True] + [False] * (len(deltas) - 1)
    assert len(deltas) > 3
    arguments = "".join(piece.function.arguments or "" for piece in deltas)
    assert json.loads(arguments) == json.loads(whole.function.arguments)


def test_a_stop_string_ends_the_reply_and_is_cut_off(client: openai.OpenAI) -> None:
    free = chat(client, temperature=0).choices[0].message.content
    word = free.split()[3]
    said = chat(client, temperature=0, stop=word)
    assert said.choices[0].message.content == free[: free.index(word)]
    assert said.choices[0].finish_reason == "stop"


def test_the_likeliest_tokens_are_told(client: openai.OpenAI) -> None:
    said = chat(client, temperature=0, logprobs=True, top_logprobs=3, max_tokens=4)
    for token in said.choices[0].logprobs.content:
        assert [len(token.top_logprobs), token.top_logprobs[0].token] == [3, token.token]
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob


def test_a_bias_decides(client: openai.OpenAI, demo_model: LocalModel) -> None:
    (yes,) = demo_model._engine.tokens(" yes", special=False)
    said = chat(client, logit_bias={str(yes): 100}, max_tokens=3)
    assert said.choices[0].message.content == " yes yes yes"


def test_sixteen_clients_at_once_get_what_each_gets_alone(client: openai.OpenAI) -> None:
    got: dict[int, str] = {}

    def ask(seed: int) -> None:
        behaviour = ("demo:technical", "demo:creative", "demo:conservative", "demo")[seed % 4]
        got[seed] = chat(client, model=behaviour, seed=seed, max_tokens=12).choices[0].message.content

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(got)
    for seed in range(16):
        ask(seed)
    assert got == together
    assert len(set(got.values())) > 4


def test_knobs_of_ours_and_the_receipt_come_through(client: openai.OpenAI) -> None:
    own: Any = {"top_k": 1, "min_p": 0.1, "jeito": {"receipt": True, "behaviour": "technical"}}
    said = chat(client, user="me", store=False, own=own)
    receipt = said.choices[0].jeito["receipt"]
    assert said.model == "demo:technical"
    assert receipt["values"]["top_k"] == {"value": 1, "source": "request", "file": None, "line": None}
    assert receipt["values"]["top_p"]["file"] == "agente_tecnico.yaml"
    assert [line.partition(":")[0] for line in receipt["unsupported"]] == ["user", "store"]

"""What OpenAI's own client gets, of the demo model."""

import asyncio
import json
import re
import threading
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from jeito.behaviour.export import export
from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.decode.noise import derive
from jeito.errors import LogError
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
    assert [line.partition(":")[0] for line in receipt["unsupported"]] == ["user"]
    with pytest.raises(LogError):
        Log().get(said.choices[0].jeito["run"])


@pytest.mark.parametrize(
    "behaviour", ["technical", "creative", 'conservative+presence_penalty=0.5+stop=["\\n\\n"]', "contract.yaml"]
)
def test_what_is_exported_for_openai_gives_the_same_values_and_the_same_reply(
    serve: Any, demo_model: LocalModel, behaviour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("contract.yaml").write_text(
        "system: Say yes or no.\nplacement: user_end\nsampling: {temperature: 0.7, top_k: 20, min_new_tokens: 2}\n"
        'output: {json_schema: {type: object, properties: {sure: {type: boolean}}, required: ["sure"]}}\n'
    )
    loaded = load(behaviour, ["max_new_tokens=16"])
    text = export(loaded.behaviour, "openai", model="demo", ask="Is 7 prime?").text
    said = serve(demo_model).http.post(
        "/v1/chat/completions", json=json.loads(text) | {"seed": 7, "jeito": {"exact": True, "receipt": True}}
    ).json()["choices"][0]  # fmt: skip
    local = run(load(behaviour, ["max_new_tokens=16", "exact=true"]), demo_model, "Is 7 prime?", seed=7)
    local.text()
    # The instruction of `user_end` stands in the question itself, and a language is only looked at by checks.
    silent = {"language", "placement", *(["system"] if "yaml" in behaviour else [])}
    served, own = said["jeito"]["receipt"]["values"], local.trace.receipt.values
    assert served.keys() - silent == own.keys() - silent
    assert {name: one["value"] for name, one in served.items() if name not in silent} == {
        name: one.value for name, one in own.items() if name not in silent
    }
    assert said["message"]["content"] == local.trace.answer
    assert said["jeito"]["receipt"]["prompt_digest"] == local.trace.receipt.prompt_digest


async def ask_at_once(client: openai.AsyncOpenAI) -> tuple[str, str, str]:
    given: Any = {
        "model": "demo",
        "max_tokens": 12,
        "seed": 7,
        "temperature": 0,
        "extra_body": {"jeito": {"exact": True}},
    }

    async def whole() -> str:
        return (await client.chat.completions.create(messages=ASK, **given)).choices[0].message.content or ""

    async def streamed() -> str:
        stream = await client.chat.completions.create(messages=ASK, stream=True, **given)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def events() -> str:
        own = {name: value for name, value in given.items() if name not in ("max_tokens", "seed")}
        own["extra_body"] = {"seed": 7, "jeito": {"exact": True}}
        async with client.responses.stream(input=ASK[0]["content"], max_output_tokens=12, **own) as stream:
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    return await asyncio.gather(whole(), streamed(), events())


def test_the_async_client_asks_three_ways_at_once_and_gets_one_answer(serve: Any, demo_model: LocalModel) -> None:
    served = serve(demo_model)

    async def all_of_it() -> tuple[str, str, str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            return await ask_at_once(client)

    first, *others = asyncio.run(all_of_it())
    assert first
    assert others == [first, first]


@pytest.mark.parametrize(
    ("contract", "fits"),
    [
        ({"regex": "[a-c]{3}"}, r"[a-c]{3}"),
        ({"choice": ["left", "right"]}, r"left|right"),
        ({"grammar": 'start: "n = " /[0-9]{2}/'}, r"n = [0-9]{2}"),
        ({"json": {"enum": [1, 2]}}, r"1|2"),
    ],
)
def test_contracts_beyond_json_hold(client: openai.OpenAI, contract: Any, fits: str) -> None:
    said = chat(client, temperature=1.5, own={"structured_outputs": contract})
    assert re.fullmatch(fits, said.choices[0].message.content)
    with pytest.raises(openai.BadRequestError, match="two contracts"):
        chat(client, response_format={"type": "json_object"}, own={"structured_outputs": contract})


def test_penalties_and_least_lengths_are_honoured(client: openai.OpenAI, demo_model: LocalModel) -> None:
    (yes,) = demo_model._engine.tokens(" yes", special=False)
    told: Any = {"logit_bias": {str(yes): 30}, "temperature": 0, "max_tokens": 6}
    assert chat(client, **told).choices[0].message.content == " yes" * 6
    fewer = chat(client, presence_penalty=2, frequency_penalty=20, **told)
    assert 0 < fewer.choices[0].message.content.count(" yes") < 6
    ends: Any = {str(id): 100 for id in demo_model.card.ends}
    assert chat(client, logit_bias=ends).usage.completion_tokens == 1
    assert chat(client, logit_bias=ends, own={"min_tokens": 5}).usage.completion_tokens == 6


def test_a_model_that_never_reasons_keeps_to_no_reasoning(client: openai.OpenAI) -> None:
    assert chat(client, reasoning_effort="none", max_tokens=2).choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="reasoning"):
        chat(client, reasoning_effort="low")

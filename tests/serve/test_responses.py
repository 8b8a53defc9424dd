"""OpenAI's newer endpoint, as its own client reads it, of the demo model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pydantic
import pytest

from jeito.decode.local import LocalModel
from jeito.engines.toy import END, VOCABULARY, ToyEngine, babble
from jeito.errors import EngineError
from jeito.trace.log import Log
from tests.serve.conftest import Serve, Serving

ASK = "How far does a train travel in 3 hours at 80 km/h?"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
OWN = {"seed": 7, "jeito": {"exact": True}}


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    name: str
    age: int


@pytest.fixture
def client(serve: Serve, demo_model: LocalModel) -> openai.OpenAI:
    return serve(demo_model).openai


def respond(client: openai.OpenAI, **given: Any) -> Any:
    given = {"model": "demo", "input": ASK, "max_output_tokens": 24, "extra_body": OWN} | given
    return client.responses.create(**given)


def test_a_response_says_what_a_chat_says(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="demo:technical", messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}],
        max_tokens=24, extra_body=OWN,
    )  # fmt: skip
    said = respond(client, model="demo:technical", instructions="Be brief.")
    assert said.output_text == chat.choices[0].message.content
    assert (said.status, said.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (said.usage.input_tokens, said.usage.output_tokens) == (chat.usage.prompt_tokens, 24)
    assert (said.model, said.temperature, said.instructions) == ("demo:technical", 0.2, "Be brief.")
    assert Log().get(said.jeito["run"]).prompt == Log().get(chat.choices[0].jeito["run"]).prompt


def test_a_stream_of_events_comes_to_the_whole_response(client: openai.OpenAI) -> None:
    given: Any = {"model": "demo", "input": "Say hi.", "temperature": 0, "extra_body": OWN}
    whole = client.responses.create(**given)
    with client.responses.stream(**given) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert final.status == "completed"
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert kinds.count("response.output_text.delta") > 3
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert {event.item_id for event in events if event.type == "response.output_text.delta"} == {final.output[0].id}


def test_a_call_is_told_as_it_is_written_and_its_result_goes_on(client: openai.OpenAI) -> None:
    given: Any = {"model": "demo", "tools": [WEATHER], "parallel_tool_calls": False, "max_output_tokens": 100}
    given |= {"tool_choice": {"type": "function", "name": "weather"}, "extra_body": OWN, "input": ASK}
    (whole,) = client.responses.create(**given).output
    with client.responses.stream(**given) as stream:
        events = list(stream)
        (call,) = stream.get_final_response().output
    assert (call.type, call.name, call.arguments) == ("function_call", "weather", whole.arguments)
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(deltas)) == json.loads(call.arguments)
    assert len(deltas) > 3
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "22 degrees"}
    items = [{"role": "user", "content": ASK}, call.model_dump(exclude={"parsed_arguments"}), result]
    sent = respond(client, tools=[WEATHER], tool_choice="none", input=items)
    run = Log().get(sent.jeito["run"])
    assert [message.role for message in run.request.messages] == ["user", "assistant", "tool"]
    assert "22 degrees" in (run.prompt or "")


def test_a_conversation_goes_on_from_the_log(client: openai.OpenAI) -> None:
    first = respond(client, instructions="Be brief.", model="demo:technical")
    then = respond(client, input="And in 5?", previous_response_id=first.id, model="demo:technical")
    run = Log().get(then.jeito["run"])
    assert [message.content for message in run.request.messages] == [ASK, first.output_text, "And in 5?"]
    assert "Be brief." not in run.request.system
    assert any("previous_response_id" in line for line in run.receipt.unsupported)
    again = respond(client, input="And in 5?", previous_response_id=first.id, instructions="Be brief.")
    assert Log().get(again.jeito["run"]).receipt.unsupported == ()
    called = respond(
        client, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_output_tokens=100
    )  # fmt: skip
    result: Any = [{"type": "function_call_output", "call_id": called.output[-1].call_id, "output": "22 degrees"}]
    after = respond(client, tools=[WEATHER], tool_choice="none", input=result, previous_response_id=called.id)
    assert [message.role for message in Log().get(after.jeito["run"]).request.messages] == ["user", "assistant", "tool"]


def test_a_behaviours_examples_are_not_said_twice(serve: Serve, demo_model: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text('examples: [{user: "1 + 1?", assistant: "2"}]\n')
    client = serve(demo_model, folder=tmp_path).openai
    first = respond(client, model="demo:shown", input="2 + 2?", max_output_tokens=4)
    then = respond(client, model="demo:shown", input="3 + 3?", previous_response_id=first.id, max_output_tokens=4)
    said = [message.content for message in Log().get(then.jeito["run"]).request.messages]
    assert said == ["1 + 1?", "2", "2 + 2?", first.output_text, "3 + 3?"]


def test_a_response_is_found_again_unless_it_was_not_to_be_kept(client: openai.OpenAI) -> None:
    said = respond(client, model="demo:technical", tools=[WEATHER], tool_choice="none")
    again = client.responses.retrieve(said.id)
    ours = {"jeito", "created_at", "instructions", "metadata", "previous_response_id", "store"}
    assert again.model_dump(exclude=ours) == said.model_dump(exclude=ours)
    gone = respond(client, store=False, max_output_tokens=2)
    for id in (gone.id, said.id[:-1], "resp_", "x" * 500):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(id)
    with pytest.raises(openai.BadRequestError) as refused:
        respond(client, previous_response_id=gone.id)
    assert refused.value.code == "previous_response_not_found"


def test_a_form_is_parsed_by_the_client(client: openai.OpenAI) -> None:
    said = client.responses.parse(
        model="demo", input="Ann is 30 years old.", text_format=Person, max_output_tokens=200, temperature=0
    )  # fmt: skip
    assert isinstance(said.output_parsed, Person)
    chat = client.chat.completions.parse(
        model="demo", messages=[{"role": "user", "content": "Ann is 30 years old."}], response_format=Person,
        max_tokens=200, temperature=0,
    )  # fmt: skip
    assert chat.choices[0].message.parsed == said.output_parsed


def test_the_likeliest_tokens_are_told_with_the_text(client: openai.OpenAI) -> None:
    given: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 4}
    said = respond(client, **given)
    logprobs = said.output[0].content[0].logprobs
    assert [len(one.top_logprobs) for one in logprobs] == [2, 2, 2, 2]
    events = respond(client, stream=True, **given)
    streamed = [one for event in events if event.type == "response.output_text.delta" for one in event.logprobs]
    assert [one.token for one in streamed] == [one.token for one in logprobs]


@pytest.fixture
def served(serve: Serve, toy: LocalModel) -> Serving:
    return serve(toy)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": []}, "input", "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "item_reference"),
        ({"input": [{"role": "user", "contents": "x"}]}, "input.0.contents", "content"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input.0.output", "miss"),
        ({"max_tokens": 3}, "max_tokens", "max_output_tokens"),
        ({"messages": []}, "messages", "there is no field"),
        ({"background": True}, "background", "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "web_search"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"include": ["file_search_call.results"]}, "include.0", "file_search"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "response_format.json_schema", "json_schema"),
        ({"reasoning": {"effort": "low"}}, None, "reasoning"),
        ({"previous_response_id": "resp_nobody"}, "previous_response_id", "send the whole"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(served: Serving, body: Any, param: str | None, says: str) -> None:
    got = served.http.post("/v1/responses", json={"model": "toy", "input": "hi"} | body)
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert says in error["message"]
    assert error["param"] == param


def test_parts_turns_and_earlier_reasoning_are_taken(served: Serving) -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "id": "m", "status": "completed",
         "content": [{"type": "output_text", "text": "hello", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
        {"type": "message", "role": "user", "content": "and now?"},
    ]  # fmt: skip
    body = {"model": "toy", "input": items, "reasoning": {"effort": "none", "summary": "auto"}, "user": "me"}
    said = served.http.post("/v1/responses", json=body).json()
    run = Log().get(said["jeito"]["run"])
    assert [(message.role, len(message.calls)) for message in run.request.messages] == [
        ("user", 0), ("assistant", 1), ("tool", 0), ("user", 0),
    ]  # fmt: skip
    assert run.request.system == "Be brief."
    assert [line.partition(":")[0] for line in run.receipt.unsupported] == ["user", "reasoning.summary"]
    assert said["output"][0]["content"][0]["text"].endswith("and now?")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/completions"])
def test_a_stream_that_breaks_off_ends_with_an_error_in_its_own_shape(serve: Serve, path: str) -> None:
    engine = ToyEngine(babble)
    served = serve(LocalModel(engine, "toy"))
    whole = engine.extend

    def break_down(rows: Any, exact: bool = False) -> Any:
        if len(engine.calls) > 3:
            raise EngineError("the engine broke down")
        return whole(rows, exact)

    engine.extend = break_down  # type: ignore[method-assign]
    asked = {"model": "toy", "input" if path == "/v1/responses" else "prompt": "hi", "stream": True, "seed": 1}
    with served.http.stream("POST", path, json=asked) as got:
        *before, last = [line.removeprefix("data: ") for line in got.iter_lines() if line.startswith("data: ")]
    assert got.status_code == 200
    assert len(before) > 1
    error = json.loads(last)
    message = error["message"] if path == "/v1/responses" else error["error"]["message"]
    assert "the engine broke down" in message
    assert error.get("type") == ("error" if path == "/v1/responses" else None)
    run = Log().recent()[0]
    assert run.finish == "error"
    kept = served.http.get(f"/v1/responses/resp_{run.id}").json()
    assert (kept["status"], kept["error"]["code"]) == ("failed", "server_error")


THINKER = "<think>so it is</think>yes"


def recite(tokens: Any) -> Any:
    """Logits that say a thought and an answer, letter by letter, then end."""
    said = len(bytes(token for token in tokens if token < 256).rpartition(b"<assistant>")[2])
    row = np.zeros(VOCABULARY, np.float32)
    row[ord(THINKER[said]) if said < len(THINKER) else END] = 50.0
    return row


def test_reasoning_that_is_shown_is_an_item_of_its_own(serve: Serve, tmp_path: Path) -> None:
    engine = ToyEngine(recite)
    engine.card = replace(engine.card, template=f"{engine.card.template}{{# <think></think> #}}")
    (tmp_path / "loud.yaml").write_text("reasoning: {show: true}\n")
    (tmp_path / "quiet.yaml").write_text("sampling: {top_k: 5}\n")
    client = serve(LocalModel(engine, "toy"), folder=tmp_path).openai
    said = client.responses.create(model="toy:loud", input="?")
    assert [item.type for item in said.output] == ["reasoning", "message"]
    assert (said.output[0].content[0].text, said.output_text) == ("so it is", "yes")
    assert said.usage.output_tokens_details.reasoning_tokens > 5
    assert [item.type for item in client.responses.create(model="toy:quiet", input="?").output] == ["message"]
    events = list(client.responses.create(model="toy:loud", input="?", stream=True))
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "so it is"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "yes"
    assert [item.type for item in events[-1].response.output] == ["reasoning", "message"]


def test_a_key_finds_again_only_what_it_could_have_asked(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy, keys=["all", "narrow behaviours=plain"])
    said = respond(served.openai, model="toy:technical", input="a secret")
    narrow = {"authorization": "Bearer narrow"}
    for path in (f"/v1/responses/{said.id}", f"/v1/jeito/receipt/{said.id}"):
        assert served.http.get(path).status_code == 200
        assert served.http.get(path, headers=narrow).status_code == 404
    asked = {"model": "toy", "input": "and?", "previous_response_id": said.id}
    assert served.http.post("/v1/responses", json=asked).status_code == 200
    assert served.http.post("/v1/responses", json=asked, headers=narrow).status_code == 400

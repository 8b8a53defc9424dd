"""The old endpoint: prompts that stand as they are, of the demo model and the toy."""

from pathlib import Path
from typing import Any

import openai
import pytest

from jeito.decode.local import LocalModel
from jeito.decode.noise import derive
from jeito.engines.toy import ToyEngine, babble
from jeito.run.replay import replay
from jeito.trace.log import Log
from tests.serve.conftest import Serve, Serving

PROMPT = "The capital of France is"


@pytest.fixture
def client(serve: Serve, demo_model: LocalModel) -> openai.OpenAI:
    return serve(demo_model).openai


def complete(client: openai.OpenAI, **given: Any) -> Any:
    given = {"model": "demo", "prompt": PROMPT, "max_tokens": 8, "seed": 7} | given
    return client.completions.create(**given, extra_body={"jeito": {"exact": True}})


def test_a_prompt_stands_as_it_is_and_so_it_does_in_the_log(client: openai.OpenAI, demo_model: LocalModel) -> None:
    said = complete(client, temperature=0)
    assert "Paris" in said.choices[0].text
    run = Log().get(said.choices[0].jeito["run"])
    assert (run.prompt, run.receipt.template, run.receipt.placement) == (PROMPT, "none", None)
    (again,) = replay([run], demo_model)
    assert (again.verdict, again.tokens) == ("same", 8)


def test_tokens_are_the_text_that_they_are_of(client: openai.OpenAI, demo_model: LocalModel) -> None:
    ids = demo_model.tokens(PROMPT)
    mark = demo_model.tokens("x") + demo_model._engine.tokens("<|im_end|>", special=True)
    said = complete(client, prompt=[ids, mark], temperature=0)
    assert said.choices[0].text == complete(client, temperature=0).choices[0].text
    assert Log().get(said.choices[1].jeito["run"]).prompt == "x<|im_end|>"
    assert said.usage.prompt_tokens == len(ids) + len(mark)
    split = demo_model.tokens("t") + demo_model.tokens("he")
    with pytest.raises(openai.BadRequestError, match="send the text"):
        complete(client, prompt=split)
    with pytest.raises(openai.BadRequestError, match="there is no token 10000000"):
        complete(client, prompt=[10_000_000])


def test_every_prompt_has_its_replies_with_the_seeds_it_has_alone(client: openai.OpenAI) -> None:
    several = complete(client, prompt=[PROMPT, "One, two,"], n=2, temperature=1.5)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[2].text == complete(client, prompt="One, two,", temperature=1.5).choices[0].text
    assert several.choices[3].text == (
        complete(client, prompt="One, two,", temperature=1.5, seed=derive(7, 1)).choices[0].text
    )
    prompts = [Log().get(several.choices[at].jeito["run"]).usage.prompt for at in (0, 2)]
    assert several.usage.prompt_tokens == sum(prompt or 0 for prompt in prompts)
    assert several.usage.completion_tokens == sum(
        Log().get(choice.jeito["run"]).usage.generated for choice in several.choices
    )


def test_a_stream_is_the_whole_with_its_echo_and_its_end(client: openai.OpenAI) -> None:
    whole = complete(client, echo=True, stop=[","], max_tokens=30)
    assert whole.choices[0].text.startswith(PROMPT)
    assert "," not in whole.choices[0].text
    chunks = list(complete(client, echo=True, stop=[","], max_tokens=30, stream=True,
                           stream_options={"include_usage": True}))  # fmt: skip
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_logprobs_have_the_endpoints_own_shape(client: openai.OpenAI) -> None:
    choice = complete(client, temperature=0, logprobs=2, max_tokens=4).choices[0]
    said = choice.logprobs
    assert "".join(said.tokens) == choice.text
    assert said.text_offset == [sum(map(len, said.tokens[:at])) for at in range(4)]
    for token, logprob, top in zip(said.tokens, said.token_logprobs, said.top_logprobs, strict=True):
        assert len(top) == 2
        assert max(top.items(), key=lambda pair: pair[1]) == (token, logprob)
    chunks = complete(client, temperature=0, logprobs=2, max_tokens=4, stream=True)
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [offset for one in streamed for offset in one.text_offset] == said.text_offset
    assert [token for one in streamed for token in one.tokens] == said.tokens


@pytest.fixture
def served(serve: Serve) -> Serving:
    return serve(LocalModel(ToyEngine(babble), "toy"))


def post(served: Serving, **body: Any) -> Any:
    return served.http.post("/v1/completions", json={"model": "toy", "prompt": "hi", "max_tokens": 4} | body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"prompt": []}, "0 prompts"),
        ({"prompt": ["x"] * 65, "n": 2}, "1 to 128 replies"),
        ({"prompt": "x" * 5000}, "context 4096"),
        ({"prompt": [["x"]]}, "prompt"),
        ({"prompt": None}, "prompt is missing"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 3}, "best_of is 3"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"messages": []}, "there is no field 'messages'"),
        ({"model": "toy:technical"}, "no place for system"),
        ({"n": 10**9}, "n is 1000000000"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(served: Serving, body: Any, says: str) -> None:
    got = post(served, **body)
    assert got.status_code == 400, got.text
    assert says in got.json()["error"]["message"]


def test_an_empty_prompt_is_the_beginning_of_a_text(served: Serving) -> None:
    assert len(post(served, prompt="", seed=1).json()["choices"][0]["text"]) == 4


def test_the_lenient_leave_out_an_instruction_and_say_so(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "pirate.yaml").write_text("system: Speak as pirates do.\nsampling: {top_k: 1}\nguard: {repair: 1}\n")
    served = serve(LocalModel(ToyEngine(babble), "toy"), folder=tmp_path, lenient=True)
    got = post(served, model="toy:pirate", jeito={"receipt": True}).json()["choices"][0]["jeito"]["receipt"]
    assert [line.partition(":")[0] for line in got["unsupported"]] == ["guard.repair", "system"]
    assert (got["values"]["system"]["value"], got["values"]["top_k"]["source"]) == ("", "behaviour")


def test_contracts_hold_for_raw_prompts_too(served: Serving) -> None:
    got = post(served, structured_outputs={"choice": ["yes", "no"]}, max_tokens=10).json()
    assert got["choices"][0]["text"] in ("yes", "no")

"""Other people's clients, each in a process of its own: they bring warnings, threads and wishes to call home."""

import os
import re
import subprocess
import sys
from pathlib import Path

from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine
from jeito.trace.log import Log
from tests.serve.conftest import Serve

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"
ALONE = """
import sys
called = []

def only_this_machine(event, arguments):
    if event == "socket.connect" and arguments[1][0] not in ("127.0.0.1", "::1"):
        called.append(arguments[1])
        raise PermissionError(arguments[1])

sys.addaudithook(only_this_machine)
"""
LANGCHAIN = """
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int

class Weather(BaseModel):
    "The weather of a city"
    city: str = Field(max_length=12)

own = {"seed": 7, "jeito": {"exact": True}}
given = dict(base_url=URL, api_key="none", model="demo", max_tokens=60, extra_body=own)
model = ChatOpenAI(temperature=0, **given)
whole = model.invoke("Say hi.")
assert whole.content and whole.usage_metadata["output_tokens"], whole
assert "".join(chunk.content for chunk in model.stream("Say hi.")) == whole.content
newer = ChatOpenAI(temperature=0, use_responses_api=True, **given)
assert newer.invoke("Say hi.").text == whole.content
assert "".join(chunk.text for chunk in newer.stream("Say hi.")) == whole.content
assert isinstance(model.with_structured_output(Person).invoke("Ann is 30."), Person)
(call,) = model.bind_tools([Weather], tool_choice="Weather", parallel_tool_calls=False).invoke("Paris?").tool_calls
assert call["name"] == "Weather" and set(call["args"]) == {"city"}, call
assert not called, called
"""
LITELLM = """
import asyncio, litellm
given = dict(api_base=URL, api_key="none", seed=7, max_tokens=40, temperature=0, extra_body={"jeito": {"exact": True}})
given |= dict(model="openai/demo:conservador", messages=[{"role": "user", "content": "Say hi."}])
whole = litellm.completion(**given)
text = whole.choices[0].message.content
assert text and whole.usage.completion_tokens, whole
chunks = litellm.completion(stream=True, **given)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
assert asyncio.run(litellm.acompletion(**given)).choices[0].message.content == text
tool = {"type": "function", "function": {"name": "look", "parameters": {
    "type": "object", "properties": {"at": {"type": "string", "maxLength": 9}}, "required": ["at"]}}}
call = litellm.completion(tools=[tool], tool_choice="required", **given).choices[0].message.tool_calls[0]
assert call.function.name == "look", call
try:
    litellm.completion(**given | {"model": "openai/nobody"})
except litellm.NotFoundError:
    pass
else:
    raise AssertionError("a model that is not there")
assert not called, called
"""


def run(script: str, url: str) -> None:
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    words = [sys.executable, "-c", f"URL = {url + '/v1'!r}\n{ALONE}{script}"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_langchain_chats_streams_calls_and_parses(serve: Serve, demo_model: LocalModel) -> None:
    run(LANGCHAIN, serve(demo_model).url)


def test_litellm_chats_streams_and_calls_and_reaches_nobody_else(serve: Serve, demo_model: LocalModel) -> None:
    run(LITELLM, serve(demo_model).url)


def test_what_the_page_shows_of_clients_runs(serve: Serve) -> None:
    served = serve(LocalModel(ToyEngine(), "demo"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    script = "\n".join(blocks).replace("http://127.0.0.1:8123/v1", f"{served.url}/v1")
    run(f"{script}\nassert not called, called\n", served.url)
    asked = {message.content for trace in Log().recent() for message in trace.request.messages}
    assert {"What is a mutex?", "Shorter.", "The capital of France is"} <= asked

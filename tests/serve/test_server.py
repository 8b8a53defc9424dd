"""What a server refuses, and what it does with clients that leave, crowd in or come without a key."""

import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from jeito.decode.local import LocalModel
from jeito.engines.base import Logits
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import InputError
from jeito.proof.prove import prove
from jeito.proof.values import Case
from jeito.serve.keys import read_keys
from jeito.serve.server import bind
from jeito.serve.work import Job
from jeito.trace.log import Log
from tests.serve.conftest import Serve, Serving, user


class Gate:
    """A toy that waits before every step for as long as its gate is closed."""

    def __init__(self, **engine: Any) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        self.engine = ToyEngine(self._score, **engine)
        self.model = LocalModel(self.engine, "toy")

    def _score(self, tokens: Sequence[int]) -> Logits:
        self.reached.set()
        assert self.opened.wait(60)
        return babble(tokens)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"temprature": 1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": -1}, 400, "temperature is -1"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "contents": "x"}]}, 400, "content"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "tool_call_id"),
        ({"messages": [user("x" * 5000)]}, 400, "context 4096"),
        ({"model": "toi"}, 404, "did you mean toy"),
        ({"jeito": {"behaviour": "../../etc/passwd.yaml"}}, 404, "no model"),
        ({"n": 1000}, 400, "n is 1000"),
        ({"seed": -1}, 400, "seed"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "send one of them"),
        ({"top_logprobs": 2}, 400, "logprobs: true"),
        ({"tool_choice": "required"}, 400, "no tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "tools.0"),
        ({"response_format": {"type": "json_schema"}}, 400, "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, 400, "'not'"),
        ({"reasoning_effort": "low"}, 400, "reasoning"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(
    serve: Serve, toy: LocalModel, body: dict[str, Any], status: int, says: str
) -> None:
    got = serve(toy).post(**body)
    assert got.status_code == status, got.text
    error = got.json()["error"]
    assert says in error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b'{"model": "\\ud800"}', b'{"a":' * 5000, b"[" * 100_000],
)
def test_what_is_no_json_is_refused(serve: Serve, toy: LocalModel, content: bytes) -> None:
    got = serve(toy).http.post("/v1/chat/completions", content=content)
    assert got.status_code == 400
    assert "JSON" in got.json()["error"]["message"]


def test_a_schema_that_is_nested_too_deeply_is_refused(serve: Serve, toy: LocalModel) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(100):
        schema = {"type": "array", "items": schema}
    form = {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}
    assert serve(toy).post(response_format=form).status_code in (200, 400)


def test_a_body_of_ten_megabytes_is_refused(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy)

    def pieces() -> Any:
        for _ in range(10):
            yield b" " * 1_000_000

    for content in (b"{" + b" " * 10_000_000, pieces()):
        try:
            got = served.http.post("/v1/chat/completions", content=content)
        except httpx2.WriteError:  # it was refused, and closed, while we still sent
            continue
        assert got.status_code == 413
    assert served.http.get("/health").status_code == 200


def test_without_a_key_nothing_is_opened_but_the_health(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy, keys=["right", "other"])
    assert served.post().status_code == 200
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(model="toy", messages=[{"role": "user", "content": "hi"}])
    assert httpx2.get(f"{served.url}/metrics").status_code == 401
    assert httpx2.get(f"{served.url}/health").status_code == 200


def test_a_lenient_server_leaves_out_what_it_does_not_know_and_says_so(serve: Serve, toy: LocalModel) -> None:
    got = serve(toy, lenient=True).post(temprature=1, jeito={"receipt": True})
    assert got.status_code == 200
    assert got.headers["x-jeito-left-out"] == "temprature"
    (line,) = got.json()["choices"][0]["jeito"]["receipt"]["unsupported"]
    assert "temprature" in line


def begin(served: Serving, **body: Any) -> Any:
    """A streaming request that is under way."""
    sent = {"model": "toy", "messages": [user("hi")], "stream": True, "max_tokens": 3000, "seed": 1} | body
    stream = served.http.stream("POST", "/v1/chat/completions", json=sent)
    return stream


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_slot_at_the_next_step(serve: Serve, streams: bool) -> None:
    gate = Gate()
    served = serve(gate.model)
    if streams:
        with begin(served) as got:
            lines = got.iter_lines()  # held: one that is collected closes its stream
            assert next(lines).startswith("data: ")
            assert gate.reached.wait(60)
    else:
        with pytest.raises(httpx2.ReadTimeout):
            served.http.post(
                "/v1/chat/completions", json={"model": "toy", "messages": [user("hi")], "max_tokens": 3000}, timeout=0.5
            )
        assert gate.reached.wait(60)
    served.until(lambda: served.server.metrics.left == 1)
    gate.opened.set()
    served.until(lambda: served.server.metrics.finishes.total() == 1)
    assert served.server.metrics.finishes == {"cancelled": 1}
    assert gate.model.decoder.active == []
    assert served.server.metrics.tokens["generated"] <= 2
    assert [trace.finish for trace in Log().recent()] == ["cancelled"]


def test_a_client_that_leaves_ends_its_long_prompt_too(serve: Serve) -> None:
    gate = Gate(batch=8)
    gate.engine._score = lambda tokens: babble(tokens)
    entered = gate.engine.extend

    def slowly(rows: Any, exact: bool = False) -> Any:
        gate.reached.set()
        assert gate.opened.wait(60)
        return entered(rows, exact)

    gate.engine.extend = slowly  # type: ignore[method-assign]
    served = serve(gate.model)
    with begin(served, messages=[user("x" * 3000)]) as got:
        lines = got.iter_lines()
        next(lines)
        assert gate.reached.wait(60)
    served.until(lambda: served.server.metrics.left == 1)
    gate.opened.set()
    served.until(lambda: served.server.metrics.finishes.total() == 1)
    assert served.server.metrics.finishes == {"cancelled": 1}
    assert len(gate.engine.calls) <= 2


def test_a_full_queue_refuses_and_a_client_that_leaves_it_makes_room(serve: Serve) -> None:
    gate = Gate(slots=1)
    served = serve(gate.model, queue=1)
    (desk,) = served.server._desks.values()
    with begin(served) as first:
        lines = first.iter_lines()
        next(lines)
        waiting = threading.Thread(target=lambda: served.post(max_tokens=5, seed=1))
        waiting.start()
        served.until(lambda: len(desk.waiting) == 1)
        refused = served.post()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
    served.until(lambda: served.server.metrics.left == 1)
    gate.opened.set()
    waiting.join()
    served.until(lambda: not desk.running)
    assert served.server.metrics.finishes == {"cancelled": 1, "length": 1}


class Noted(list[Job]):
    """The jobs that run, and the order in which they began."""

    def __init__(self) -> None:
        self.order: list[str | None] = []

    def append(self, job: Job) -> None:
        self.order.append(job.asked.chat.user)
        super().append(job)


def test_who_has_nothing_running_comes_before_who_has(serve: Serve) -> None:
    gate = Gate(slots=2)
    served = serve(gate.model, keys=["busy", "new"])
    (desk,) = served.server._desks.values()
    desk.running = running = Noted()

    def ask(name: str, key: str) -> threading.Thread:
        def post() -> None:
            headers = {"authorization": f"Bearer {key}"}
            body = {"model": "toy", "messages": [user("hi")], "max_tokens": 2, "user": name}
            assert httpx2.post(f"{served.url}/v1/chat/completions", headers=headers, json=body, timeout=60).is_success

        thread = threading.Thread(target=post)
        before = len(desk.waiting) + len(running)
        thread.start()
        served.until(lambda: len(desk.waiting) + len(running) > before)
        return thread

    threads = [ask("1", "busy"), ask("2", "busy"), ask("3", "busy"), ask("4", "new")]
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert running.order == ["1", "2", "4", "3"]


def test_a_receipt_is_found_again_by_the_replys_id(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy)
    said = served.post(seed=3).json()
    found = served.http.get(f"/v1/jeito/receipt/{said['id']}").json()
    assert found["receipt"]["values"]["seed"]["value"] == 3
    assert served.http.get(f"/v1/jeito/receipt/{said['id'][:-2]}").status_code == 404


def test_the_metrics_are_what_prometheus_reads(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy)
    served.post()
    served.post(temprature=3)
    page = served.http.get("/metrics").text
    for line in page.splitlines():
        assert re.fullmatch(r'# TYPE \w+ (counter|gauge|histogram)|\w+(\{\w+="[^"]+"\})? [0-9.]+', line), line
    assert 'jeito_requests_total{status="200"} 1' in page
    assert 'jeito_refusals_total{reason="unknown_parameter"} 1' in page
    assert 'jeito_replies_total{finish="stop"} 1' in page
    assert "jeito_first_token_seconds_count 1" in page


def test_a_behaviours_own_tools_are_not_offered_and_the_list_says_so(serve: Serve, toy: LocalModel) -> None:
    listed = serve(toy).http.get("/v1/models/toy:agent").json()
    assert listed["jeito"]["lacking"] == ["tools: a server offers none of its own, only those that the request brings"]


def test_a_behaviour_is_listed_with_what_is_proved_of_it(serve: Serve, toy: LocalModel, tmp_path: Path) -> None:
    file = tmp_path / "brief.yaml"
    file.write_text("system: Be brief.\nchecks:\n- {words: {max: 90}, at_least: 0.5}\n")
    served, cases = serve(toy, folder=tmp_path), [Case(name=str(n), prompt=f"say {n}") for n in range(12)]

    def listed() -> list[dict[str, Any]]:
        found = {one["id"]: one["jeito"]["proofs"] for one in served.http.get("/v1/models").json()["data"]}
        assert found["toy"] == [], "it is the behaviour's, not the model's"
        assert served.http.get("/v1/models/toy:brief").json()["jeito"]["proofs"] == found["toy:brief"]
        return found["toy:brief"]

    assert listed() == []
    proof = prove(str(file), toy, cases, repeats=1, log=Log(), seed=1, cases_from="/home/ana/cases.yaml")
    (shown,) = listed()
    assert (shown["id"], shown["status"], shown["claims"]) == (proof.id, "proved", "1 of 1 hold")
    assert "/" not in shown["cases"], "the paths of this machine are nobody's"
    assert str(tmp_path) not in str(shown)


def test_a_folder_of_behaviours_is_all_that_is_served(serve: Serve, toy: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "pirate.yaml").write_text("system: Speak as pirates do.\n")
    (tmp_path / "broken.yaml").write_text("sistem: x\n")
    served = serve(toy, folder=tmp_path)
    assert [model.id for model in served.openai.models.list()] == ["toy", "toy:pirate"]
    assert ["broken" in line for line in served.server.catalogue.left_out] == [True]
    messages: Any = [{"role": "system", "content": "Be brief."}, user("hi")]
    said = served.openai.chat.completions.create(model="toy:pirate", messages=messages)
    assert "<system>Speak as pirates do.\n\nBe brief." in (Log().get(said.choices[0].jeito["run"]).prompt or "")


def test_a_reply_that_breaks_off_is_an_error_in_the_stream(serve: Serve) -> None:
    engine = ToyEngine(babble)
    served = serve(LocalModel(engine, "toy"))

    def break_down(rows: Any, exact: bool = False) -> Any:
        from jeito.errors import EngineError

        raise EngineError("the engine broke down")

    with begin(served, max_tokens=5) as got:
        got.read()
    engine.extend = break_down  # type: ignore[method-assign]
    assert served.post().status_code == 500
    with begin(served, messages=[user("again")]) as got:
        *_, last = [line for line in got.iter_lines() if line]
    assert "the engine broke down" in json.loads(last.removeprefix("data: "))["error"]["message"]


def test_only_this_machine_is_served_without_keys(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no keys"):
        bind("0.0.0.0", 0, has_keys=False)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "none")
    with bind("127.0.0.1", 0, has_keys=False) as taken:
        taken.listen()
        with pytest.raises(InputError, match="cannot be served"):
            bind("127.0.0.1", taken.getsockname()[1], has_keys=False)

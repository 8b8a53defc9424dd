"""Replies that take too long, and clients that are gone in the middle of a prompt."""

from typing import Any

import pytest

from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import Interrupted
from tests.serve.conftest import Serve, user
from tests.serve.test_server import Gate, begin

LONG = {"max_tokens": 3000, "min_new_tokens": 3000, "seed": 1}


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("whose", ["server", "request"])
def test_a_reply_that_takes_too_long_ends_with_what_it_has(serve: Serve, streams: bool, whose: str) -> None:
    model = LocalModel(ToyEngine(babble), "toy")
    deadline = 0.3
    served = serve(model, deadline=deadline if whose == "server" else 3600)
    own = {} if whose == "server" else {"jeito": {"deadline": deadline}}
    if streams:
        with begin(served, **LONG, **own) as got:
            lines = [line for line in got.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert '"finish_reason": "length"' in lines[-2]
        assert '"why": "deadline: 0.3 seconds"' in lines[-2]
    else:
        choice = served.post(**LONG, **own).json()["choices"][0]
        assert (choice["finish_reason"], choice["jeito"]["finish"]) == ("length", "limit")
        assert choice["jeito"]["why"] == "deadline: 0.3 seconds"
        assert choice["message"]["content"]
    served.until(lambda: not model.decoder.active)
    assert served.server.metrics.finishes == {"limit": 1}


def test_who_waits_too_long_for_a_place_is_told_so(serve: Serve) -> None:
    gate = Gate(slots=1)
    served = serve(gate.model)
    with begin(served) as first:
        lines = first.iter_lines()
        next(lines)
        refused = served.post(jeito={"deadline": 0.2})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "deadline"
    assert int(refused.headers["retry-after"]) >= 1
    gate.opened.set()
    (desk,) = served.server._desks.values()
    served.until(lambda: not desk.running)
    assert not desk.waiting
    assert served.server.metrics.finishes == {"cancelled": 1}


def test_a_long_prompt_is_given_up_in_the_middle_of_a_call(
    serve: Serve, demo_model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(demo_model)
    engine, given_up = demo_model.decoder.engine, []
    entered = engine.extend

    def extend(rows: Any, exact: bool = False) -> Any:
        try:
            return entered(rows, exact)
        except Interrupted:
            given_up.append(len(rows))
            raise

    monkeypatch.setattr(engine, "extend", extend)
    with begin(served, model="demo", messages=[user("It rains. " * 1500)]) as got:
        lines = got.iter_lines()
        next(lines)
        served.until(lambda: bool(demo_model.decoder.active))
    served.until(lambda: served.server.metrics.finishes.total() == 1)
    assert given_up == [1]
    assert demo_model.decoder.active == []
    assert served.post(model="demo", max_tokens=4, seed=1).status_code == 200


def test_queue_and_step_times_are_counted(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy)
    served.post()
    page = served.http.get("/metrics").text
    steps = next(line for line in page.splitlines() if line.startswith("jeito_step_seconds_count"))
    assert int(steps.split()[1]) >= 3
    assert "jeito_queue_seconds_count 1" in page
    assert "jeito_first_token_seconds_count 1" in page
    assert 'jeito_tokens_total{kind="cached"} 0' in page

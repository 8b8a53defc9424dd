"""`jeito probe`, as it is typed, and what receipts make of it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jeito.cli.probe import served
from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine
from jeito.preflight.probe import Probe
from tests.preflight.probed import parrot, proxy, without

Jeito = Callable[..., Any]


@pytest.fixture
def forgetful() -> Iterator[str]:
    """A server that drops top_p."""
    with served(LocalModel(ToyEngine(parrot), "parrot")) as good, proxy(good, without("top_p")) as address:
        yield address


def test_a_model_of_ours_is_served_and_probed(jeito: Jeito) -> None:
    done = jeito("probe", "toy", "--only", "max_new_tokens", "--only", "usage", "--json")
    found = json.loads(done.out)
    assert done.code == 0, done.err
    assert [(one["knob"], one["verdict"]) for one in found["tried"]] == [
        ("max_new_tokens", "honoured"), ("usage", "honoured"),
    ]  # fmt: skip
    assert found.keys() == Probe.model_fields.keys() | {"behaviour", "lacking"}
    assert "usage: honoured" in done.err


def test_the_exit_code_is_1_where_a_behaviour_needs_what_is_not_honoured(jeito: Jeito, forgetful: str) -> None:
    done = jeito("probe", forgetful, "-b", "plain+top_p=0.5", "--only", "seed")
    assert done.code == 1
    assert "needs top_p: ignored" in done.err
    assert jeito("probe", forgetful, "-b", "plain+top_k=5", "--only", "top_p").code == 0


def test_what_was_found_is_refused_afterwards_and_stands_in_receipts(jeito: Jeito, forgetful: str) -> None:
    model = ("-m", forgetful + "#parrot", "--server", "openai")
    ask = ("ask", "hi", *model, "--set", "top_p=0.5", "--set", "max_new_tokens=4", "--no-log")
    assert jeito(*ask).code == 0
    assert jeito("probe", forgetful, "--server", "openai", "--only", "top_p").code == 0
    refused = jeito(*ask)
    assert (refused.code, "cannot honour top_p=0.5" in refused.err) == (64, True)
    done = jeito(*ask, "--allow-unsupported", "--json")
    assert done.code == 0, done.err
    receipt = json.loads(done.out)["receipt"]
    assert receipt["unsupported"] == ["this model cannot honour top_p=0.5"]
    assert any(note.startswith("top_p: ignored, as the probe of 20") for note in receipt["notes"])


def test_the_table_is_markdown_where_it_is_asked_for(jeito: Jeito, forgetful: str) -> None:
    lines = jeito("probe", forgetful, "--only", "stop", "--markdown").out.splitlines()
    assert lines[0].startswith("parrot on jeito 0.")
    assert lines[-1].startswith("| `stop` | `stop` | honoured | 3 | ")


def test_where_nobody_answers_it_fails(jeito: Jeito) -> None:
    done = jeito("probe", "http://127.0.0.1:9/v1")
    assert (done.code, "nobody answers at http://127.0.0.1:9/v1" in done.err) == (70, True)

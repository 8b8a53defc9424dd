"""Every experiment must be able to fail: a good server passes all, and one that drops a knob is found out."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from jeito.behaviour.load import load
from jeito.cli.probe import served
from jeito.decode.local import LocalModel
from jeito.engines.servers import server_of, servers
from jeito.engines.toy import ToyEngine
from jeito.engines.verdicts import Tried, Verdict, keep, lacking, notes, recall
from jeito.errors import EngineError, InputError, ModelError
from jeito.preflight.probe import EXPERIMENTS, needed, probe, table
from jeito.types import Sampling
from tests.engines.bad_server import Misdeed, bad_server
from tests.preflight.probed import Alter, called, parrot, proxy, reading, refusing, without


@pytest.fixture(scope="module")
def good() -> Iterator[str]:
    """A server of ours, with a toy that copies as models do."""
    with served(LocalModel(ToyEngine(parrot), "parrot")) as address:
        yield address


def only(address: str, *knobs: str) -> dict[str, Tried]:
    return {one.knob: one for one in probe(address, only=knobs, patience=60).tried}


# --- a good server


def test_a_server_of_ours_honours_every_knob(good: str) -> None:
    found = probe(good)
    assert {one.knob: one.verdict for one in found.tried} == dict.fromkeys(EXPERIMENTS, "honoured")
    assert all(one.evidence and one.requests for one in found.tried)
    assert (found.kind, found.model) == ("jeito", "parrot")


# --- servers that are not

DROPPED: dict[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "top_k": ("top_k",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "top_n_sigma": ("top_n_sigma",),
    "typical_p": ("typical_p",),
    "xtc": ("xtc",),
    "seed": ("seed",),
    "repetition_penalty": ("repetition_penalty",),
    "repetition_window": ("repetition_window",),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "dry": ("dry",),
    "logit_bias": ("logit_bias",),
    "min_new_tokens": ("min_new_tokens",),
    "max_new_tokens": ("max_new_tokens",),
    "stop": ("stop",),
    "n": ("n",),
    "logprobs": ("logprobs", "top_logprobs"),
    "stream": ("stream", "stream_options"),
    "json_schema": ("structured_outputs",),
    "regex": ("structured_outputs",),
    "choice": ("structured_outputs",),
    "lark": ("structured_outputs",),
    "tools": ("tools", "tool_choice"),
    "tool_choice": ("tool_choice",),
}


@pytest.mark.parametrize("knob", DROPPED)
def test_a_server_that_drops_a_knob_is_found_out(knob: str, good: str) -> None:
    with proxy(good, without(*DROPPED[knob])) as address:
        found = only(address, knob)[knob]
    assert found.verdict == "ignored", found.evidence


ANOTHER: dict[str, tuple[str, Alter]] = {
    "presence_penalty": ("prompt count too", called("presence_penalty", "repetition_penalty")),
    "frequency_penalty": ("prompt count too", called("frequency_penalty", "repetition_penalty")),
    "repetition_penalty": ("prompt do not", called("repetition_penalty", "presence_penalty")),
    "whole_prompt": ("cut silently", reading(1500)),
    "context": ("cut silently", reading(1500)),
}


@pytest.mark.parametrize("knob", ANOTHER)
def test_a_knob_of_another_meaning_is_found_out(knob: str, good: str) -> None:
    words, alter = ANOTHER[knob]
    with proxy(good, alter) as address:
        found = only(address, knob)[knob]
    assert (found.verdict, words in found.evidence) == ("different", True), found.evidence


@pytest.mark.parametrize("knob", ["top_k", "seed", "stop", "logit_bias", "tools"])
def test_what_a_server_refuses_is_said_in_its_own_words(knob: str, good: str) -> None:
    with proxy(good, refusing(knob)) as address:
        found = probe(address, only=[knob, "temperature"]).tried
    assert [(one.knob, one.verdict) for one in found] == [("temperature", "honoured"), (knob, "refused")]
    assert found[1].evidence == f"400: {knob} is not taken here"


def test_what_is_taken_only_up_to_2_is_tried_with_2(good: str) -> None:
    def alter(body: dict[str, object]) -> dict[str, object] | str:
        return "-2 to 2" if abs(body.get("presence_penalty", 0.0)) > 2 else body  # type: ignore[arg-type]

    with proxy(good, alter) as address:
        found = only(address, "presence_penalty")["presence_penalty"]
    assert found.verdict == "honoured"
    assert "with 2" in found.evidence


def test_a_reply_that_depends_on_what_runs_beside_it_is_found_out(good: str) -> None:
    with proxy(good, lambda body: body, crowded=True) as address:
        found = only(address, "exact")["exact"]
    assert found.verdict == "different"
    assert "among 8 at once" in found.evidence


def test_without_replies_that_vary_nothing_is_said_of_cuts() -> None:
    with served(LocalModel(ToyEngine(), "echo")) as address:
        found = only(address, "temperature", "top_k", "seed")
    assert {one.verdict for one in found.values()} == {"unknown"}
    assert "so sure" in found["temperature"].evidence
    assert "do not vary" in found["top_k"].evidence


WRONG: dict[Misdeed, tuple[str, str]] = {
    "closes early": ("stream", 'ended without [DONE], after "One two"'),
    "broken events": ("stream", "the events are broken: no JSON came"),
    "fails in mid-stream": ("stream", "out of memory"),
    "no finish": ("stream", 'no piece says how "One two three." ended'),
    "slow bytes": ("stream", "not whole after 2 seconds"),
    "silent": ("stream", "nothing came for 2 seconds"),
    "wrong usage": ("usage", "5 and 2 tokens are 99 in all"),
    "drops knobs": ("json_schema", 'it answered "One two three."'),
}


@pytest.mark.parametrize("misdeed", WRONG)
def test_of_a_bad_server_it_is_said_what_is_wrong_and_the_others_are_tried(misdeed: Misdeed) -> None:
    knob, words = WRONG[misdeed]
    with bad_server(misdeed) as server:
        found = probe(server.address, only=[knob, "system"], patience=2)
    tried = {one.knob: one for one in found.tried}
    assert words in tried[knob].evidence
    assert tried[knob].verdict != "honoured"
    assert tried["system"].verdict == "ignored"


def test_replies_of_another_shape_cost_their_row_alone(good: str) -> None:
    def alter(body: dict[str, object]) -> dict[str, object] | bytes:
        return (
            b'{"choices": [{"message": {"content": 7}, "logprobs": {"content": [3]}}]}' if "logprobs" in body else body
        )

    with proxy(good, alter) as address:
        found = only(address, "logprobs", "stop")
    assert (found["logprobs"].verdict, found["stop"].verdict) == ("unknown", "honoured")
    assert "OpenAI's shape" in found["logprobs"].evidence


@pytest.mark.parametrize("kind", servers())
def test_whatever_its_kind_a_server_that_drops_all_honours_nothing_but_a_stream(kind: str) -> None:
    with bad_server("drops knobs") as server:
        found = probe(server.address, kind=kind)
    assert [one.knob for one in found.tried] == list(EXPERIMENTS)
    assert {one.knob for one in found.tried if one.verdict == "honoured"} == {"stream"}
    assert not any("shape" in one.evidence for one in found.tried)


def test_a_server_that_is_too_busy_is_asked_again_and_the_report_says_how_often() -> None:
    with bad_server("storm", storms=3) as server:
        found = probe(server.address, only=["system"])
    assert found.tried[0].verdict == "ignored"
    assert "3 of 6 requests were turned away" in found.notes[-1]


NONE: dict[Misdeed, str] = {
    "storm": "429",
    "closes at once": "broke off",
    "wants a key": "401: wrong key",
    "no API": "no JSON came",
    "no such model": "404: no model words",
}


@pytest.mark.parametrize("misdeed", NONE)
def test_where_no_plain_request_is_answered_there_is_nothing_to_try(misdeed: Misdeed) -> None:
    with bad_server(misdeed) as server, pytest.raises(EngineError, match=NONE[misdeed]):
        probe(server.address)


def test_a_key_that_a_server_says_back_is_not_shown() -> None:
    with bad_server("echoes the key") as server, pytest.raises(EngineError) as refused:
        probe(server.address, key="sesame")
    assert "sesame" not in str(refused.value)


def test_unknown_knobs_kinds_and_models_name_the_near_ones(good: str) -> None:
    for asked, error, hint in (
        ({"only": ["topp"]}, InputError, "top_p"),
        ({"kind": "vlm"}, InputError, "vllm"),
        ({"model": "parot"}, ModelError, "parrot"),
    ):
        with pytest.raises(error) as refused:
            probe(good, **asked)  # type: ignore[arg-type]
        assert hint in refused.value.hint


# --- a server that others wrote

PEER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias, params.port = sys.argv[1], ["demo"], 0
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 2048, 2, 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def test_the_wheels_llama_server_counts_the_prompts_tokens_and_takes_no_least_length(demo: Path) -> None:
    command = [sys.executable, "-c", PEER, str(demo)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        address = peer.stdout.readline().strip()
        found = probe(f"{address}/v1", only=["presence_penalty", "min_new_tokens", "choice"])
        peer.communicate()
    verdicts = {one.knob: one.verdict for one in found.tried}
    assert found.kind == "llama-server"
    assert verdicts == {"presence_penalty": "different", "min_new_tokens": "ignored", "choice": "honoured"}


# --- what is made of it


def test_a_behaviour_needs_what_it_sets(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(
        "system: Be terse.\nsampling: {top_p: 0.5, min_p: 0.0}\ntools: [calculator]\noutput: {regex: 'a|b'}\n"
        "guard: {repair: 1}\n"
    )
    needs = needed(load(str(file)).behaviour)
    assert set(needs.tried) == {"top_p", "max_new_tokens", "system", "tools", "regex"}
    assert needs.untried == ("repair",)


def tried(knob: str, verdict: str) -> Tried:
    return Tried.model_validate(
        {"knob": knob, "field": knob, "verdict": verdict, "evidence": "seen", "requests": 3, "day": "2026-11-27"}
    )


def test_verdicts_are_kept_by_address_model_and_version() -> None:
    keep("http://a/v1", "m", "1", [tried("top_p", "ignored"), tried("seed", "honoured")])
    keep("http://a/v1", "m", "1", [tried("top_p", "honoured")])
    assert {knob: one.verdict for knob, one in recall("http://a/v1", "m", "1").items()} == {
        "top_p": "honoured", "seed": "honoured",
    }  # fmt: skip
    assert recall("http://a/v1", "m", "2") == recall("http://b/v1", "m", "1") == {}


def test_a_knob_that_was_ignored_or_refused_is_no_ability() -> None:
    known = [
        tried("top_p", "ignored"),
        tried("seed", "refused"),
        tried("min_p", "different"),
        tried("top_k", "unknown"),
    ]
    assert lacking(known) == {"top_p", "seed"}
    contracts = [tried("json_schema", "ignored"), tried("regex", "honoured")]
    assert lacking(contracts) == set()
    assert lacking(contracts[:1]) == {"contract"}


def test_a_receipt_tells_of_another_meaning_only_where_it_was_asked_for() -> None:
    known, server = [tried("presence_penalty", "different"), tried("min_new_tokens", "ignored")], server_of("vllm")
    ignored = "min_new_tokens: ignored, as the probe of 2026-11-27 found (seen)"
    assert notes(known, server, Sampling()) == [ignored]
    assert len(notes(known, server, Sampling(presence_penalty=1.0))) == 2
    assert notes(known, server_of("llama-server"), Sampling()) == []  # which is never sent it


def test_the_page_tells_of_every_experiment_and_of_what_came_of_it_on_a_llama_server() -> None:
    page = (Path(__file__).parents[2] / "docs" / "probe.md").read_text()
    assert "\n".join(table()) in page
    shown = re.findall(r"^\| `(\w+)` \| (?:`[\w, ]+`)? *\| (\w+) \| \d+ \| .+ \|$", page, re.MULTILINE)
    assert [knob for knob, _ in shown] == list(EXPERIMENTS)
    assert {verdict for _, verdict in shown} <= set(get_args(Verdict))

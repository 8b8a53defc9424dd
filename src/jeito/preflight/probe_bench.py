"""What experiments on a server need: asking it, its words of refusal, and the replies that others are compared with.

Knows HTTP and the kind's table of fields; what a reply proves is for the experiments to say.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from jeito.engines.chat_request import generation_config, put
from jeito.engines.servers import Field, Server, said, servers
from jeito.engines.verdicts import Verdict
from jeito.errors import ModelError, nearest
from jeito.preflight.probe_reply import Broken, Json, Reply, message_of, read
from jeito.types import Output, Sampling

if TYPE_CHECKING:
    import httpx2

Turns = Sequence[str]
"""What was said, the user first, then in turn."""

WORDS = ("Write ten random words.",)
LAUGH = ("Laugh.", "ha ha ha ha ha ha ha ha", "Laugh.", "ha ha ha ha ha ha ha ha", "Laugh.")
HOT = 1.5
"""Above 1 so that even a sure model varies; OpenAI takes 2 at most."""
SHORT = 12
"""Tokens of most replies."""
COMMON = ("sea", "stone", "river", "bread", "house", "light", "green", "water", "table", "night")
CONTEXT_NAMES = ("max_model_len", "n_ctx", "context", "context_length", "context_window", "max_context_length")
UNSENT = {"usage": "", "whole_prompt": "", "context": "", "exact": "", "system": "messages"}
BUSY = (429, 503)
TRIES = 6
LONGEST_WAIT = 5.0


class Found(NamedTuple):
    """What an experiment came to."""

    verdict: Verdict
    evidence: str


class Refused(Exception):
    """The server answered 4xx to what was sent."""


class Unclear(Exception):
    """The experiment cannot tell here: why."""


class Greedy(NamedTuple):
    text: str
    is_steady: bool


class Bench:
    """A server under test. Safe to ask from several threads."""

    def __init__(self, address: str, server: Server, model: str | None, *, key: str | None, patience: float) -> None:
        """A `model` of the server's list, or the first there."""
        import httpx2

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A server closes what was idle for a while, and a request that meets it there would look like a broken one.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self.client = httpx2.Client(headers=headers, timeout=patience, limits=limits)
        self.address, self.server, self.patience = address.rstrip("/"), server, patience
        self.requests = self.busy = 0
        self._key, self._lock = key, Lock()
        self.model = self._one(model)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def _one(self, model: str | None) -> str:
        if self.models and model not in self.models:
            # llama-server has one model and takes any name for it.
            if model and self.server.kind != "llama-server":
                raise ModelError(f"{self.address} serves no {model!r}", hint=nearest(model, self.models))
            return self.models[0]
        return model or ""

    @property
    def models(self) -> list[str]:
        return [str(one.get("id")) for one in self._listed]

    # --- what is compared with

    @cached_property
    def greedy(self) -> Greedy:
        """The reply at temperature 0, and whether it came twice."""
        with needed("no reply at temperature 0 to compare with"):
            first, second = (self.ask(WORDS, temperature=0.0).text for _ in range(2))
        return Greedy(first, first == second)

    @cached_property
    def hot(self) -> tuple[str, ...]:
        """Three replies of a high temperature."""
        with needed(f"no reply at temperature {HOT} to compare with"):
            return tuple(self.ask(WORDS, temperature=HOT).text for _ in range(3))

    @cached_property
    def laugh(self) -> Reply:
        """A reply at temperature 0 whose words stand in the prompt and come again and again."""
        with needed("no reply at temperature 0 to compare with"):
            return self.ask(LAUGH, temperature=0.0)

    @cached_property
    def laughs_first(self) -> str:
        """The first token of that reply."""
        with needed("no reply of one token to compare with"):
            return self.ask(LAUGH, temperature=0.0, max_new_tokens=1).text

    @cached_property
    def tokens_a_word(self) -> float:
        """Of plain words, by the server's own count; a usual figure where it counts nothing."""
        with needed("no prompt of plain words to count"):
            few, many = (self.ask((long(words, "Alpha"),), max_new_tokens=1).prompt for words in (10, 60))
        return max(1.0, (many - few) / 50) if few and many else 1.3

    @cached_property
    def context(self) -> int | None:
        """Tokens that prompt and reply may take, where the server's list of models tells."""
        for one in self._listed:
            if one.get("id") == self.model:
                own = [one, *(one[part] for part in ("jeito", "meta") if isinstance(one.get(part), dict))]
                return next((said[name] for said in own for name in CONTEXT_NAMES if said.get(name)), None)
        return None

    @cached_property
    def _listed(self) -> list[Json]:
        import httpx2

        try:
            listed = self.client.get(f"{self.address}/models").json()["data"]
            return [one for one in listed if isinstance(one, dict)]
        except (httpx2.HTTPError, ValueError, KeyError, TypeError):
            return []

    # --- asking

    def field(self, knob: str) -> str:
        """What a knob is called in a request: its own name where nobody has a field for it; none where none is sent."""
        if knob in UNSENT and _path(knob) not in self.server.fields:
            return UNSENT[knob]
        path = _path(knob)
        field = self._field(path)
        inner = [field.name for name, field in self.server.fields.items() if name.startswith(f"{path}.")]
        return field.name if field else ", ".join(inner) or knob

    def _field(self, path: str) -> Field | None:
        """The kind's own field, else vLLM's, whose names most servers take."""
        is_in_parts = any(name.startswith(f"{path}.") for name in self.server.fields)
        return None if is_in_parts else self.server.fields.get(path) or servers()["vllm"].fields.get(path)

    def body(self, turns: Turns, *, system: str | None = None, n: int = 1, **knobs: Any) -> Json:
        """A request: `knobs` by our names; what the kind has no field for goes by its own name."""
        messages = [{"role": ("user", "assistant")[at % 2], "content": turn} for at, turn in enumerate(turns)]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        body: Json = {"model": self.model, "messages": messages, **self.server.fixed}
        body |= {"n": n} if n > 1 else {}
        for knob, value in (self._neutral() | {"max_new_tokens": SHORT} | knobs).items():
            self._put(body, _path(knob), value)
        if "logprobs" in knobs:
            body["logprobs"] = True
        if "generation_config" in body:
            body["generation_config"] = generation_config(body["generation_config"])
        return body

    def _put(self, body: Json, path: str, value: Any) -> None:
        field = self._field(path)
        if field is None and isinstance(value, dict) and any(one.startswith(f"{path}.") for one in self.server.fields):
            for part, inner in value.items():
                self._put(body, f"{path}.{part}", inner)
            return
        put(body, field.name if field else path.rpartition(".")[2], field.make(value) if field else value)

    def ask(self, turns: Turns, **knobs: Any) -> Reply:
        """A whole reply. Raises Refused, Broken."""
        return read(b"".join(self._bytes(self.body(turns, **knobs))))

    def stream(self, turns: Turns, **knobs: Any) -> list[str]:
        """The lines of a streamed reply that are not empty. Raises Refused, Broken."""
        asked = self.body(turns, **knobs) | {"stream": True, "stream_options": {"include_usage": True}}
        text = b"".join(self._bytes(asked)).decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()]

    def _bytes(self, body: Json) -> Iterator[bytes]:
        import httpx2

        end = time.monotonic() + self.patience
        try:
            with closing(self._answered(body)) as answer:
                for part in answer.iter_bytes():
                    yield part
                    # A byte now and then keeps a connection alive for ever.
                    if time.monotonic() > end:
                        raise Broken(f"the reply was not whole after {self.patience:g} seconds")
        except httpx2.TimeoutException as error:
            raise Broken(f"nothing came for {self.patience:g} seconds") from error
        except httpx2.HTTPError as error:
            raise Broken(f"the connection broke off: {said(error)}") from error

    def _answered(self, body: Json) -> "httpx2.Response":
        for attempt in range(TRIES):
            with self._lock:
                self.requests += 1
            request = self.client.build_request("POST", f"{self.address}/chat/completions", json=body)
            answer = self.client.send(request, stream=True)
            if answer.is_success:
                return answer
            with closing(answer):
                message = self._hidden(message_of(answer.read()))
            if answer.status_code not in BUSY:
                kind = Refused if 400 <= answer.status_code < 500 else Broken
                raise kind(f"{answer.status_code}: {message}")
            with self._lock:
                self.busy += 1
            time.sleep(_wait(answer.headers.get("retry-after"), attempt))
        raise Broken(f"answered {answer.status_code} to {TRIES} tries: {message}")

    def _hidden(self, text: str) -> str:
        """Some servers say the key back to whom they refuse."""
        return text.replace(self._key, "…") if self._key else text

    def _neutral(self) -> dict[str, Any]:
        """Where the server's own defaults may be others."""
        off = {"xtc": {"threshold": 0.0, "probability": 0.0}, "dry": {"multiplier": 0.0}}
        return {knob: off.get(knob, getattr(Sampling(), knob)) for knob in self.server.neutral}


@contextmanager
def needed(why: str) -> Iterator[None]:
    """What others are compared with: without it, nothing can be told."""
    try:
        yield
    except (Refused, Broken) as error:
        raise Unclear(f"{why}: {error}") from error


def long(words: int, first: str) -> str:
    """A prompt of so many plain words, one token each in most vocabularies."""
    draw = random.Random(7)
    return " ".join([first, *(draw.choice(COMMON) for _ in range(words - 1))])


def _path(knob: str) -> str:
    if knob in Sampling.model_fields:
        return f"sampling.{knob}"
    return f"output.{knob}" if knob in Output.model_fields else knob


def _wait(said: str | None, attempt: int) -> float:
    """Seconds until the next try: what the server asks for, within reason."""
    asked = float(said) if said and said.isdecimal() else 0.25 * 2**attempt
    return min(asked, LONGEST_WAIT)

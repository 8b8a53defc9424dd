"""Well-known open models by their shapes (catalogue.yaml): which are worth trying in a budget. Asks no network.

Every row names where its figures were read.
"""

from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from jeito.engines.needs import Outline
from jeito.engines.weights import Tensor
from jeito.errors import InputError, nearest
from jeito.preflight.fit import Ask, Fit, Row, fit
from jeito.preflight.loads import Past
from jeito.preflight.speed import Bandwidth
from jeito.types import Several, Value


class Window(Value):
    size: int
    layers: int


class Experts(Value):
    count: int
    active: int
    inner: int


class Entry(Value):
    """One model. `parameters` are counted from its shape; `languages` as its source names them, empty where none."""

    name: str
    parameters: int
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    context: int
    window: Window | None = None
    biases: bool
    gated: bool
    """Has its feed-forward three matrices, or two?"""
    licence: str
    languages: Several[str]
    tools: bool
    experts: Experts | None = None
    smaller: str | None = None
    source: Several[str]
    read: str

    def outline(self) -> Outline:
        """The model as its headers would describe it; norms and biases, under 1 % of a model, are left out."""
        config: dict[str, Any] = {
            "hidden_size": self.hidden, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_size,
            "vocab_size": self.vocabulary, "tie_word_embeddings": self.tied,
        }  # fmt: skip
        if self.window:
            config["sliding_window"] = self.window.size
            kinds = ["sliding_attention"] * self.window.layers
            config["layer_types"] = kinds + ["full_attention"] * (self.layers - self.window.layers)
        if self.experts:
            config |= {"num_experts": self.experts.count, "num_experts_per_tok": self.experts.active}
        return Outline(self.name, config, list(self._tensors()))

    def _tensors(self) -> Iterator[Tensor]:
        hidden, queries, keys = self.hidden, self.heads * self.head_size, self.kv_heads * self.head_size
        yield _matrix("model.embed_tokens", self.vocabulary, hidden)
        if not self.tied:
            yield _matrix("lm_head", self.vocabulary, hidden)
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            for name, rows, columns in (("q", queries, hidden), ("k", keys, hidden), ("v", keys, hidden)):
                yield _matrix(f"{at}.self_attn.{name}_proj", rows, columns)
            yield _matrix(f"{at}.self_attn.o_proj", hidden, queries)
            parts = ("gate_proj", "up_proj", "down_proj") if self.gated else ("up_proj", "down_proj")
            for part in parts:
                if self.experts:
                    shape = (self.experts.count, self.experts.inner, hidden)
                    yield Tensor(f"{at}.mlp.experts.{part}", "BF16", shape)
                else:
                    yield _matrix(f"{at}.mlp.{part}", self.inner, hidden)


def _matrix(name: str, rows: int, columns: int) -> Tensor:
    return Tensor(f"{name}.weight", "BF16", (rows, columns))


class Candidate(NamedTuple):
    """An entry beside a budget: in the best precision that fits, if one does. `smaller`: the same of its sibling."""

    entry: Entry
    fit: Fit
    smaller: "Candidate | None" = None

    @property
    def row(self) -> Row | None:
        return next((row for row in self.fit.rows if row.fits), None)


@cache
def entries() -> tuple[Entry, ...]:
    import yaml

    text = resources.files("jeito.preflight").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return TypeAdapter(tuple[Entry, ...]).validate_python(yaml.safe_load(text), strict=False)


def candidates(ask: Ask, *, speed: Bandwidth, past: Past, language: str | None = None) -> list[Candidate]:
    """What fits, the most parameters first; `language`: an ISO code that the model's source must name.

    Raises InputError for a language that no entry names.
    """
    known = {code for entry in entries() for code in entry.languages}
    if language is not None and language not in known:
        raise InputError(f"no model of the catalogue names the language {language!r}", hint=nearest(language, known))

    def beside(entry: Entry) -> Candidate:
        wanted = ask._replace(context=min(ask.context, entry.context) if ask.context else None)
        return Candidate(entry, fit(entry.outline(), wanted, most=entry.context, speed=speed, past=past))

    made = {entry.name: beside(entry) for entry in entries()}
    found = [
        one._replace(smaller=made.get(one.entry.smaller or ""))
        for one in made.values()
        if one.row and (language is None or language in one.entry.languages)
    ]
    return sorted(found, key=lambda one: -one.entry.parameters)

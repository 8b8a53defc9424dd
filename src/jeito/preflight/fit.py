"""Will it fit? Memory by part for each precision and context, what would have to be given up, and the speed's bound.

Works on the facts of a model, whose weights may lie on the hub, and on the catalogue. Loads nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

from jeito.engines.llama_file import SLOTS as LLAMA_SLOTS
from jeito.engines.llama_needs import GgufOutline
from jeito.engines.needs import SMALLER, Need, Outline, instead, longest
from jeito.engines.transformers import SLOTS
from jeito.engines.weights import SIZES
from jeito.errors import InputError
from jeito.preflight.find import Facts
from jeito.preflight.loads import Past
from jeito.preflight.running import is_adapter, weight_files
from jeito.preflight.speed import Bandwidth
from jeito.types import Several, Value

PRECISIONS = ("fp32", "bf16", "int8", "nf4")
"""Best first. fp16 takes what bf16 takes."""
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
# What most conversations keep within.
USUAL = 4096


class Row(Value):
    """One precision: bytes by part, with every slot filled to the context that was asked for."""

    precision: str
    classes: dict[str, int]
    weights: int
    texts: int
    work: int
    load: int
    mapped: int
    engine: int
    peak: int
    total: int
    fits: bool
    longest: int | None = None
    """The longest context that fits with these slots; none where not even the shortest does."""
    bound: float | None = None
    """Tokens a second of one reply, at most."""
    totals: dict[int, int]
    """Context → bytes of weights, texts and work."""


class Fit(Value):
    """A model beside a budget of bytes. `instead`: what to give up, cheapest first, where nothing fits as asked."""

    name: str
    engine: str
    device: str
    budget: int
    slots: int
    context: int
    layers: str
    token_bytes: int
    rows: Several[Row]
    instead: Several[str] = ()
    past: Past

    @property
    def code(self) -> int:
        """0: it fits as asked; 1: when something is given up; 2: not at all."""
        return 0 if any(row.fits for row in self.rows) else 1 if self.instead != (SMALLER,) else 2


def outline_of(facts: Facts) -> Outline | GgufOutline | None:
    """What decides a model's memory; none where the headers that say it were not read, or could not be."""
    if facts.gguf is not None and facts.gguf_file:
        sizes = [facts.files.get(name) or 0 for name in weight_files(facts)]
        return GgufOutline(facts.name, facts.gguf, sum(sizes) - facts.gguf_header, facts.gguf_unread)
    if is_adapter(facts):  # its tensors are no model's
        return None
    # Beside the model may lie the same in another layout.
    held = [facts.headers[name] for name in weight_files(facts) if name in facts.headers]
    tensors = [tensor for header in held for tensor in header.tensors]
    return Outline(facts.name, facts.config, tensors) if facts.config is not None and tensors else None


def precisions_of(outline: Outline, asked: str) -> tuple[str, ...]:
    """The ways in which a model can be loaded, best first; raises InputError."""
    quantised = outline.config.get("quantization_config")
    if isinstance(quantised, dict):
        method = "nf4" if quantised.get("load_in_4bit") else "int8" if quantised.get("load_in_8bit") else ""
        return (f"{method or quantised.get('quant_method', 'quantised')} (as it is)",)
    if asked != "auto":
        return (asked,)
    sizes: dict[str, int] = {}
    for tensor in outline.tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.parameters * SIZES.get(tensor.dtype, 1)
    widest = max(sizes, key=lambda dtype: sizes[dtype], default="BF16")
    return PRECISIONS if widest in ("F32", "F64") else PRECISIONS[1:]


class Ask(NamedTuple):
    """What is wanted of a model."""

    budget: int
    precision: str = "auto"
    slots: int | None = None
    context: int | None = None
    device: str = "cpu"


def fit(outline: Outline | GgufOutline, ask: Ask, *, most: int | None, speed: Bandwidth, past: Past) -> Fit:
    """A model beside a budget; `most`: the longest text that it takes. Raises InputError for a longer context."""
    if ask.context is not None and (ask.context < 1 or (most is not None and ask.context > most)):
        raise InputError(f"a context of {ask.context:,} tokens: the model's is {most}", hint=f"--context {most}")
    context, room = ask.context or min(most or USUAL, USUAL), int(ask.budget / past.correction)
    lengths = sorted({context, *(one for one in CONTEXTS if most is None or one <= most), *([most] if most else [])})

    def row(precision: str, need: Callable[[int], Need], classes: dict[str, int], read: int) -> Row:
        found = need(context)
        return Row(
            **found._asdict(), precision=precision, classes=classes, bound=speed.bound(read),
            total=int(found.total * past.correction), fits=found.total <= room,
            longest=longest(lambda length: need(length).total <= room, lengths[-1] + 64),
            totals={length: int(need(length).total * past.correction) for length in lengths},
        )  # fmt: skip

    if isinstance(outline, GgufOutline):
        slots, each = ask.slots or LLAMA_SLOTS, outline.token_bytes()

        def whole(length: int) -> Need:
            return outline.need(context=length)

        rows = [row("as in its file", whole, {}, outline.weights - outline.unread)]
        shorter = longest(lambda length: whole(length).total <= room, context)
        offers = [f"--context {shorter}"] if shorter else []
    else:
        slots, order = ask.slots or SLOTS, precisions_of(outline, ask.precision)
        each = outline.token_bytes(order[0])
        needs = {
            word: lambda length, word=word: outline.need(word, slots=slots, context=length, device=ask.device)
            for word in order
        }
        rows = [row(word, needs[word], outline.by_class(word), outline.read(word)) for word in order]
        offers = instead(outline, order, slots=slots, context=context, budget=room)
    return Fit(
        name=outline.name, engine="llamacpp" if isinstance(outline, GgufOutline) else "transformers",
        device=ask.device, budget=ask.budget, slots=slots, context=context, layers=str(outline.layers()),
        token_bytes=each, rows=tuple(rows), past=past,
        instead=() if any(row.fits for row in rows) else tuple(offers) or (SMALLER,),
    )  # fmt: skip

"""Which sequence memory suits a model: tried at load against a plain forward pass, since some fail silently."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from jeito.engines.slots import Memory, Room, Slab, Windows, Work, forward
from jeito.engines.slots_separate import Separate
from jeito.errors import EngineError

# Long enough for a past beyond the window that the model is given meanwhile, and for a neighbour longer still.
WINDOW, SHORT, LONG, STEPS = 16, 40, 61, 3
# Up to here a window that cannot be set is simply filled.
FILLABLE = 1024
# What models raise that were not made for this; NotImplementedError is a RuntimeError.
TRIPPED = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError)


class Suited(NamedTuple):
    """A way of holding sequences that gave what a plain pass gives. `why`: what the slab failed at, if it did."""

    make: Callable[[int], Memory]
    """A fresh memory of so many slots."""
    shares: bool
    """Do rows share passes?"""
    why: str


def suit(model: Any, *, context: int, room: Room) -> Suited:
    """A slab if it is right for the model, with sdpa or else with eager attention; else a cache for each slot."""
    turn = _turn(model, context)
    why = "its rope makes a text depend on the longest beside it" if turn is not None else _unfit(model)
    if not why:
        layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
        first = model.config._attn_implementation
        for attention in dict.fromkeys([first, "eager"]):
            model.set_attn_implementation(attention)
            for plan in range(len(windows(model))):

                def slab(slots: int, plan: int = plan) -> Memory:
                    return Slab(
                        model, layers=layers, slots=slots, context=context, windows=windows(model)[plan], room=room
                    )

                why = _fails(model, slab, context)
                if not why:
                    return Suited(slab, True, "")
        model.set_attn_implementation(first)
    for cached in (True, False):

        def separate(slots: int, cached: bool = cached) -> Memory:
            return Separate(model, slots=slots, cached=cached, turn=turn)

        if not _fails(model, separate, context, needs_cache=cached):
            return Suited(separate, False, why if cached else f"{why}; no cache works: the whole text is computed anew")
    raise EngineError("the model gives other logits in steps than in one pass", hint="try --precision fp32")


def _turn(model: Any, context: int) -> int | None:
    """The length past which a rope turns all rows of a call by the longest one; none if that cannot come."""
    config = model.config.get_text_config(decoder=True)
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [rope for rope in ropes.values() if isinstance(rope, dict)] or [ropes]:
        kind = str(rope.get("rope_type", rope.get("type", "")))
        if "dynamic" in kind or kind == "longrope":
            original = int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
            return original if context > original else None
    return None


def _unfit(model: Any) -> str:
    """Why a slab cannot suit the model, as far as its config tells."""
    config = model.config.get_text_config(decoder=True)
    types = set(getattr(config, "layer_types", None) or ())
    other = types - {"full_attention", "sliding_attention", "attention"}
    if other:
        return f"it has layers of the kind {', '.join(sorted(other))}"
    cache: Any = import_module("transformers").DynamicCache
    try:
        linear = any(cache(config=model.config).is_linear)
    except (KeyError, AttributeError, TypeError, ValueError):
        return "its cache is of a kind of its own"
    return "it keeps a state, not keys and values" if linear else ""


def windows(model: Any) -> list[Windows]:
    """Attention windows to try, likeliest first."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ())
    if types >= {"full_attention", "sliding_attention"}:
        return [{"full_attention": None, "sliding_attention": window}]
    if window is None or (types and "sliding_attention" not in types):
        return [{None: None}]
    return [{None: window}, {None: None}]


@contextmanager
def _short_window(model: Any) -> Iterator[int]:
    """The model with a window that a short text exceeds; yields by how many tokens texts must be longer for it."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    fixed = getattr(config, "window_size", None)
    if window is None:
        yield fixed if isinstance(fixed, int) and fixed <= FILLABLE else 0
        return
    config.sliding_window = min(window, WINDOW)
    try:
        yield 0
    finally:
        config.sliding_window = window


def _fails(model: Any, make: Callable[[int], Memory], context: int, *, needs_cache: bool = True) -> str:
    """Why two texts of different lengths, in chunks and then in steps together, get other logits than a plain pass.

    Empty if they get the same, as nearly as the library's own cache does: low precisions differ a little in any case.
    """
    torch: Any = import_module("torch")
    with _short_window(model) as more:
        short, long = min(SHORT + more, context - 20), min(LONG + more, context)
        if short < STEPS + 2:
            return ""
        generator = torch.Generator().manual_seed(0)
        vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
        texts = [torch.randint(0, vocabulary, (n,), generator=generator).tolist() for n in (short, long)]
        try:
            expected = [_plain(model, text) for text in texts]
            memory = make(2)
            found = _in_steps(memory, texts)
        except TRIPPED as error:
            return f"shared passes failed: {type(error).__name__}: {error}"
        if needs_cache and not memory.bytes():
            return "it does not use the cache that it is given"
        usual = _usual_error(model, texts[0], expected[0])
    fine = 2e-4 if model.dtype == torch.float32 else 2e-2
    for a, b in zip(found, expected, strict=True):
        off, most = float((a - b).abs().max()), 4 * usual + fine * float(b.abs().max())
        if not off <= most:
            return f"shared passes gave other logits than a plain one, by {off:.2g} where {most:.2g} is usual"
    return ""


def _plain(model: Any, text: list[int]) -> Any:
    torch: Any = import_module("torch")
    ids = torch.tensor([text], device=model.device)
    return forward(model, ids, STEPS).logits[0, -STEPS:].float()


def _in_steps(memory: Memory, texts: list[list[int]]) -> list[Any]:
    """The last STEPS logits of each text."""
    torch: Any = import_module("torch")
    half = len(texts[0]) // 2
    memory.append([Work(slot, text[:half], 1) for slot, text in enumerate(texts)])
    memory.append([Work(slot, text[half:-STEPS], 1) for slot, text in enumerate(texts)])
    steps = [memory.append([Work(slot, [text[i - STEPS]], 1) for slot, text in enumerate(texts)]) for i in range(STEPS)]
    return [torch.cat([step[slot] for step in steps]).float() for slot in range(len(texts))]


def _usual_error(model: Any, text: list[int], expected: Any) -> float:
    try:
        found = _in_steps(Separate(model, slots=1, cached=True), [text])[0]
    except TRIPPED:
        return 0.0
    return float((found - expected).abs().max())

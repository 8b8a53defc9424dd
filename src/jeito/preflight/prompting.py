"""How text becomes tokens and turns a prompt: tokenizer, special tokens, and the chat template, which is tried."""

from collections.abc import Iterator
from typing import Any

from jeito.preflight.find import Facts
from jeito.preflight.finding import Finding, found
from jeito.preflight.knowledge import REASONING
from jeito.preflight.trial import CONVERSATIONS, tried

# An embedding is often padded to a round number, so it may have more rows than there are tokens; not fewer.
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer.model",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def tokens(facts: Facts) -> Iterator[Finding]:
    """Is there a tokenizer, does it fit the embedding, and are the special tokens sane?"""
    if facts.gguf is None and (facts.config is None or facts.adapter is not None):
        return
    if facts.gguf is None and not _has_tokenizer(facts):
        source = facts.base[0] if facts.base else "the model's source"
        yield found("tokenizer.present", "blocker", "no file of one", source=source)
        return
    rows = _rows(facts)
    yield found("tokenizer.present", "ok", f"{facts.vocabulary or 'an unknown number of'} tokens")
    if rows and facts.vocabulary:
        level = "ok" if facts.vocabulary <= rows else "blocker"
        yield found("tokenizer.vocabulary", level, f"{facts.vocabulary} tokens, {rows} rows")  # type: ignore[arg-type]
    yield from _specials(facts, rows)


def _has_tokenizer(facts: Facts) -> bool:
    names = facts.files
    own = facts.tokenizer.get("auto_map")
    return (
        any(name in names for name in _TOKENIZERS)
        or {"vocab.json", "merges.txt"} <= names.keys()
        or any(name.endswith(".tiktoken") for name in names)
        or (isinstance(own, dict) and "AutoTokenizer" in own)
    )


def _rows(facts: Facts) -> int | None:
    """Rows of the embedding, by its tensor where its header was read, else as the config says."""
    for header in facts.headers.values():
        for tensor in header.tensors:
            if tensor.name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2:
                return tensor.shape[0]
    said = facts.text.get("vocab_size")
    return said if isinstance(said, int) else None


def _specials(facts: Facts, rows: int | None) -> Iterator[Finding]:
    ends, begin, pad = _ids(facts, "eos"), _ids(facts, "bos"), _ids(facts, "pad")
    text = _text(facts, "eos_token")
    outside = [number for number in ends if rows is not None and not 0 <= number < rows]
    if outside:
        how = f"correct eos_token_id, which is at most {rows - 1 if rows else 0}"
        yield found("tokens.end", "blocker", f"eos_token_id is {outside[0]} of {rows} rows", how=how)
    elif not ends and text is None:
        how = "set eos_token_id in generation_config.json, or every reply runs to max_new_tokens"
        yield found("tokens.end", "warning", "no file names one", how=how)
    else:
        yield found("tokens.end", "ok", ", ".join(filter(None, [*map(str, ends), text])))
    if any(rows is not None and not 0 <= number < rows for number in begin):
        yield found("tokens.begin", "blocker", f"bos_token_id is {begin[0]} of {rows} rows")
    padding = _text(facts, "pad_token")
    if (pad and set(pad) <= set(ends)) or (padding is not None and padding == text):
        yield found("tokens.pad", "warning", f"the pad token is the end token ({padding or pad[0]})")
    else:
        yield found("tokens.pad", "ok", str(padding or (pad[0] if pad else "none is named")))


def _ids(facts: Facts, which: str) -> list[int]:
    given: Any = facts.generation.get(f"{which}_token_id", facts.text.get(f"{which}_token_id"))
    if facts.gguf is not None:
        given = facts.gguf.get(
            {"pad": "tokenizer.ggml.padding_token_id"}.get(which, f"tokenizer.ggml.{which}_token_id")
        )
    return [number for number in (given if isinstance(given, list) else [given]) if isinstance(number, int)]


def _text(facts: Facts, key: str) -> str | None:
    value = facts.tokenizer.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def template(facts: Facts) -> Iterator[Finding]:
    """The chat template, compiled and tried on five conversations in a process of its own."""
    if facts.template is None:
        if facts.gguf is not None or (facts.config is not None and facts.adapter is None):
            yield found("template.present", "warning", "none: turns are joined by the end token")
        return
    yield found("template.present", "ok", f"{len(facts.template):,} characters")
    special = {key: text for key in facts.tokenizer if key.endswith("_token") and (text := _text(facts, key))}
    trial = tried(facts.template, {"bos_token": "<s>", "eos_token": "</s>"} | special)
    if trial.broken:
        source = facts.base[0] if facts.base else "its author"
        yield found("template.compiles", "blocker", trial.broken, source=source)
        return
    yield found("template.compiles", "ok", "in the sandbox")
    refused = {name: why for name, why in trial.failed.items() if trial.system or "instruction" not in name}
    if refused:
        name, why = next(iter(refused.items()))
        taken = f"takes {len(CONVERSATIONS) - len(trial.failed)} of {len(CONVERSATIONS)}"
        yield found("template.conversations", "warning", f"{taken}; {name}: {why}")
    elif not trial.turns:
        yield found("template.conversations", "warning", "it loses turns of a longer conversation")
    else:
        yield found("template.conversations", "ok", "turns in their order")
    system = "it comes through" if trial.system else _why(trial.failed, "an instruction and a question")
    yield found("template.system", "ok" if trial.system else "warning", system)
    tools = "the tool comes through" if trial.tools else _why(trial.failed, "a question with a tool")
    yield found("template.tools", "ok" if trial.tools else "warning", tools)
    yield found(
        "template.reply", "ok" if trial.opens else "warning", "it opens one" if trial.opens else "it opens none"
    )  # fmt: skip
    marks = [mark for mark in REASONING if mark in facts.template]
    yield found("template.reasoning", "ok", " ".join(marks) or "none")


def _why(failed: dict[str, str], name: str) -> str:
    return failed.get(name, "dropped in silence")

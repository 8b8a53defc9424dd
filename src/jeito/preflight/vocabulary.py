"""How many tokens a tokenizer knows, counted in the smallest file that says so. Builds no tokenizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jeito.preflight.source import Source, Unreadable, parse_object, read_whole

# A tokenizer.json beyond this (Gemma's has 33 MB) is not worth its bytes for one number.
LONGEST = 12_000_000
_FILES = ("vocab.json", "tokenizer.model", "vocab.txt", "tokenizer.json")


def count_tokens(
    source: Source,
    names: Sequence[str],
    tokenizer: Mapping[str, Any],
    attempt: Callable[[str, Callable[[], int]], int | None],
) -> int | None:
    """One more than the largest token that the tokenizer can give; none where no file of a fair size says it."""
    fair = [name for name in _FILES if name in names and (source.files.get(name) or 0) <= LONGEST]
    if not fair:
        return None
    file = min(fair, key=lambda name: source.files.get(name) or 0)
    found = attempt(file, lambda: _count(file, read_whole(source, file, LONGEST)))
    return None if found is None else max(found, _added(tokenizer))


def _added(tokenizer: Mapping[str, Any]) -> int:
    decoder = tokenizer.get("added_tokens_decoder")
    numbers = [int(number) for number in decoder if str(number).isdigit()] if isinstance(decoder, dict) else []
    return max(numbers, default=-1) + 1


def _count(file: str, raw: bytes) -> int:
    if file == "vocab.txt":
        return len(raw.splitlines())
    if file == "tokenizer.model":
        return _pieces(raw)
    value = parse_object(raw, file)
    if file == "vocab.json":
        return _end(value.values())
    model = value.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    own = len(vocabulary) if isinstance(vocabulary, list) else 0
    if isinstance(vocabulary, dict):
        own = _end(vocabulary.values())
    added = value.get("added_tokens")
    more = [entry.get("id") for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    return max(own, _end(more))


def _end(numbers: Any) -> int:
    return max((number for number in numbers if isinstance(number, int)), default=-1) + 1


def _pieces(raw: bytes) -> int:
    """Pieces of a sentencepiece model, a protobuf whose field 1 is one piece each; lines of a tiktoken file."""
    if not raw.startswith(b"\n"):
        return len(raw.splitlines())
    return sum(1 for field in _fields(raw) if field == 1)


def _fields(raw: bytes) -> Iterator[int]:
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        if key & 7 == 2:
            length, at = _varint(raw, at)
            at += length
        elif key & 7 == 0:
            _, at = _varint(raw, at)
        else:
            at += {1: 8, 5: 4}.get(key & 7, len(raw))
        yield key >> 3


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for step in range(10):
        if at >= len(raw):
            break
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << (7 * step)
        if byte < 0x80:
            return value, at
    raise Unreadable("'tokenizer.model' is no sentencepiece model")

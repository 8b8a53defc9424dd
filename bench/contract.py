"""Are replies under a contract always valid, and what does it cost? Random schemas, random logits, two engines, a peer.

python bench/contract.py [--schemas 200] [--transformers 40] [--repeats 5] [--suite FOLDER] [--json FILE]

Needs jsonschema (of the dev extra), which judges what was written. FOLDER: the tests of one draft of the JSON Schema
Test Suite, such as json/tests/draft2020-12 of jsonschema's source archive.
"""

import argparse
import hashlib
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from engine import Peer, asked
from jsonschema import Draft202012Validator

from jeito.decode.grammar import Contract, Grammars
from jeito.decode.local import LocalModel
from jeito.engines.base import Logits
from jeito.engines.toy import END, VOCABULARY, ToyEngine
from jeito.errors import JeitoError
from jeito.run.open import open_model
from jeito.types import End, Message, Output, Request, Sampling, Start

FORMATS = ("date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
PATTERNS = ("^[A-Z]{2}-[0-9]{3}$", "^(?:red|green|blue)+$", '^[^0-9"]{1,4}$', "\\.py$", "^a|b$")
WORDS = ("name", "size", "tags", "ação", "x y", "$id", "a\"b", "kind", "deep/er", "n")  # fmt: skip
SIX: dict[str, Any] = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square", "triangle"]},
        "radius": {"type": "number", "minimum": 0, "maximum": 100},
        "area": {"type": "number", "minimum": 0, "maximum": 100000},
        "unit": {"type": "string", "maxLength": 12},
        "is_exact": {"type": "boolean"},
        "number_of_steps": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["shape", "radius", "area", "unit", "is_exact", "number_of_steps"],
    "additionalProperties": False,
}
ASK = "Give the area of a circle of radius 2 as JSON."


def schema_of(seed: int) -> dict[str, Any]:
    """A random schema: objects in objects, unions, references, formats, bounds. Texts and lists have a measure."""
    draw = random.Random(seed)
    made = _object(draw, 3)
    # A chain of references that ends: a hot model would go on with one that refers to itself.
    link = {"type": "object", "properties": {"value": {"$ref": "#/$defs/leaf"}, "next": {}},
            "required": ["value", "next"], "additionalProperties": False}  # fmt: skip
    made["$defs"] = {"leaf": _leaf(draw), "tree": _linked(link, {"$ref": "#/$defs/branch"}, {"type": "null"}),
                     "branch": _linked(link, {"$ref": "#/$defs/leaf"}, {"type": "null"})}  # fmt: skip
    return made


def _linked(link: dict[str, Any], *next: dict[str, Any]) -> dict[str, Any]:
    return link | {"properties": link["properties"] | {"next": {"anyOf": [*next]}}}


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(WORDS, draw.randint(1, 4))
    made: dict[str, Any] = {
        "type": "object",
        "properties": {name: _any(draw, depth - 1) for name in names},
        "required": draw.sample(names, draw.randint(0, len(names))),
        "additionalProperties": False,
    }
    if draw.random() < 0.2:
        made["patternProperties"] = {"^[0-9]{1,3}$": _leaf(draw)}
    return made


def _any(draw: random.Random, depth: int) -> dict[str, Any]:
    if depth <= 0:
        return _leaf(draw)
    kinds = {
        "leaf": lambda: _leaf(draw),
        "object": lambda: _object(draw, depth),
        "list": lambda: {"type": "array", "items": _any(draw, depth - 1), "minItems": (least := draw.randint(0, 2)),
                         "maxItems": least + draw.randint(0, 2)},
        "tuple": lambda: {"type": "array", "prefixItems": [_leaf(draw), _any(draw, depth - 1)], "items": False,
                          "minItems": draw.randint(0, 2)},
        "union": lambda: {"anyOf": [_any(draw, depth - 1), _leaf(draw), {"type": "null"}]},
        "one": lambda: {"oneOf": [{"type": "integer", "minimum": -9, "maximum": 9},
                                  {"type": "string", "maxLength": 4}]},
        "all": lambda: {"allOf": [{"type": "integer", "minimum": draw.randint(-50, 0)},
                                  {"maximum": draw.randint(1, 50)}]},
        "reference": lambda: {"$ref": draw.choice(["#/$defs/leaf", "#/$defs/tree"])},
        "map": lambda: {"type": "object", "additionalProperties": False, "maxProperties": 2,
                        "patternProperties": {"^[a-z]{1,5}$": _leaf(draw)}},
    }  # fmt: skip
    return kinds[draw.choice(list(kinds))]()


def _leaf(draw: random.Random) -> dict[str, Any]:
    low = round(draw.uniform(-1000, 1000), draw.choice([0, 1, 3]))
    leaves = [
        {"type": "string", "minLength": (least := draw.randint(0, 3)), "maxLength": least + draw.randint(0, 9)},
        {"type": "string", "format": draw.choice(FORMATS), "maxLength": 60},
        {"type": "string", "pattern": draw.choice(PATTERNS), "maxLength": 40},
        {"type": "integer", "minimum": int(low), "exclusiveMaximum": int(low) + draw.randint(1, 10**6)},
        {"type": "number", "exclusiveMinimum": low, "maximum": round(low + draw.choice([0.5, 1, 1000]), 3)},
        {"type": "integer", "multipleOf": draw.choice([2, 7, 10, 25])},
        {"type": "number"},
        {"type": ["boolean", "null"]},
        {"enum": draw.sample(["red", "réd", 'say "x"', 3, 2.5, None, True, ["a", 1], {"k": "v"}, "\n\t"], 4)},
        {"const": draw.choice(["fixed", {"a": [1, 2]}, 0.125, -7])},
    ]  # fmt: skip
    return draw.choice(leaves)


def noise(tokens: Sequence[int]) -> Logits:
    """Logits that know nothing: a hash of the tokens so far."""
    digest = hashlib.blake2b(np.asarray(tokens, np.uint32).tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).normal(0, 2, VOCABULARY).astype(np.float32)


def request(schema: dict[str, Any] | None, sampling: Sampling, ask: str = ASK) -> Request:
    output = Output(json_schema=schema) if schema else None
    return Request(messages=(Message(role="user", content=ask),), sampling=sampling, output=output)


def together(model: LocalModel, requests: list[Request]) -> Iterator[tuple[str, End]]:
    """Every answer and its end; as many at once as the model has slots."""
    for at in range(0, len(requests), model.card.slots):
        streams = [model.stream(one) for one in requests[at : at + model.card.slots]]
        texts, ends = [""] * len(streams), dict.fromkeys(range(len(streams)), End(finish="error"))
        live = set(ends)
        while live:
            for index in sorted(live):
                event = next(streams[index], None)
                if event is None:
                    live.remove(index)
                elif not isinstance(event, Start):
                    texts[index] += event.text
                    if isinstance(event, End):
                        ends[index] = event
        yield from zip(texts, ends.values(), strict=True)


def validity(model: LocalModel, count: int, sampling: Sampling) -> dict[str, Any]:
    """How many of so many random schemas were met, judged by another library."""
    schemas = [schema_of(seed) for seed in range(count)]
    for schema in schemas:
        Draft202012Validator.check_schema(schema)
    found: Counter[str] = Counter()
    failures = []
    forced = generated = 0
    requests = [request(schema, sampling.model_copy(update={"seed": at})) for at, schema in enumerate(schemas)]
    for at, (text, ended) in enumerate(together(model, requests)):
        forced, generated = forced + ended.usage.forced, generated + ended.usage.generated
        why = _judged(schemas[at], text) if ended.finish == "stop" else f"{ended.finish}: {ended.why}"
        found["valid" if why is None else "invalid"] += 1
        if why is not None:
            failures.append({"seed": at, "why": why, "text": text[-300:]})
    return {"schemas": count, "valid": found["valid"], "tokens": generated, "forced": forced, "failures": failures}


def _judged(schema: dict[str, Any], text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    error = next(validator.iter_errors(value), None)
    return error.message[:200] if error else None


def spent(model: LocalModel, asked: Request) -> tuple[float, End]:
    """Seconds of decoding after the prompt is computed, from a memory that holds the prompt."""
    begun = time.perf_counter()
    *_, ended = model.stream(asked)
    assert isinstance(ended, End)
    return time.perf_counter() - begun, ended


def costs(model: LocalModel, repeats: int) -> dict[str, Any]:
    """One stream, in turns, the prompt in memory: free, masked, held to a schema, and llama-server held to it too."""
    peer = Peer(1)
    rounds = []
    for seed in range(repeats + 1):
        warm = Sampling(temperature=0.7, seed=seed, max_new_tokens=200)
        prompt = model.prompt(request(None, warm))
        list(model.stream(request(None, warm.model_copy(update={"max_new_tokens": 1}))))  # the prompt is in memory now
        held, ended = spent(model, request(SIX, warm))
        tokens = ended.usage.generated
        fixed = warm.model_copy(update={"min_new_tokens": tokens, "max_new_tokens": tokens})
        free, _ = spent(model, request(None, fixed))
        anything = Output(lark="start: /(?s:.)*/")
        masked, _ = spent(model, request(None, fixed).model_copy(update={"output": anything}))
        server = asked(prompt, 200, ignore_eos=False, json_schema=SIX, temperature=0.7, seed=seed, cache_prompt=True)
        peer.run([asked(prompt, 1, cache_prompt=True)])
        theirs = peer.run([server])
        passes = tokens - ended.usage.forced
        rounds.append({
            "seed": seed, "finish": ended.finish, "tokens": tokens, "passes / tokens": passes / tokens,
            "held / free": held / free, "masked / free": masked / free,
            "ours, tokens/s": tokens / held, "llama-server, tokens/s": theirs.tokens / theirs.seconds,
            "ours / llama-server": tokens / held / (theirs.tokens / theirs.seconds), "server tokens": theirs.tokens,
            "ours, answers/s": 1 / held, "llama-server, answers/s": 1 / theirs.seconds,
        })  # fmt: skip
    peer.close()
    return {"rounds": rounds[1:], "medians": {
        key: statistics.median(one[key] for one in rounds[1:])  # the first round warms up
        for key in rounds[0] if key not in ("seed", "finish")
    }}  # fmt: skip


def masks(model: LocalModel) -> dict[str, float]:
    """Milliseconds a token: the mask, taking the token, asking what is forced."""
    engine = model.decoder.engine
    text = '{"shape": "circle", "radius": 2.5, "area": 19.63495, "unit": "cm", "is_exact": false, "number_of_steps": 3}'
    grammars = Grammars(engine)
    begun = time.perf_counter()
    grammars.begin(Output(choice=("x",)))
    vocabulary = time.perf_counter() - begun
    begun = time.perf_counter()
    grammars.begin(Output(json_schema=SIX))
    compiled = time.perf_counter() - begun
    steps = []
    for _ in range(20):
        contract = grammars.begin(Output(json_schema=SIX))
        for token in engine.tokens(text, special=False):
            begun = time.perf_counter()
            mask = contract.allowed()
            contract.accept(token)
            contract.forced()
            steps.append(1e3 * (time.perf_counter() - begun))
            assert mask[token], "the text meets the schema"
        assert contract.is_complete
    return {
        "vocabulary": engine.card.vocabulary, "vocabulary read, ms": 1e3 * vocabulary, "compiled, ms": 1e3 * compiled,
        "a token, ms, median": statistics.median(steps), "a token, ms, 99th": sorted(steps)[int(len(steps) * 0.99)],
    }  # fmt: skip


def suite(folder: Path) -> dict[str, int]:
    """The JSON Schema Test Suite: of the schemas that are held to, which instances are taken?"""
    grammars = Grammars(ToyEngine())
    found: Counter[str] = Counter()
    files = [file for file in folder.rglob("*.json") if "optional" not in file.parts or "format" in file.parts]
    groups = [group for file in files for group in json.loads(file.read_text())]
    for group in (group for group in groups if isinstance(group["schema"], dict)):
        output = Output(json_schema=group["schema"])
        try:
            grammars.begin(output)
        except JeitoError:
            found["schemas refused"] += 1
            continue
        found["schemas held to"] += 1
        for test in group["tests"]:
            taken = _takes(grammars.begin(output), json.dumps(test["data"], ensure_ascii=False))
            found[f"{'valid' if test['valid'] else 'invalid'} {'taken' if taken else 'refused'}"] += 1
    return dict(found)


def _takes(contract: Contract, text: str) -> bool:
    for byte in text.encode():
        if not contract.allowed()[byte]:
            return False
        contract.accept(byte)
    return contract.is_complete or bool(contract.allowed()[END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--transformers", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.suite:
        found["suite"] = suite(options.suite)
        print("JSON Schema Test Suite:", ", ".join(f"{count} {what}" for what, count in sorted(found["suite"].items())))
    demo = open_model("demo")
    found["masks"], found["costs"] = masks(demo), costs(demo, options.repeats)
    for name, value in {**found["masks"], **found["costs"]["medians"]}.items():
        print(f"{name:28} {value:10.3f}")
    for name, limit, sign in (
        ("held / free", 1.1, -1), ("passes / tokens", 0.7, -1), ("ours / llama-server", 1.15, 1),
    ):  # fmt: skip
        value = found["costs"]["medians"][name]
        verdict = "met" if (value - limit) * sign >= 0 else "missed"
        print(f"{name:28} {value:10.3f}; wanted {'≥' if sign > 0 else '≤'} {limit}: {verdict}; n={options.repeats}")
    hot = Sampling(temperature=1.5, max_new_tokens=3000)
    models = {
        "random logits": (LocalModel(ToyEngine(noise, context=8192), "noise"), options.schemas),
        "demo, llama.cpp": (demo, options.schemas),
        "demo, transformers": (None, options.transformers),
    }
    for name, (given, count) in models.items():
        model = given or open_model("demo@transformers")
        found[name] = validity(model, count, hot)
        told = found[name]
        counts = f"{told['tokens']} tokens, {told['forced']} forced"
        print(f"{name:28} {told['valid']:4} of {told['schemas']} valid; {counts}")
        for failure in told["failures"]:
            print("   ", failure)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

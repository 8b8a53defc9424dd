"""Contracts: what is met is taken, what is not is refused, and what cannot be enforced is never ignored."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jeito.decode.grammar import DIGITS, LARGEST, Contract, Grammars
from jeito.decode.local import LocalModel
from jeito.decode.schema import ANNOTATIONS, ENFORCED, REFUSED
from jeito.engines import transformers
from jeito.engines.base import Engine, Loading
from jeito.engines.toy import END, ToyEngine
from jeito.errors import InputError, UnsupportedError
from jeito.types import Output

TOY = Grammars(ToyEngine())


def held(schema: object) -> Contract:
    return TOY.begin(Output(json_schema=schema))  # type: ignore[arg-type]


def meets(contract: Contract, text: str) -> bool:
    """Can a reply be this text, byte by byte, and end there?"""
    for byte in text.encode():
        if not contract.allowed()[byte]:
            return False
        contract.accept(byte)
    return contract.is_complete or bool(contract.allowed()[END])


# For each keyword that is enforced: a schema, instances that meet it, instances that do not.
KEYWORDS: dict[str, tuple[object, list[object], list[object]]] = {
    "type": ({"type": ["integer", "null"]}, [3, -7, None], ["3", 1.5, True, [], {}]),
    "const": ({"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}, {"a": [1, None], "b": 1}]),
    "enum": ({"enum": ["red", 2, None]}, ["red", 2, None], ["re", 3, False]),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"const": "x"}]}, [4, "x"], ["y", None]),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [4, "x"], [None, 1.5]),
    "allOf": ({"allOf": [{"minimum": 2}, {"type": "integer", "maximum": 4}]}, [2, 4], [1, 5, "3"]),
    "$ref": (
        {"type": "object", "properties": {"next": {"$ref": "#"}, "n": {"$ref": "#/$defs/n"}},
         "$defs": {"n": {"const": 1}}},
        [{}, {"next": {"next": {}, "n": 1}}],
        [{"n": 2}, {"next": 1}],
    ),
    "$defs": ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}, [None], [0]),
    "definitions": ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "null"}}}, [None], [0]),
    "items": ({"type": "array", "items": {"type": "integer"}}, [[], [1, 2]], [["a"], [1, None]]),
    "prefixItems": (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        [[], [1], [1, "a"]],
        [["a"], [1, 2], [1, "a", 3]],
    ),
    "additionalItems": (
        {"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "null"}},
        [[1, None]],
        [[1, 2]],
    ),
    "minItems": ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [[1, 2], [1, 2, 3]], [[], [1]]),
    "maxItems": ({"type": "array", "items": {"type": "integer"}, "maxItems": 2}, [[], [1, 2]], [[1, 2, 3]]),
    "properties": ({"type": "object", "properties": {"a": {"type": "integer"}}}, [{"a": 1}, {"b": "x"}], [{"a": "x"}]),
    "patternProperties": (
        {"type": "object", "patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
        [{"n_x": 1}],
        [{"n_x": "1"}, {"x": 1}],
    ),
    "additionalProperties": (
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "null"}},
        [{"a": 1, "b": None}],
        [{"a": 1, "b": 2}, {"a": None}],
    ),
    "required": ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]}, [{"b": 1}], [{}, {"a": 1}]),
    "minProperties": ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
    "maxProperties": ({"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    "minLength": ({"type": "string", "minLength": 2}, ["éé", "abc"], ["", "é"]),
    "maxLength": ({"type": "string", "maxLength": 2}, ["", "é🙂"], ["abc"]),
    "pattern": ({"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["", "abd"]),
    "format": ({"type": "string", "format": "date"}, ["2024-02-29", "2025-12-31"], ["2023-02-29", "2025-13-01", "x"]),
    "minimum": ({"type": "integer", "minimum": 7}, [7, 100], [6, -8]),
    "maximum": ({"type": "number", "maximum": 1.5}, [1.5, -3, 0.25], [1.6, 2]),
    "exclusiveMinimum": ({"type": "number", "exclusiveMinimum": 0}, [0.1, 3], [0, -1]),
    "exclusiveMaximum": ({"type": "integer", "exclusiveMaximum": 10}, [9, -20], [10, 11]),
    "multipleOf": ({"type": "integer", "multipleOf": 7}, [0, 14, -21], [1, 15]),
}  # fmt: skip


@pytest.mark.parametrize("keyword", sorted(ENFORCED))
def test_an_enforced_keyword_takes_what_meets_it_and_nothing_else(keyword: str) -> None:
    schema, valid, invalid = KEYWORDS[keyword]
    assert keyword in json.dumps(schema)
    assert [meets(held(schema), json.dumps(instance, ensure_ascii=False)) for instance in valid] == [True] * len(valid)
    assert not any(meets(held(schema), json.dumps(instance, ensure_ascii=False)) for instance in invalid)


@pytest.mark.parametrize(
    ("format", "valid", "invalid"),
    [
        ("date-time", "2024-02-29T23:59:59Z", "2024-02-30T10:00:00Z"),
        ("time", "10:20:30+02:00", "10:20:60Z"),
        ("duration", "P3DT4H", "3 days"),
        ("email", "ana@example.com", "ana"),
        ("hostname", "example.com", "-a-"),
        ("ipv4", "10.0.0.1", "256.0.0.1"),
        ("ipv6", "::1", "12345::"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
        ("uri", "https://example.com/a", "a b"),
    ],
)
def test_a_format_is_kept_to(format: str, valid: str, invalid: str) -> None:
    schema = {"type": "string", "format": format}
    assert meets(held(schema), json.dumps(valid))
    assert not meets(held(schema), json.dumps(invalid))


@pytest.mark.parametrize("keyword", sorted(REFUSED))
def test_a_keyword_that_cannot_be_enforced_is_refused_by_its_name_and_place(keyword: str) -> None:
    with pytest.raises(UnsupportedError, match=r"properties\.a") as caught:
        held({"type": "object", "properties": {"a": {keyword: {}}}})
    assert repr(keyword) in str(caught.value)
    assert caught.value.hint


def test_annotations_change_nothing() -> None:
    schema = {**dict.fromkeys(ANNOTATIONS - {"$schema", "$id", "id", "$anchor"}, "x"), "x-order": 1, "type": "integer"}
    assert meets(held(schema), "3")
    assert not meets(held(schema), "null")


BAD: dict[str, tuple[dict[str, object], str]] = {
    "an instance": ({"json_schema": {"name": "Ann", "age": 3}}, "'age' is no keyword|'name' is no keyword"),
    "a misspelt keyword": ({"json_schema": {"requird": ["a"]}}, "'requird' is no keyword"),
    "a number for a schema": ({"json_schema": {"properties": {"a": 3}}}, "properties.a is 3, which is no schema"),
    "a number for a map": ({"json_schema": {"properties": 3}}, "'properties' is a map of schemas, not 3"),
    "an unknown type": ({"json_schema": {"type": "text"}}, "Invalid type: text"),
    "an unknown format": ({"json_schema": {"type": "string", "format": "phone"}}, "Unknown format: phone"),
    "a reference to the web": ({"json_schema": {"$ref": "https://example.com/s.json"}}, "'https://example.com/s.json'"),
    "a reference to nothing": ({"json_schema": {"$ref": "#/$defs/a"}}, "'/\\$defs/a' does not exist"),
    "a reference to where no schema stands": (
        {"json_schema": {"$ref": "#/x-parts/a", "x-parts": {"a": {"uniqueItems": True}}}}, "where no schema stands",
    ),
    "a reference to itself": ({"json_schema": {"$ref": "#"}}, "without end"),
    "a required self": (
        {"json_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}}, "without end",
    ),
    "two that need each other": (
        {"json_schema": {"$ref": "#/$defs/a", "$defs": {
            "a": {"type": "array", "items": {"$ref": "#/$defs/b"}, "minItems": 1},
            "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]},
        }}}, "without end",
    ),
    "bounds that leave nothing": ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 2}}, "greater than"),
    "unions that overlap": ({"json_schema": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, "oneOf"),
    "names that could be one name": ({"json_schema": {"type": "object", "minProperties": 2}}, "minProperties: 2"),
    "a number that would be rounded": ({"json_schema": {"const": 2**53 + 1}}, "9007199254740993"),
    "a text that cannot be written": ({"json_schema": {"const": "a\x00"}}, "control character"),
    "a way out": ({"json_schema": {"x-guidance": {"lenient": True}, "uniqueItems": True}}, "x-guidance|uniqueItems"),
    "a pattern that is none": ({"json_schema": {"type": "string", "pattern": "("}}, "unclosed group"),
    "a regex that is none": ({"regex": "[a"}, "unclosed character class"),
    "a regex with look-around": ({"regex": "(?=a)b"}, "look-around"),
    "a grammar without a start": ({"lark": 'begin: "a"'}, "no start rule"),
    "a grammar that is none": ({"lark": 'start "a"'}, "Expected token"),
    "a rule that is not there": ({"lark": "start: other"}, "unknown name"),
    "a grammar without end": ({"lark": 'start: a\na: a "x"'}, "can never be met"),
    "a mark that is not there": ({"lark": 'start: "a" <|nope|>'}, "unknown special token"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_contract_that_cannot_be_is_one_clear_error(what: str) -> None:
    output, said = BAD[what]
    with pytest.raises(InputError, match=said) as caught:
        TOY.begin(Output(**output))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.hint


@pytest.mark.parametrize(
    "output",
    [
        {"json_schema": {"enum": [f"value {i}" for i in range(100_000)]}},
        {"json_schema": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20_000)}}},
        {"json_schema": {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in range(4)]} for i in range(12)]}},
        {"choice": [f"choice {i}" for i in range(100_000)]},
        {"regex": "(" * 100_000 + "a" + ")" * 100_000},
        {"lark": "start: " + "(" * 100_000 + '"a"' + ")" * 100_000},
    ],
    ids=["values", "properties", "combinations", "choices", "regex", "lark"],
)
def test_a_contract_without_measure_is_refused(output: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Grammars(ToyEngine()).begin(Output(**output))  # type: ignore[arg-type]


def test_a_schema_without_measure_in_depth_is_refused() -> None:
    for depth in (130, 190, 5000):
        schema: dict[str, object] = {"type": "integer"}
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
        with pytest.raises(InputError, match=r"recursion|deep"):
            TOY.begin(Output.model_construct(json_schema=schema))


def test_a_large_schema_within_measure_is_held_to() -> None:
    schema = {"enum": [f"value {i}" for i in range(8_000)]}
    assert len(json.dumps(schema)) < LARGEST
    assert meets(held(schema), '"value 7999"')


def test_a_rule_about_a_name_is_not_got_past_by_another_spelling_of_it() -> None:
    contract = held({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert not meets(contract, '{"\\u0061": "x"}')


def test_what_can_be_no_other_is_forced() -> None:
    contract = held({"type": "object", "properties": {"name": {"const": "Ann"}}, "required": ["name"],
                     "additionalProperties": False})  # fmt: skip
    forced = contract.forced()
    assert bytes(forced) == b'{"name": "Ann"}'
    for token in forced:
        contract.accept(token)
    assert contract.is_complete
    assert contract.why is None


def test_a_grammar_that_may_go_on_lets_the_reply_end_and_go_on() -> None:
    contract = TOY.begin(Output(regex="a+"))
    assert not contract.allowed()[END]
    contract.accept(ord("a"))
    assert contract.allowed()[[ord("a"), END]].all()
    assert contract.allowed().sum() == 2
    assert not contract.is_complete
    assert contract.forced() == []


@pytest.mark.parametrize("choice", ['say "no"', "two\nlines", "a | b", "ação", "/x/i", "\\d", " "])
def test_a_choice_is_taken_as_it_is_written(choice: str) -> None:
    assert meets(TOY.begin(Output(choice=(choice, "other"))), choice)
    assert not meets(TOY.begin(Output(choice=(choice, "other"))), choice + "x")


def test_replies_under_one_grammar_do_not_disturb_each_other() -> None:
    first, second = (TOY.begin(Output(choice=("ab", "cd"))) for _ in range(2))
    first.accept(ord("a"))
    assert first.forced() == [ord("b")]
    assert second.allowed()[[ord("a"), ord("c")]].all()


def test_a_number_ends_although_the_schema_would_let_it_go_on() -> None:
    contract = held({"type": "array", "items": {"type": "number"}})
    assert not meets(contract, "[3." + "1" * DIGITS)
    assert contract.allowed()[ord("]")]
    assert not contract.allowed()[ord("1")]
    assert not meets(held({"type": "array", "items": {"type": "number"}}), "[1e999")
    assert meets(held({"type": "array", "items": {"type": "string"}}), f'["{"1" * 99}\\"{"1" * 99}"]')


def test_a_longer_number_is_written_where_the_schema_wants_one() -> None:
    text = "1" + "0" * 30
    assert meets(TOY.begin(Output(regex=text)), text)
    assert meets(held({"type": "number", "const": 1e-12}), "0.000000000001")


BOUNDS = st.sampled_from([-97.5, -2, -1.25, -1, -0.5, 0, 0.25, 0.5, 1, 1.5, 7, 7.75, 100, 1000.125])


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["number", "integer"]),
    st.dictionaries(
        st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]), BOUNDS, max_size=3
    ),
    st.tuples(BOUNDS, st.sampled_from([0, 0.5, -0.125, 1]), st.sampled_from(["{:.0f}", "{:.1f}", "{:.3f}", "{!r}"])),
)
def test_no_number_is_taken_that_its_bounds_exclude(
    type: str, bounds: dict[str, float], near: tuple[float, float, str]
) -> None:
    """Over 0 and up to 0.5 is not 0: what compiles the schema thinks so."""
    schema = {"type": type, **bounds}
    text = near[2].format(near[0] + near[1])
    try:
        taken = meets(held(schema), text)
    except InputError:  # nothing lies between these bounds
        return
    assert not taken or jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))


class Spaced(ToyEngine):
    """A tokenizer that begins every text with a blank, as sentencepiece does."""

    def tokens(self, text: str, special: bool) -> list[int]:
        return super().tokens(f" {text}", special)


def test_a_tokenizer_that_begins_with_a_blank_puts_none_into_what_is_forced() -> None:
    contract = Grammars(Spaced()).begin(Output(choice=("olá",)))
    assert bytes(contract.forced()) == "olá".encode()


def test_a_tokenizer_whose_tokens_do_not_add_up_to_their_text_takes_no_contract() -> None:
    class Joined(ToyEngine):
        def text(self, ids: Sequence[int]) -> bytes:
            return b" ".join(bytes([token]) for token in ids if token < 256)

    with pytest.raises(UnsupportedError, match="do not add up"):
        Grammars(Joined()).begin(Output(regex="a+"))


@pytest.fixture(params=["llamacpp", "transformers"])
def demo_engine(request: pytest.FixtureRequest, loaded_demo: LocalModel, warm_home: Path) -> Iterator[Engine]:
    if request.param == "llamacpp":
        yield loaded_demo.decoder.engine
        return
    request.getfixturevalue("unpacked_demo")
    engine = transformers.load("demo", Loading(precision="bf16", context=256, slots=2))
    yield engine
    engine.close()


def test_marks_are_tokens_in_a_grammar_and_forced_text_is_what_the_tokenizer_writes(demo_engine: Engine) -> None:
    grammars = Grammars(demo_engine)
    start, end = (demo_engine.tokens(name, special=True)[0] for name in ("<|im_start|>", "<|im_end|>"))
    contract = grammars.begin(Output(lark='start: "well" <|im_start|> "said 2025" <|im_end|>'))
    expected = [*demo_engine.tokens("well", False), start, *demo_engine.tokens("said 2025", False), end]
    forced = contract.forced()
    assert forced == expected
    for token in forced:
        assert contract.allowed()[token]
        contract.accept(token)
    assert contract.is_complete


def test_every_token_that_a_mask_allows_is_taken_and_no_other(demo_engine: Engine) -> None:
    grammars = Grammars(demo_engine)
    contract = grammars.begin(Output(regex="[0-9]{1,3} (?:cats|dogs)"))
    for token in demo_engine.tokens("12 dogs", special=False):
        mask = contract.allowed()
        assert mask.size == demo_engine.card.vocabulary
        texts = [demo_engine.text([int(one)]) for one in mask.nonzero()[0]]
        assert all((text and not text.isspace()) or text == b" " for text in texts)
        assert mask[token]
        contract.accept(token)
    assert contract.is_complete

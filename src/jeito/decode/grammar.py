"""Contracts: which tokens may come next, and which must. The one door to llguidance.

Knows the bytes of tokens and grammars over them; nothing of logits, prompts or slots.
"""

import json
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jeito.decode import schema
from jeito.engines.base import Engine
from jeito.errors import InputError, UnsupportedError
from jeito.types import Output

LONGEST = 64
"""Bytes of a token that is looked for."""
LARGEST = 200_000
"""Bytes of a grammar: compiling a schema of 5,000 properties, 144 kB, takes two seconds; of 10,000, eight."""
KEPT = 64
"""Compiled grammars that are kept for the next reply."""
LEXER_STATES = 50_000
"""Of one grammar, 1 to 2 kB each: a fifth of llguidance's own limit. Its others bound a compilation and a step."""

# One way to write every value: so what is between values is forced, not drawn, and no blank is repeated without end.
# Without \u escapes, since two spellings of one name would get past a rule about that name.
JSON_FORM: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
    "json_allow_general_unicode_escapes": False,
    "lenient": False,
    "coerce_one_of": False,
}


# No schema can say how many digits a number has, and small models go on writing them. A float holds 17, and an exponent
# of two is far from the end of floats.
DIGITS, EXPONENT = 16, 2


class Number:
    """How many more digits the number at the end of a JSON text may have; none where there is no number."""

    def __init__(self) -> None:
        self.left: int | None = None
        self._is_text = self._is_escape = False

    def add(self, data: bytes) -> None:
        for byte in data:
            if self._is_escape:
                self._is_escape = False
            elif byte == 0x22:  # "
                self._is_text, self.left = not self._is_text, None
            elif self._is_text:
                self._is_escape = byte == 0x5C  # a backslash
            elif byte in b"0123456789":
                self.left = (DIGITS if self.left is None else self.left) - 1
            elif self.left is not None and byte not in b"+-.":
                self.left = EXPONENT if byte in b"eE" else None


class Contract:
    """One reply's grammar, at the place that the reply has reached."""

    def __init__(self, matcher: Any, vocabulary: "Vocabulary", *, is_json: bool) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._number = Number() if is_json else None
        self._bits = np.zeros((len(vocabulary.tokens) + 31) // 32, np.uint32)

    def allowed(self) -> NDArray[np.bool_]:
        """[vocabulary]: what may come next, end tokens where it may end here; all false once it cannot be met."""
        size = len(self._vocabulary.tokens)
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self.why is not None:
            return np.zeros(size, np.bool_)
        mask = np.unpackbits(self._bits.view(np.uint8), count=size, bitorder="little").view(np.bool_)
        if self._number and self._number.left is not None:
            shorter = mask & (self._vocabulary.digits <= max(self._number.left, 0))
            return shorter if shorter.any() else mask  # a longer number may be what the schema wants
        return mask

    def accept(self, token: int) -> None:
        """The reply goes on with this token, drawn or forced."""
        self._matcher.consume_token(token)
        if self._number:
            self._number.add(self._vocabulary.tokens[token])

    def forced(self) -> list[int]:
        """The tokens that must come next, as the model's own tokenizer writes them; often none."""
        return list(self._matcher.compute_ff_tokens()) if self.why is None else []

    @property
    def is_complete(self) -> bool:
        """It is met, and nothing more can follow."""
        return bool(self._matcher.is_stopped()) and self.why is None

    @property
    def why(self) -> str | None:
        """Why it cannot be met any more; none while it can."""
        return _reason(self._matcher.get_error()) if self._matcher.is_error() else None


class Grammars:
    """What replies of one engine can be held to, each compiled once. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._tokenizer: Any = None
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    def begin(self, output: Output) -> Contract:
        """A contract at its beginning. Raises InputError for what cannot be compiled, UnsupportedError by name."""
        source = _source(output)
        if len(source.encode()) > LARGEST:
            what = f"output.{output.kinds()[0]} has over {LARGEST:,} bytes"
            raise InputError(what, hint="take out what the answer does not need")
        with self._lock:
            matcher = self._compiled.get(source)
            if matcher is None:
                matcher = self._compiled[source] = self._compile(output, source)
                if len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(source)
            assert self._vocabulary is not None
            return Contract(matcher.deep_copy(), self._vocabulary, is_json=output.json_schema is not None)

    def _compile(self, output: Output, source: str) -> Any:
        from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._engine)
            card = self._engine.card
            self._tokenizer = LLTokenizer(
                TokenizerWrapper(self._vocabulary), n_vocab=card.vocabulary, eos_token=sorted(card.ends)
            )
        limits = LLParserLimits(max_lexer_states=LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=limits)
        kind = output.kinds()[0]
        if matcher.is_error():
            raise InputError(f"output.{kind} cannot be compiled: {_reason(matcher.get_error())}", hint=_HINTS[kind])
        trial = Contract(matcher.deep_copy(), self._vocabulary, is_json=False)
        if not trial.allowed().any():
            raise InputError(f"output.{kind} can never be met: no text is of it", hint=_HINTS[kind])
        return matcher


_HINTS = {
    "json_schema": "docs/contracts.md says what a schema may use",
    "regex": "as Rust writes them: no look-around, no back-reference; the whole answer must match",
    "choice": "each choice is a text",
    "lark": "docs/contracts.md shows one; special tokens stand without quotes: <|im_end|>",
}


_SAMPLE = '{"a": [1, "é x"]}'


class Vocabulary:
    """An engine's tokens as llguidance wants them, under the names that it asks by: bytes, and which are marks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        marks = engine.marks()
        size = engine.card.vocabulary
        self.tokens = [marks[id].encode() if id in marks else engine.text([id]) for id in range(size)]
        self.special_token_ids = sorted(marks)
        self.eos_token_id, self.bos_token_id = min(engine.card.ends), engine.card.bos
        self.digits = np.array([len(token) - len(token.lstrip(b"0123456789")) for token in self.tokens])
        """How many digits each token begins with."""
        self._ids = {token: id for id, token in enumerate(self.tokens) if id not in marks}
        ids = engine.tokens(_SAMPLE, special=False)
        if b"".join(self.tokens[id] for id in ids) != engine.text(ids):
            raise UnsupportedError(
                "the texts of this model's tokens do not add up: its replies cannot be held to a contract",
                hint="take a model whose tokenizer is byte-level or sentencepiece",
            )

    def __call__(self, text: bytes) -> list[int]:
        """A stretch of text in the middle of a reply, as tokens that are this text and no other."""
        ids = self._engine.tokens(text.decode(), special=False)
        # Some tokenizers begin every text with a blank: then the longest token that fits, one after the other.
        return ids if self._engine.text(ids) == text else self._longest(text)

    def _longest(self, text: bytes) -> list[int]:
        found, at = [], 0
        while at < len(text):
            ends = range(min(len(text), at + LONGEST), at, -1)
            end = next(end for end in ends if text[at:end] in self._ids)
            found.append(self._ids[text[at:end]])
            at = end
        return found


def _source(output: Output) -> str:
    from llguidance import LLMatcher

    if output.json_schema is not None:
        text = schema.check(output.json_schema)
        try:
            return str(LLMatcher.grammar_from_json_schema(text, overrides=JSON_FORM))  # type: ignore[arg-type]
        except ValueError as error:  # it reads no JSON nested over 128 levels deep
            raise InputError(f"output.json_schema cannot be read: {error}", hint="flatten it") from error
    if output.regex is not None:
        return str(LLMatcher.grammar_from_regex(output.regex))
    if output.choice is not None:
        choices = [json.dumps(choice, ensure_ascii=False) for choice in output.choice]
        return str(LLMatcher.grammar_from_lark("start: " + " | ".join(choices)))
    return str(LLMatcher.grammar_from_lark(output.lark or ""))


def _reason(error: str) -> str:
    """One line of what may be many; of a regex's drawing, its conclusion."""
    first, *others = error.splitlines() or [""]
    return next((line.removeprefix("error: ") for line in others if line.startswith("error: ")), first.strip())

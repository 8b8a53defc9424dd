"""From a request to its prompt and to the rules of its reply: template, tokens, room, contract, calls, reasoning.

Knows an engine's vocabulary and nothing of its memory; computes no logits.
"""

from collections.abc import Sequence as Tokens
from dataclasses import replace
from typing import Any, NamedTuple

from jeito.decode.call_grammar import of_request as call_grammar
from jeito.decode.call_text import CallText
from jeito.decode.dialects import detect
from jeito.decode.grammar import Grammars
from jeito.decode.guard import Rules, Tags, tags_of
from jeito.decode.template import Template
from jeito.decode.text import Marks, ReplyText
from jeito.engines.base import Engine
from jeito.errors import ContextError, InputError
from jeito.types import Message, Output, Placement, Request


class Prompt(NamedTuple):
    """What a model reads. `template`: its name; `notes`: for the receipt."""

    text: str
    placement: Placement | None
    tokens: list[int]
    template: str
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


class Prompts:
    """Of one engine. What is the same for many requests is made once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._templates: dict[str, Template] = {}
        self._names: dict[int, str] | None = None
        self._grammars = Grammars(engine)
        self._tags: dict[Marks, Tags] = {}
        self._tokenized: tuple[str | None, list[int]] = None, []

    def refuse(self, request: Request) -> None:
        """Raise InputError or UnsupportedError for a contract that cannot be, before anything is rendered."""
        if request.output:
            self._grammars.begin(request.output)

    def of(self, request: Request) -> Prompt:
        """Its prompt, without the turns that find no room; raises ContextError, InputError."""
        messages = list(request.messages)
        dropped: list[str] = []
        while True:
            prompt, placement = self._written(request, messages)
            tokens = self._tokens(prompt)
            excess = len(tokens) + self._reserve(request, bool(dropped)) - self._engine.card.context
            if excess <= 0:
                break
            oldest = self._oldest_turn(messages) if request.drop_oldest else []
            if not oldest and len(tokens) < self._engine.card.context:
                break
            if not oldest:
                raise ContextError(
                    f"the prompt is {len(tokens)} tokens and the context {self._engine.card.context}, reply included",
                    hint="a shorter prompt, a longer --context, or guard.overflow=drop_oldest in a conversation",
                )
            dropped += [f"{messages[at].role}: {messages[at].content[:40]}" for at in oldest]
            messages = [message for at, message in enumerate(messages) if at not in oldest]
        if not tokens:
            raise InputError("the prompt has no tokens", hint="ask something, or mend the model's template")
        name, notes = self._said(request)
        return Prompt(prompt, placement, tokens, name, tuple(dropped), notes)

    def _said(self, request: Request) -> tuple[str, tuple[str, ...]]:
        """The template's name, and what a receipt says of it."""
        template, notes = self.template(request), []
        _, note = template.placement(request.placement)
        if note and request.system:
            notes.append(note)
        if _offered(request) and (note := template.tools_note()):
            notes.append(note)
        name = "none" if request.raw else template.name
        if name == "plain-turns":
            notes.append("the model has no chat template: turns stand one after the other, each with the end token")
        return name, tuple(notes)

    def _written(self, request: Request, messages: list[Message]) -> tuple[str, Placement | None]:
        if request.raw:
            return messages[0].content, None
        return self.template(request).prompt(messages, request.system, request.placement, _offered(request))

    def _reserve(self, request: Request, is_dropping: bool) -> int:
        """Room left for the reply: one token is enough, but turns are dropped to make a useful one."""
        return min(request.sampling.max_new_tokens, self._engine.card.context // 4) if is_dropping else 1

    def _oldest_turn(self, messages: list[Message]) -> list[int]:
        """Which messages make the oldest whole turn, never an instruction; none when the last ask alone is left."""
        asks = [index for index, message in enumerate(messages) if message.role == "user"]
        return [at for at in range(asks[1]) if messages[at].role != "system"] if len(asks) > 1 else []

    def _tokens(self, prompt: str) -> list[int]:
        # Several replies to one prompt ask for the same tokens, one right after the other.
        kept, tokens = self._tokenized
        if kept == prompt:
            return tokens
        tokens = self._engine.tokens(prompt, special=True)
        card = self._engine.card
        # Templates write the text's first token themselves, or leave it to the tokenizer: never both.
        if card.add_bos and card.bos is not None and tokens[:1] != [card.bos]:
            tokens.insert(0, card.bos)
        if not tokens and card.bos is not None:
            tokens = [card.bos]
        self._tokenized = prompt, tokens
        return tokens

    def written(self, ids: Tokens[int]) -> str:
        """The text whose tokens these are, as a raw prompt; raises InputError where no text has them."""
        if wrong := [id for id in ids if not 0 <= id < self._engine.card.vocabulary]:
            raise InputError(f"there is no token {wrong[0]}", hint=f"0 to {self._engine.card.vocabulary - 1}")
        names, begin = self._mark_names(), self._engine.card.add_bos and list(ids[:1]) == [self._engine.card.bos]
        found = b"".join(names[id].encode() if id in names else self._engine.text([id]) for id in ids[begin:])
        text = found.decode(errors="replace")
        if self._tokens(text) != list(ids):
            raise InputError(f"these {len(ids)} tokens are not what any text becomes here", hint="send the text")
        return text

    def rules(self, request: Request, prompt: str) -> Rules:
        """What its reply to this prompt must keep to; raises InputError, UnsupportedError for what cannot be."""
        template = self.template(request)
        marks, stops = self._marks(request, template), request.sampling.stop
        tags = None
        if marks is not None:
            tags = self._tags[marks] = self._tags.get(marks) or tags_of(self._engine, marks)
        inside = marks is not None and prompt.rstrip().endswith(marks.open)
        output, text, names = request.output, None, None
        if _offered(request):
            # Reasoning is told apart before calls are, and so that its budget holds.
            dialect, names = replace(template.dialect, reasoning=None), self._mark_names()
            special = {name: id for id, name in names.items()}
            lark = call_grammar(dialect, request, prompt, special)
            output = Output(lark=lark) if lark else None
            first = sum(len(message.calls) for message in request.messages)
            text = CallText(dialect, request.tools, prompt, first=first, stops=stops, marks=marks, inside=inside)
        try:
            contract = self._grammars.begin(output) if output else None
        except InputError as error:
            if output is request.output:
                raise
            raise InputError(
                f"calls cannot be held to the schemas of these tools: {error}",
                hint="docs/contracts.md says what a schema may use; leave the tool out",
            ) from error
        return Rules(
            self._engine,
            text or ReplyText(stops, marks, inside=inside, contracted=contract is not None),
            names=names,
            contract=contract,
            tags=tags,
            budget=request.reasoning.budget,
            repetition=request.repetition,
            refuse_empty=request.refuse_empty,
        )

    def _marks(self, request: Request, template: Template) -> Marks | None:
        said, own = request.reasoning, template.dialect.reasoning
        if said.open and said.close:
            return Marks(said.open, said.close)
        return Marks(*own) if own and not request.raw else None

    def _mark_names(self) -> dict[int, str]:
        if self._names is None:
            self._names = dict(self._engine.marks())
        return self._names

    def template(self, request: Request) -> Template:
        """The model's template, as the request's dialect has it."""
        kept = self._templates.get(request.dialect)
        if kept is None:
            card, names = self._engine.card, self._mark_names().values()
            dialect = detect(card.template, names, request.dialect)
            kept = self._templates[request.dialect] = Template(card.template, card.special, dialect, names)
        return kept


def _offered(request: Request) -> tuple[dict[str, Any], ...]:
    """The tools that the model is told of."""
    return () if request.tool_choice == "none" else request.tools

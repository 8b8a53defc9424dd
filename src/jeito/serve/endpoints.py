"""The ways to ask for a reply: for each its table of fields, and the shape of what it says."""

from collections.abc import Callable
from typing import NamedTuple

from jeito.serve.asked import Asked
from jeito.serve.chat import Chat
from jeito.serve.completion import Completion, CompletionReply
from jeito.serve.fields import Common
from jeito.serve.reply import ChatReply, Reply
from jeito.serve.respond import Respond
from jeito.serve.respond_reply import RespondReply


class Endpoint(NamedTuple):
    fields: type[Chat] | type[Completion] | type[Respond]
    reply: Callable[[Asked], Reply]
    says: str


ENDPOINTS = {
    "/v1/chat/completions": Endpoint(Chat, ChatReply, "A reply to a conversation."),
    "/v1/completions": Endpoint(Completion, CompletionReply, "What goes on after a prompt that stands as it is."),
    "/v1/responses": Endpoint(Respond, RespondReply, "A reply in items, to a conversation that the log may hold."),
}
EXPLAIN = "/v1/jeito/explain"
"""Takes what a chat request takes."""


def table(fields: type[Common]) -> list[str]:
    """The rows of an endpoint's table in docs/serve.md; a sampling knob is explained with the behaviours."""
    return [f"| `{name}` | {fields.said_of(name)} |" for name in sorted(fields.known())]

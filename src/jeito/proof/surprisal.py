"""Replies as pieces of text for a page: how surprising each token was, and where two coupled replies part."""

import math
from collections.abc import Sequence

from jeito.proof.page import LEVELS, Couple, Mark, Piece, Reply
from jeito.types import Token, Trace

SHOWN = 400
"""Tokens of a reply that a page shows."""
ASKED = 600
"""Letters of what was asked."""
STRANGE = 3
"""Tokens that a sentence names as the most surprising."""


def reply(trace: Trace, title: str, verdicts: Sequence[tuple[Mark, str]] = ()) -> Reply:
    """A reply with its tokens coloured by surprisal, where that was recorded."""
    return Reply(title, verdicts, asked(trace), pieces(trace), _facts(trace), _strangest(trace))


def couple(
    a: Trace, b: Trace, names: tuple[str, str], title: str, verdicts: Sequence[Sequence[tuple[Mark, str]]] = ((), ())
) -> Couple:
    """Two replies to one case under one seed: what is the same in both, and the token at which they part."""
    at = parting(a, b)
    first, second = (
        reply(trace, name, marks)._replace(pieces=pieces(trace, at))
        for trace, name, marks in zip((a, b), names, verdicts, strict=True)
    )
    return Couple(title, _parting((a, b), names, at), asked(a), (first, second))


def asked(trace: Trace) -> str:
    """The last thing that the user said."""
    said = [message.content for message in trace.request.messages if message.role == "user"]
    return cut(said[-1], ASKED) if said else "(nothing)"


def parting(a: Trace, b: Trace) -> int | None:
    """How many tokens two replies share from the beginning; none: they are the same."""
    for at, (one, other) in enumerate(zip(a.tokens, b.tokens, strict=False)):
        if one.id != other.id:
            return at
    return None if len(a.tokens) == len(b.tokens) else min(len(a.tokens), len(b.tokens))


def pieces(trace: Trace, same: int | None = 0) -> list[Piece]:
    """The answer, cut where its level changes. `same`: tokens that another reply begins with too; none: all.

    What tokens showed late, such as half a letter, is one piece with the token that completed it.
    """
    shared = len(trace.tokens) if same is None else same
    # With calls or several turns what was shown is not what the tokens say in a row.
    if not trace.tokens or not trace.answer.startswith("".join(token.text for token in trace.tokens)):
        return [Piece(cut(trace.answer, 6 * SHOWN))] if trace.answer else []
    found: list[Piece] = []
    held, waiting = 0.0, False
    for at, token in enumerate(trace.tokens[:SHOWN]):
        surprisal = 0.0 if token.forced or token.logprob is None else -token.logprob
        held += surprisal
        waiting = waiting or (at == shared and bool(same))
        if token.text:
            found.append(Piece(token.text, _level(held), _said(token, held), _mark(at, shared, waiting)))
            held, waiting = 0.0, False
    rest = trace.answer[sum(len(piece.text) for piece in found) :]
    if rest:
        found.append(Piece(cut(rest, 0) if len(trace.tokens) > SHOWN else rest))
    return _joined(found)


def _mark(at: int, shared: int, parts: bool) -> str:
    return "parted" if parts else "same" if at < shared else ""


def _joined(found: Sequence[Piece]) -> list[Piece]:
    """Neighbours with nothing to say of each as one piece."""
    joined: list[Piece] = []
    for piece in found:
        plain = piece._replace(said="") if piece.level == 0 else piece
        if joined and plain.level == 0 and plain.mark != "parted" and joined[-1][1:] == plain[1:]:
            joined[-1] = plain._replace(text=joined[-1].text + plain.text)
        else:
            joined.append(plain)
    return joined


def _level(surprisal: float) -> int:
    return sum(surprisal >= level for level in LEVELS)


def _said(token: Token, surprisal: float) -> str:
    drawn = "" if token.drawn is None else f"; after what the behaviour sets {_share(-token.drawn)}"
    return f"surprisal {surprisal:.1f} nats: the model gave it {_share(surprisal)}{drawn}"


def _share(surprisal: float) -> str:
    share = 100 * math.exp(-surprisal)
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


def _facts(trace: Trace) -> str:
    known = [-token.logprob for token in trace.tokens if token.logprob is not None and not token.forced]
    mean = f", {sum(known) / len(known):.2f} nats a token" if known else ", surprisal was not recorded"
    return f"run {trace.id}, seed {trace.seed}, {trace.usage.generated} tokens{mean}, ended: {_ended(trace)}"


def _ended(trace: Trace) -> str:
    why = trace.error or trace.why
    return f"{trace.finish or 'unfinished'}{f' ({why})' if why else ''}"


def _strangest(trace: Trace) -> str:
    """The colours' gist in words."""
    named = [(-token.logprob, token.text.strip()) for token in trace.tokens if token.logprob is not None]
    worst = sorted((one for one in named if one[1] and one[0] >= LEVELS[1]), key=lambda one: -one[0])[:STRANGE]
    return "Most surprising: " + ", ".join(f"“{text}” {nats:.1f} nats" for nats, text in worst) if worst else ""


def _parting(traces: tuple[Trace, Trace], names: tuple[str, str], at: int | None) -> str:
    if at is None:
        return f"The two replies are the same, all {len(traces[0].tokens)} tokens."
    ends = [_at(trace, name, at) for trace, name in zip(traces, names, strict=True)]
    shared = f"{at} tokens are the same in both, shown in italics. Then " if at else "From the first token on, "
    return f"{shared}{ends[0]}, and {ends[1]}."


def _at(trace: Trace, name: str, at: int) -> str:
    if at >= len(trace.tokens):
        return f"{name} ends"
    token = trace.tokens[at]
    said = f"{name} says “{token.text.strip() or '␣' if token.text else '…'}”"
    if token.logprob is None or token.drawn is None:
        return said
    made = f"what the behaviour sets makes that {_share(-token.drawn)}"
    return f"{said} (the model gives it {_share(-token.logprob)}, {made})"


def cut(text: str, letters: int) -> str:
    """A text that is no longer than so many letters."""
    return text if len(text) <= letters else text[:letters] + " […]"

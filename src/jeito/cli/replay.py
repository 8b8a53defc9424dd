"""`jeito replay`: runs once more, from the log; the same tokens, or the first that differs."""

from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show
from jeito.errors import OK, InputError

if TYPE_CHECKING:
    from jeito.engines.base import Loading
    from jeito.run.replay import Replay
    from jeito.types import Trace

DIFFERENT = 1


@options.loads_model
def replay(
    runs: Annotated[list[str], typer.Argument(help="Ids of runs, or their first letters.")] = [],  # noqa: B006
    last: Annotated[int | None, typer.Option("--last", min=1, help="The newest so many.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Of the newest, the exact ones only.")] = False,
    tools: Annotated[
        str, typer.Option("--tools", help="recorded: what tools gave is taken from the run; none is called.")
    ] = "recorded",
    json: options.Json = False,
    *,
    loading: "Loading",
) -> int:
    """Run again what the log holds, and say whether the same tokens come. Exit code 1 when any differs."""
    from jeito.run.open import open_model
    from jeito.run.replay import replay as again
    from jeito.trace.log import Log

    if tools != "recorded":
        raise InputError(
            f"tools can be {'recorded'!r} in a replay, not {tools!r}", hint="jeito replay --tools recorded"
        )
    log = Log()
    traces = [log.get(run) for run in runs] + (log.recent(last, exact=True if exact else None) if last else [])
    if not traces:
        raise InputError("no run to replay", hint="jeito replay --last 1, or an id that jeito log shows")
    results: dict[str, Replay] = {}
    for how in dict.fromkeys(_how(trace, loading) for trace in traces):
        reference, precision, opened_as = how
        model = open_model(reference, precision=precision, loading=opened_as, notify=show.say)
        same = [trace for trace in traces if _how(trace, loading) == how]
        results |= {one.id: one for one in again(same, model)}
        model.close()
    if json:
        show.emit({"replays": list(results.values())})
    else:
        rows = [
            (one.id, one.verdict, one.tokens, _difference(one.expected, one.found), one.why) for one in results.values()
        ]
        show.table("", ("run", "verdict", "tokens", "first difference", "why"), rows)
    return OK if all(one.verdict == "same" for one in results.values()) else DIFFERENT


def _how(trace: "Trace", loading: "Loading") -> tuple[str, str | None, "Loading"]:
    """How the run's model was opened, but for what is said now: a shorter context ends a reply elsewhere.

    What a trace trusted is not trusted again because a trace says so: traces come from others too.
    """
    from jeito.engines.base import AS_FOUND
    from jeito.run.open import PRECISIONS

    ran = trace.environment
    precision = ran.get("precision") if ran.get("engine") == "transformers" else None
    kept = {
        name: ran[name]
        for name in ("context", "compute", "double_quantisation", "server")
        if name in ran and getattr(loading, name) == getattr(AS_FOUND, name)
    }
    return trace.model, precision if precision in PRECISIONS else None, loading._replace(**kept)


def _difference(expected: object, found: object) -> str:
    texts = [repr(getattr(token, "text", None)) if token else "the end" for token in (expected, found)]
    return "" if expected is found else f"{texts[0]} → {texts[1]}"

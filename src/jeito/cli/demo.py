"""`jeito demo`: one real model, the same questions, three behaviours; then what is proved and refuted of them."""

import resource
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from jeito.cli import options, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jeito.cli.demo_claims import Shown
    from jeito.run.run import Run

BEHAVIOURS = ("creative", "conservative", "technical")
TASKS = {
    "train": "A train travels at 80 km/h for 3 hours. How far does it go?",
    "area": "Write a Python function that gives the area of a circle, a square or a triangle.",
    "jwt": "How do I implement JWT authentication with FastAPI?",
    "story": "Write a short story about a robot that discovers feelings.",
}
PORTUGUESE = "Um trem viaja a 80 km/h por 3 horas. Que distância ele percorre?"
# Long enough to tell the behaviours apart, short enough for two cores.
TOKENS, FEWER = 120, 40
SEED = 7

WHAT_IT_IS = """\
The model is SmolLM2-135M-Instruct: 135 million parameters in 98 MB. It writes fluent English and can follow a short
instruction. It is not a source of facts, its arithmetic is luck, and its code seldom runs. What the demo shows is the
machinery: the same questions, three behaviours, and where every value came from."""


def demo(
    json: options.Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="Less of all: under a minute, and less is sure.")] = False,
) -> None:
    """Ask one real model the same four questions in three behaviours, then prove and refute what is claimed of them."""
    from jeito.cli.demo_claims import QUICK, Sizes, show_claims
    from jeito.run.open import open_model
    from jeito.run.run import run, together
    from jeito.trace.log import Log

    if not json:
        print(WHAT_IT_IS, end="\n\n")
    model, log = open_model("demo", notify=show.say), Log()
    asks = [(task, ask, behaviour) for task, ask in TASKS.items() for behaviour in BEHAVIOURS]
    asks.append(("trem", PORTUGUESE, "agente_tecnico"))
    tokens = FEWER if quick else TOKENS
    runs = [
        run(f"{behaviour}+max_new_tokens={tokens}", model, ask, seed=SEED, case=task, log=log, label=behaviour)
        for task, ask, behaviour in asks
    ]
    begun, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
    done = 0
    for _, _ in together(runs):
        done += 1
        if done % 50 == 0 and sys.stderr.isatty():
            print(f"\r{done} tokens of {len(runs)} replies in one batch", end="", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - begun
    if sys.stderr.isatty():
        print(end="\r\033[K", file=sys.stderr)
    if not json:
        _show(runs, done, seconds)
        print("\nNow what is claimed is put to the test. Every figure below is measured as you watch.\n", flush=True)
    claims, pages, replies = [], [], dict[str, int]()
    for number, one in enumerate(show_claims(model, log, SEED, QUICK if quick else Sizes()), 1):
        claims.append(one)
        pages.append(_write(one))
        # Replies serve several claims, and the log may hold some from an earlier time.
        replies |= {trace.id: trace.usage.generated for trace in one.traces if trace.time >= started}
        if not json:
            text = textwrap.fill(f"{number}. {one.sentence}", 100, subsequent_indent="   ")
            print(text, f"   {pages[-1]}\n", sep="\n", flush=True)
    model.close()
    done, seconds = done + sum(replies.values()), time.perf_counter() - begun
    if json:
        show.emit({"runs": [one.trace for one in runs], "measures": [m._asdict() for m in _measures(runs)],
                   "claims": {one.page: one.sentence for one in claims}, "reports": [str(page) for page in pages],
                   "tokens": done, "seconds": seconds})  # fmt: skip
        return
    print(f"{done} tokens in {seconds:.0f} s, all in all. Each page opens in a browser, and stays on this machine.")
    print(f"\nNext: jeito log; jeito log show {runs[2].trace.id}; jeito proofs; jeito chat -b creative")


def _write(one: "Shown") -> Path:
    from jeito.home import home
    from jeito.proof.judge import Judge
    from jeito.proof.report import write
    from jeito.proof.report_proof import chosen

    page = home() / "reports" / f"demo-{one.page}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    shown = chosen(one.result) if isinstance(one.result, Judge) else ()
    write(one.result, [trace for trace in one.traces if trace.id in shown], page)
    return page


def _show(runs: "Sequence[Run]", tokens: int, seconds: float) -> None:
    *english, portuguese = runs
    for task, ask in TASKS.items():
        _side_by_side(ask, [one for one in english if one.trace.case == task])
    show.table("Over the four answers of each behaviour", Measure._fields, _measures(english))
    # ru_maxrss counts kilobytes, on macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    print(f"\n{tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s, all in one batch; "
          f"peak memory {peak:.0f} MB\n")  # fmt: skip
    _side_by_side(PORTUGUESE, [portuguese])
    print("Portuguese, asked of the same model. The log this product grew from says of its own first model: ")
    print('"model too simple". How far that is true of this one is measured below.\n')
    technical = next(one for one in english if one.trace.behaviour == "technical")
    show.receipt(technical.trace.receipt, f"The receipt of one reply ({technical.trace.id}, technical)")
    for loss in {loss for one in runs for loss in one.losses}:
        show.say(f"warning: {loss}")


def _side_by_side(ask: str, runs: "Sequence[Run]") -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(ask, style="bold"), title_justify="left", expand=True, pad_edge=False)
    for one in runs:
        drawn.add_column(Text(one.trace.behaviour), ratio=1, overflow="fold")
    drawn.add_row(*(Text(one.trace.answer.strip()) for one in runs))
    show.console().print(drawn)
    print()


class Measure(NamedTuple):
    """A behaviour's answers in numbers. `distinct_2`: different pairs of words over pairs, inside a reply, mean."""

    behaviour: str
    replies: int
    words: float
    distinct_2: float
    repeated_4: float
    tokens: int


def _measures(runs: "Sequence[Run]") -> list[Measure]:
    found = []
    for behaviour in dict.fromkeys(one.trace.behaviour for one in runs):
        traces = [one.trace for one in runs if one.trace.behaviour == behaviour]
        texts = [trace.answer.split() for trace in traces]
        found.append(
            Measure(
                behaviour=behaviour,
                replies=len(texts),
                words=_mean([len(text) for text in texts]),
                distinct_2=_mean([share_of_distinct(text, 2) for text in texts]),
                repeated_4=_mean([1 - share_of_distinct(text, 4) for text in texts]),
                tokens=sum(trace.usage.generated for trace in traces),
            )
        )
    return found


def share_of_distinct(words: "Sequence[str]", n: int) -> float:
    """Different n-grams over all n-grams; 1 when there is none, since then none is repeated."""
    grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _mean(values: "Sequence[float]") -> float:
    return sum(values) / len(values)

"""An agent of six tool turns on a long prompt, with prefix reuse and without: python bench/agent.py [--rounds 3].

On the demo model. Without: what earlier turns computed is forgotten before each turn. Both make the same calls.
"""

import argparse
import statistics
import time

from jeito.behaviour.load import load
from jeito.behaviour.resolve import request, resolve
from jeito.decode.local import LocalModel
from jeito.engines.base import Loading
from jeito.run.agent import following
from jeito.run.open import open_model
from jeito.run.tools import open_tools
from jeito.types import End, Request, Start, Step, Turn

TURNS, PROMPT = 6, 1500
WORDS = "The sea was calm that morning and the ship went slowly along the coast. "


def run_once(model: LocalModel, asked: Request, reuse: bool) -> tuple[float, int, int, list[str]]:
    """(seconds, tokens of all prompts, of them computed again, the calls)."""
    forget(model)
    begun, prompt, cached, calls = time.perf_counter(), 0, 0, []
    with open_tools(load("agent").behaviour.tools) as tools:
        for number in range(1, TURNS + 1):
            if not reuse:
                forget(model)
            answer, digest, ended = "", "", None
            for event in model.stream(asked):
                if isinstance(event, Start):
                    digest = event.prompt_digest
                elif isinstance(event, End):
                    ended = event
            assert ended is not None
            made = [(call, tools.call(call.name, call.arguments)) for call in ended.calls]
            assert made, f"the reply ended by {ended.finish} without a call"
            prompt, cached = prompt + ended.usage.prompt, cached + (ended.usage.cached or 0)
            calls += [str(call.arguments) for call, _ in made]
            steps = tuple(Step(call=call, result=given.text, error=given.error) for call, given in made)
            turn = Turn(
                prompt_digest=digest, answer=answer, tokens=ended.usage.generated, finish=ended.finish,
                usage=ended.usage, steps=steps,
            )  # fmt: skip
            again = following(asked, turn, 1, number)
            asked = again.model_copy(update={"tool_choice": "required"})
    return time.perf_counter() - begun, prompt, cached, calls


def forget(model: LocalModel) -> None:
    model.decoder.memory.forget()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = open_model("demo", loading=Loading(context=4096))
    resolved = resolve(load("agent"), defaults=model.defaults, abilities=model.abilities, seed=1, context=4096)
    with open_tools(load("agent").behaviour.tools) as tools:
        schemas = tools.schemas()
    text = WORDS
    while len(model.prompt(request(resolved, text + "What is 23*19?", tools=schemas))) < PROMPT:
        text += WORDS
    asked = request(resolved, text + "What is 23*19?", tools=schemas)
    ratios = []
    for _ in range(options.rounds):
        with_reuse, without = run_once(model, asked, True), run_once(model, asked, False)
        assert with_reuse[3] == without[3], "both make the same calls"
        ratios.append(without[0] / with_reuse[0])
        print(
            f"with {with_reuse[0]:.2f} s ({with_reuse[2]:,} of {with_reuse[1]:,} prompt tokens reused), without "
            f"{without[0]:.2f} s: {ratios[-1]:.2f} times",
            flush=True,
        )
    print(f"without reuse / with: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()

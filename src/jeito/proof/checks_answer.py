"""Checks of whether a reply is right: its number, its calls, its code."""

import json
import secrets
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import Field, JsonValue

from jeito.errors import InputError
from jeito.proof import measures, numbers
from jeito.proof.keywords import unsaid
from jeito.proof.values import Case, ExpectedCall, Verdict
from jeito.run.sandbox import run_sandboxed
from jeito.types import ToolCall, Trace


def answer(
    trace: Trace,
    case: Case,
    *,
    number: float | None = None,
    tolerance: Annotated[float | None, Field(ge=0)] = None,
    unit: str | None = None,
) -> Verdict:
    """The final number of the answer is right to within `tolerance`; what is not said here, the case says.

    The last number with the case's unit; else what follows "the answer is"; else the last number. 1.234 and 1,234 are
    read as the case's language writes them; where it has none, either way may be right.
    """
    expect = case.expect
    wanted = expect.number if number is None else number
    if wanted is None:
        return unsaid(case.name, "which number")
    allowed = expect.tolerance if tolerance is None else tolerance
    found = numbers.final(trace.answer, unit or expect.unit, expect.language)
    if found is None:
        return Verdict(False, "no number in it")
    right = is_near(found, wanted, allowed)
    return Verdict(right, f"{found.text}, {'as' if right else 'not'} {wanted:g}")


def is_near(found: numbers.Number, wanted: float, tolerance: float) -> bool:
    """May a number as it is written be this one?"""
    # Decimals cannot all be held exactly: 0.1 + 0.2 is right.
    slack = tolerance + 1e-9 * max(1.0, abs(wanted))
    return any(abs(reading - wanted) <= slack for reading in found.readings)


def calls(trace: Trace, case: Case) -> Verdict:
    """The calls are the case's: the same names and arguments, values and types alike, in any order; none too many."""
    wanted = case.expect.calls
    if wanted is None:
        return unsaid(case.name, "which calls")
    if not trace.request.tools:
        return Verdict(None, "this run was offered no tools")
    left = list(trace.calls)
    for call in wanted:
        match = next((at for at, made in enumerate(left) if _is(made, call)), None)
        if match is None:
            return Verdict(False, f"{_calls(trace.calls)} instead of {_calls(wanted)}")
        del left[match]
    return Verdict(not left, f"{_calls(trace.calls)}" + (f": {len(left)} too many" if left else ""))


def _is(made: ToolCall, wanted: ExpectedCall) -> bool:
    given = {
        key: value for key, value in made.arguments.items() if key in wanted.arguments or key not in wanted.optional
    }
    extra = {key: value for key, value in made.arguments.items() if key not in given}
    return (
        made.name == wanted.name
        and alike(given, wanted.arguments)
        and all(alike(value, wanted.optional[key]) for key, value in extra.items())
    )


def alike(one: JsonValue, other: JsonValue) -> bool:
    """The same JSON value: 2 and 2.0 are one number, true and 1 are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _calls(made: Sequence[ToolCall | ExpectedCall]) -> str:
    if not made:
        return "no call"
    return ", ".join(
        f"{call.name}({', '.join(f'{key}={json.dumps(value)}' for key, value in call.arguments.items())})"
        for call in made
    )[:200]


def runs(
    trace: Trace,
    case: Case,
    *,
    tests: str | None = None,
    seconds: Annotated[float, Field(gt=0, le=120)] = 10.0,
) -> Verdict:
    """The reply's Python runs, and then the case's tests pass: in a process without a network, within bounds.

    The code is what stands in fences, else the lines that parse. `tests` is Python with asserts.
    """
    wanted = tests or case.expect.tests
    if wanted is None:
        return unsaid(case.name, "which tests")
    code = measures.python(trace.answer)
    if code is None:
        return Verdict(False, "no Python in it that parses")
    if why := _unusable():
        return Verdict(None, why)
    # Code that ends the process before the tests, and with 0, has not passed them.
    mark = secrets.token_hex(8)
    done = run_sandboxed(f"{code}\n\n{wanted}\nprint('\\n{mark}')\n", timeout=seconds)
    if done.why:
        return Verdict(False, f"it was stopped: {done.why}")
    if done.status == 0 and done.stdout.rstrip().endswith(mark):
        return Verdict(True, "its tests pass")
    lines = done.stderr.strip().splitlines() or [f"it ended with status {done.status} before its tests did"]
    return Verdict(False, lines[-1][:200])


@cache
def _unusable() -> str | None:
    """Why no code can be run on this machine, if so: then nothing is the code's fault."""
    try:
        tried = run_sandboxed("")
    except InputError as error:
        return str(error)
    return None if tried.status == 0 else f"Python cannot be run within bounds here: {tried.stderr or tried.why}"


CHECKS: tuple[Any, ...] = (answer, calls, runs)

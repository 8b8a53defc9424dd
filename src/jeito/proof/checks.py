"""From a claim to verdicts: which checks there are, what each is given, and a file's own. Knows no statistics.

A check is one function of a trace; its keywords are its YAML. Those that ship stand in the files named checks_….py.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import Loaded
from jeito.errors import InputError, JeitoError, nearest
from jeito.proof import checks_answer, checks_format, checks_judge, checks_run, checks_text
from jeito.proof.keywords import unsaid
from jeito.proof.setting import Setting
from jeito.proof.values import Case, Verdict
from jeito.run.functions import import_file
from jeito.types import Trace


def follows(trace: Trace, case: Case, setting: Setting) -> Verdict:
    """Every check that the case itself asks for passes: `expect: {checks: [{words: {max: 9}}, …]}`."""
    if not case.expect.checks:
        return unsaid(case.name, "which checks")
    return _settled(
        (name, bind_value(name, value)(trace, case, setting))
        for check in case.expect.checks
        for name, value in check.items()
    )


EXPECTATIONS = {
    "number": "answer",
    "text": "equals",
    "contains": "contains",
    "absent": "absent",
    "regex": "matches",
    "json_schema": "json_schema",
    "calls": "calls",
    "tests": "runs",
    "checks": "follows",
}
"""Which check looks at which expectation."""


def correct(trace: Trace, case: Case, setting: Setting) -> Verdict:
    """The reply is all that its case expects: number, text, facts, regex, schema, calls, tests, its own checks.

    Not its language, which short replies do not show, nor its likeness to a reference.
    """
    wanted = [EXPECTATIONS[kind] for kind in case.expect.kinds if kind in EXPECTATIONS]
    if not wanted:
        return unsaid(case.name, "what is right")
    return _settled((name, bind_value(name, True)(trace, case, setting)) for name in wanted)


def _settled(verdicts: Iterable[tuple[str, Verdict]]) -> Verdict:
    """Several verdicts as one: one that fails decides, then one that could not be measured."""
    found = list(verdicts)
    for outcome in (False, None):
        if said := [f"{name}: {verdict.why}" for name, verdict in found if verdict.passed is outcome]:
            return Verdict(outcome, "; ".join(said))
    return Verdict(True, "; ".join(f"{name}: {verdict.why}" for name, verdict in found))


SHELF = {
    check.__name__.rstrip("_"): check
    for shelf in (checks_text, checks_format, checks_answer, checks_run, checks_judge)
    for check in shelf.CHECKS
} | {"follows": follows, "correct": correct}
"""The checks that ship, by name."""

UNDONE = ("error", "memory", "cancelled")
"""Ends of runs that say nothing of the behaviour."""

Function = Callable[..., Any]


class Check(NamedTuple):
    """A check, and the class that its keywords have to fit."""

    name: str
    function: Function
    keywords: type[BaseModel]
    """Each under its name as an alias: some, such as `schema`, are no names for a field."""
    known: tuple[str, ...]
    takes: frozenset[str]
    """Which of `case` and `setting` it wants to see."""


class Bound(NamedTuple):
    """A check with its keywords, ready to be asked. `negated`: it was written `{refuses: false}`."""

    check: Check
    keywords: Mapping[str, Any]
    negated: bool

    def __call__(self, trace: Trace, case: Case, setting: Setting | None = None) -> Verdict:
        if trace.finish is None or trace.finish in UNDONE:
            return Verdict(None, f"the run did not end: {trace.error or trace.finish or 'it was broken off'}")
        given = {"case": case, "setting": setting or Setting()}
        try:
            found = self.check.function(trace, **self.keywords, **{key: given[key] for key in self.check.takes})
        except JeitoError as error:
            return Verdict(None, f"{error} ({error.hint})" if error.hint else str(error))
        except (Exception, SystemExit) as error:  # The edge: a check may be anyone's code; its crash is no verdict.
            return Verdict(None, f"{self.check.name} crashed: {type(error).__name__}: {error}")
        verdict = _verdict(self.check.name, found)
        return Verdict(not verdict.passed, verdict.why) if self.negated and verdict.passed is not None else verdict


def verdict_of(claim: Claim, trace: Trace, case: Case, setting: Setting | None = None) -> Verdict:
    """Does this reply pass this claim's check? Raises InputError for a claim that makes no sense, never for a reply."""
    return bind(claim)(trace, case, setting)


def bind(claim: Claim) -> Bound:
    """The check of a claim with its keywords. Raises InputError: no such check, or keywords that it does not take."""
    return bind_value(claim.name, claim.value)


def bind_value(name: str, value: JsonValue) -> Bound:
    """The same of a name and what stands behind it: a map of keywords, the first keyword alone, or true or false."""
    check = find_check(name)
    keywords = _keywords(check, value)
    try:
        read = check.keywords.model_validate(keywords)
    except ValidationError as error:
        raise _complaint(check, error) from error
    given = {key: getattr(read, f"given_{key}") for key in check.known}
    if "min" in check.known and "max" in keywords and "min" not in keywords:
        given["min"] = None  # a least number that nobody asked for gives way to {max: 0}
    _refuse_empty_range(name, given)
    return Bound(check, given, value is False)


@cache
def find_check(name: str) -> Check:
    """A check by its name, or by `FILE.py:function`. Raises InputError."""
    if name in SHELF:
        return _check(name, SHELF[name])
    file, colon, function = name.rpartition(":")
    if not colon:
        raise InputError(f"no check is called {name!r}", hint=nearest(name, SHELF))
    if not Path(file).is_file():
        raise InputError(f"there is no file {file!r} with checks", hint="FILE.py:function")
    module = import_file(Path(file))
    found = getattr(module, function, None)
    if not inspect.isfunction(found):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise InputError(f"{file} has no function {function!r}", hint=nearest(function, known))
    return _check(name, found)


def check_claims(loaded: Loaded) -> list[Bound]:
    """Every claim of a behaviour, bound. Raises InputError that names file and line: unknown, or against each other."""
    claims = loaded.behaviour.checks
    bounds = []
    for at, claim in enumerate(claims):
        try:
            bounds.append(bind(claim))
        except InputError as error:
            raise InputError(f"{_place(loaded, at)}: {error}", hint=error.hint) from error
    for (one, first), (other, second) in combinations(enumerate(bounds), 2):
        if claims[one].at_least + claims[other].at_least > 1 and (why := against(first, second)):
            raise InputError(
                f"{_place(loaded, other)}: no reply meets both this and {_place(loaded, one)}: {why}",
                hint="remove one, or lower at_least until both can be true",
            )
    return bounds


def _place(loaded: Loaded, at: int) -> str:
    place = loaded.places.get(f"checks.{at}") or loaded.places.get("checks")
    return str(place or f"{loaded.behaviour.name}, checks.{at}")


def _check(name: str, function: Function) -> Check:
    fields: dict[str, Any] = {}
    takes = set()
    hints = inspect.get_annotations(function, eval_str=True)
    for key, parameter in list(inspect.signature(function).parameters.items())[1:]:
        if key in ("case", "setting"):
            takes.add(key)
        elif parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise InputError(f"{name}: {parameter} cannot be filled by name", hint="give it parameters with names")
        else:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[key] = (hints.get(key, Any), Field(default, alias=key))
    settings = ConfigDict(extra="forbid", strict=True)
    made = create_model("Keywords", __config__=settings, **{f"given_{key}": field for key, field in fields.items()})
    return Check(name, function, made, tuple(fields), frozenset(takes))


def _keywords(check: Check, value: JsonValue) -> dict[str, JsonValue]:
    if isinstance(value, dict):
        return value
    if value is None or isinstance(value, bool):
        return {}
    if not check.known or check.known[0] == "min":
        takes = ", ".join(f"{key}: …" for key in check.known)
        shape = f"{{{check.name}: {{{takes}}}}}" if takes else f"{{{check.name}: true}}"
        raise InputError(f"{check.name} cannot take {value!r} alone", hint=f"write {shape}")
    return {check.known[0]: value}


def _complaint(check: Check, error: ValidationError) -> InputError:
    # An unknown keyword first: what is missing is often what it should have been.
    detail = min(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    key, known = str(detail["loc"][0]) if detail["loc"] else "", check.known
    if detail["type"] == "extra_forbidden":
        hint = nearest(key, known) if known else f"it takes none: {{{check.name}: true}}"
        return InputError(f"{check.name} has no keyword {key!r}", hint=hint)
    if detail["type"] == "missing":
        return InputError(f"{check.name} needs {key}", hint=f"{{{check.name}: {{{key}: …}}}}")
    said = detail["ctx"]["error"] if detail["type"] == "value_error" else detail["msg"]
    return InputError(f"{check.name}: {key}: {said}, not {detail['input']!r:.60}", hint="docs/checks.md has them all")


def _refuse_empty_range(name: str, given: Mapping[str, Any]) -> None:
    """A check with bounds needs one, and a range needs something in it."""
    if not {"min", "max"} <= given.keys():
        return
    low, high = given["min"], given["max"]
    if low is None and high is None:
        raise InputError(f"{name} has neither min nor max", hint=f"{{{name}: {{max: …}}}}")
    if low is not None and high is not None and low > high:
        raise InputError(f"{name}: nothing is at least {low} and at most {high}", hint="swap min and max")


def against(one: Bound, other: Bound) -> str | None:
    """Why no reply passes both, where that is plain to see."""
    if one.check.name != other.check.name:
        return None
    a, b = one.keywords, other.keywords
    if one.negated != other.negated:
        return "one says true, the other false" if a == b else None
    differing = {key for key in a if a[key] != b[key]}
    if one.check.name == "language" and "name" in differing and None not in (a["name"], b["name"]):
        return f"{a['name']} and {b['name']}"
    if {"min", "max"} <= a.keys() and differing <= {"min", "max"}:
        lows, highs = ([bound[key] for bound in (a, b) if bound[key] is not None] for key in ("min", "max"))
        if lows and highs and max(lows) > min(highs):
            return f"at least {max(lows)} and at most {min(highs)}"
    return None


def _verdict(name: str, found: Any) -> Verdict:
    """What a check gave back: a Verdict, true or false, or a pair of that and why."""
    if isinstance(found, bool):
        return Verdict(found, name)
    if isinstance(found, tuple) and len(found) == 2 and (found[0] is None or isinstance(found[0], bool)):
        return Verdict(found[0], str(found[1]))
    return Verdict(None, f"{name} gave {found!r:.60}, which is no verdict")

"""A topic, and one to three rules that a machine can verify; each rule is a check of the case."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from random import Random
from typing import Any

from pydantic import JsonValue

from jeito.proof.values import Case, Expected


def instructions(wording: Mapping[str, Any], language: str, draw: Random) -> Iterator[Case]:
    """Endless cases without names, with one, two and three rules in turn; the same ask may come twice."""
    rules = [rule for rule in wording["rules"] if rule.get("only", language) == language]
    for number, first in enumerate(cycle(rules)):
        chosen = [first]
        for rule in draw.sample(rules, len(rules)):
            if len(chosen) <= number % 3 and all(_fit(rule, other, wording["clashes"]) for other in chosen):
                chosen.append(rule)
        drawn = {
            "few": draw.choice(wording["draws"]["few"]),
            "many": draw.choice(wording["draws"]["many"]),
            "word": draw.choice(wording["draws"]["word"][language]),
        }
        opening = draw.choice(wording["opening"][language]).format(topic=draw.choice(wording["topics"][language]))
        checks = tuple(_filled(rule["check"], drawn) for rule in chosen)
        yield Case(
            name="?",
            prompt=" ".join([opening, *(rule[language].format(**drawn) for rule in chosen)]),
            expect=Expected(checks=checks, language=language),
            tags=(language, f"{len(chosen)}-rules", *(name for check in checks for name in check)),
        )


def _fit(one: Mapping[str, Any], other: Mapping[str, Any], clashes: Sequence[Sequence[str]]) -> bool:
    """May both stand in one case?"""
    names = {*one["check"], *other["check"]}
    return one["group"] != other["group"] and not any(clash[0] in names and names & set(clash[1:]) for clash in clashes)


def _filled(value: Any, drawn: Mapping[str, JsonValue]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, drawn) for key, inner in value.items()}
    return drawn[value[1:]] if isinstance(value, str) and value.startswith("@") else value

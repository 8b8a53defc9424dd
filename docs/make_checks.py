"""Writes docs/checks.md from checks, cases and families; with --check it only says whether the page is up to date."""

import inspect
import sys
from pathlib import Path
from typing import Any

from jeito.proof.checks import EXPECTATIONS, SHELF, find_check
from jeito.proof.families import FAMILIES, family
from jeito.proof.features import FEATURES
from jeito.proof.languages import KNOWN
from jeito.proof.values import Case, Expected

PAGE = Path(__file__).with_name("checks.md")
OPENING = """\
# Checks and cases

Written by `make docs` from the checks themselves.

A **claim** is a check, what it is given, and the share of replies that must pass. It stands in a behaviour:

```yaml
name: brief
language: pt
system: Responda em no máximo duas frases.
checks:
  - {sentences: {max: 2}, at_least: 0.9}
  - {language: true, at_least: 0.95}
  - {refuses: false, at_least: 0.99}
  - {contains: ["token*|chave*"], at_least: 0.5}
```

Behind a check stands a map of its keywords, or its first keyword alone (`language: pt`), or `true` where it needs none,
or `false` for the contrary. A check says *passed*, *failed* or *not measured*, and why. What is not measured is never a
pass: a run that broke off, a language of which the detector is not sure, a check that crashed. Unknown checks and
keywords, claims that contradict each other, and claims without `at_least` are refused before the first run, with file
and line.
"""
OWN = """\
## A check of your own

One function of a trace, in a file; its keywords are its YAML, checked by their types. In a claim it is
`FILE.py:function`, seen from the behaviour's file. It may ask for the `case` too.

```python
from jeito.proof.values import Verdict


def shorter_than(trace, *, characters: int):
    size = len(trace.answer)
    return Verdict(size < characters, f"{size} characters")
```

`{"own.py:shorter_than": 200, at_least: 0.9}`. It may return true or false as well. Where it raises, that reply is not
measured, and the verdict names what was raised.

## A judge

`judge` asks a model. It is asked twice, with the two statements swapped, and it is believed only as far as it agrees
with replies that a person has labelled, four that pass and four that do not at least; they stand in the cases, as
`labels`. A judge that always says yes is right on half of them, and its verdicts do not count.
"""
CASES = """\
## Cases

A case asks one thing and says what is expected of the reply. Cases stand in a file, a list in YAML or one JSON object a
line, and each has a name of its own:

```jsonl
{"name": "trains", "prompt": "A train goes 80 km/h for 3 hours. How far?", "expect": {"number": 240, "unit": "km"}}
{"name": "ana", "prompt": "Ligue para a Ana.", "tools": [{"name": "call"}], "expect": {"calls": [{"name": "call"}]}}
{"name": "short", "prompt": "What is JWT?", "expect": {"checks": [{"words": {"max": 40}}], "contains": ["token*"]}}
```

The check `correct` asks for all that a case expects; `answer`, `runs`, `calls` and the others each for their own.
"""
DETECTOR = """\
## How good are they?

- `language` uses [py3langid](https://github.com/adbar/py3langid), without a network; {known} languages are told apart.
  Of 468 stretches of six words cut out of this project's own prompts, English and Portuguese, 432 were told with the
  default of 0.6, two of them wrongly; of ten words 461 and none; of three words 268 and two.
- `refuses` knows excuses in English and Portuguese by their words, in the first 300 characters; it cannot know a
  refusal that makes no excuse.
- `answer` finds the number that an answer comes to: the last with the case's unit, else what follows "the answer is",
  "resposta:", `\\boxed` or `####`, else the last one. Numbers in words are not read. `1.234` and `1,234` are read as
  the case's language writes them; where it has none, either way may be right.
- `runs` takes the code in fences, or else the lines that parse, and runs it with the case's tests after it. How it is
  bounded stands in [tools.md](tools.md).
- `similar` is chrF: letters, not meaning.
- `sentences` and `words` are rules of thumb for languages that write with spaces and full stops.
"""


def _keywords(name: str) -> str:
    check = find_check(name)
    parameters = inspect.signature(check.function).parameters
    written = []
    for key in check.known:
        default: Any = parameters[key].default
        needed = default is inspect.Parameter.empty
        plain = {True: "true", False: "false"}.get(default, default) if isinstance(default, bool) else default
        written.append(f"`{key}` (needed)" if needed else f"`{key}`" if default is None else f"`{key}: {plain}`")
    return ", ".join(written) or "none"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def page() -> str:
    parts = [OPENING, "## The checks\n", "| check | what it looks at | keywords |\n| --- | --- | --- |"]
    parts += [f"| `{name}` | {_cell(inspect.getdoc(check))} | {_keywords(name)} |" for name, check in SHELF.items()]
    parts += ["", OWN, CASES, "| field of a case | what it is |\n| --- | --- |"]
    said = {
        "name": "told apart by it",
        "prompt": "what is asked",
        "messages": "or a whole conversation",
        "tags": "free",
    }
    for name, field in Case.model_fields.items():
        parts.append(f"| `{name}` | {_cell(field.description or said.get(name) or 'the next table')} |")
    parts.append("\n| `expect` | what it is | looked at by |\n| --- | --- | --- |")
    by = EXPECTATIONS | {"tolerance": "answer", "unit": "answer", "reference": "similar", "language": "language"}
    words = {"json_schema": "the whole answer fits it", "language": "`pt`, `en`, …"}
    for name, field in Expected.model_fields.items():
        parts.append(f"| `{name}` | {_cell(field.description or words[name])} | `{by[name]}` |")
    parts.append("\n## Families that ship\n")
    parts.append(
        "Named instead of a file, and behind the name a language, a tag, a number, each after a colon: `train`,\n"
        "`train:pt`, `train:en:simple:32`. All are written in English and in Portuguese; fewer are the first of more.\n"
    )
    parts.append("| family | cases | the first |\n| --- | --- | --- |")
    for name in FAMILIES:
        cases = family(name)
        parts.append(f"| `{name}` | {len(cases)} | {_cell(cases[0].prompt)} |")
    parts += [
        "",
        DETECTOR.replace("{known}", str(len(KNOWN))),
        "## Features\n",
        "Comparisons and curves look at each reply in these numbers as well:",
    ]
    parts.append(", ".join(f"`{name}`" for name in FEATURES) + ", and `answer` where a case has a number.")
    return "\n".join(parts) + "\n"


def main() -> int:
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        print("docs/checks.md is not what the checks say: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

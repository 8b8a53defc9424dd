"""`jeito model`: what a model's files say, and which of it touches behaviour, without loading it."""

from typing import Annotated

import typer

from jeito.cli import options, show

LESSON = """\
What is above the line decides how a reply reads, ends or begins; a behaviour's own values win over the model's. What is
below it is the network's shape, or is read by nobody here: editing config.json does not change how a model behaves.
Instructions and sampling do: jeito explain -m {model} -b technical"""


def model(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help="demo, FILE.gguf, a folder or ORG/NAME.")],
    engine: options.Engine = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Show what a model's files say and what of it touches behaviour; no weights are read."""
    from jeito.preflight.knowledge import short, tried
    from jeito.run.open import read_card, read_facts

    card = read_card(reference, engine=engine, precision=precision)
    facts = read_facts(reference, engine=engine, precision=precision)
    trial = tried(card)
    about = {
        "engine": card.engine,
        "precision": card.precision,
        "context": card.context,
        "vocabulary": card.vocabulary,
        "weights_bytes": card.bytes,
        "ends": sorted(card.ends),
        "bos": card.bos if card.add_bos else None,
        "template": trial.template,
        "system_role": trial.system,
        "tools_reach_the_prompt": trial.tools,
        "reasoning_marks": list(trial.reasoning),
        "sampling_defaults": {knob: found.value for knob, found in card.defaults.items()},
    }
    if json:
        show.emit({"model": reference, "name": card.name, **about, "facts": facts})
        return
    show.table(f"{card.name} ({reference})", ("fact", "value"), [(key, short(value)) for key, value in about.items()])
    acting = [fact for fact in facts if fact.touches not in ("nothing", "architecture")]
    rows = [(fact.file, fact.key, short(fact.value), fact.touches, fact.how) for fact in facts]
    rows.insert(len(acting), ("─" * 8, "─" * 8, "─" * 8, "─" * 8, "─" * 8))
    show.table("\nWhat its files say", ("file", "key", "value", "touches", "how"), rows)
    print()
    print(LESSON.format(model=reference))

"""`jeito explain`: what a behaviour comes to on a model, without loading its weights."""

from jeito.cli import options, show


def explain(
    behaviour: options.Behaviour = "plain",
    model: options.Model = "demo",
    sets: options.Set = [],  # noqa: B006 - Typer copies it
    seed: options.Seed = None,
    json: options.Json = False,
    allow_unsupported: options.AllowUnsupported = False,
    engine: options.Engine = None,
    precision: options.Precision = None,
) -> None:
    """Show every effective value and where it comes from."""
    from jeito.behaviour.load import load
    from jeito.behaviour.resolve import resolve
    from jeito.decode.local import abilities
    from jeito.decode.template import Template
    from jeito.run.open import read_card
    from jeito.types import Receipt

    loaded = load(behaviour, sets)
    card = read_card(model, engine=engine, precision=precision)
    resolved = resolve(
        loaded,
        defaults=card.defaults,
        abilities=abilities(card.template),
        seed=seed,
        context=card.context,
        allow_unsupported=allow_unsupported,
    )
    template = Template(card.template, card.special)
    placement, note = template.placement(resolved.behaviour.placement)
    receipt = Receipt(
        values=resolved.values,
        unsupported=resolved.unsupported,
        placement=placement,
        template=template.name,
        notes=(note,) if note and resolved.behaviour.system else (),
    )
    facts = {
        "engine": card.engine,
        "precision": card.precision,
        "context": card.context,
        "template": template.name,
        "system_role": template.has_system,
        "files": list(loaded.chain),
    }
    if json:
        show.emit({"behaviour": behaviour, "model": model, "facts": facts, **receipt.model_dump(mode="json")})
        return
    show.table(f"{model}", ("fact", "value"), [(key, _text(value)) for key, value in facts.items()])
    show.receipt(receipt, f"\n{behaviour} on {model}")


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

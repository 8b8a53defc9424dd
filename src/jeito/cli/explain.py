"""`jeito explain`: what a behaviour comes to on a model, without loading its weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from jeito.cli import options, show

if TYPE_CHECKING:
    from jeito.decode.template import Template
    from jeito.types import Sourced


class About(NamedTuple):
    """What a model says of itself: by its files, or a server for it, whose template nobody sees."""

    defaults: "Mapping[str, Sourced]"
    abilities: frozenset[str]
    context: int | None
    facts: dict[str, Any]
    template: "Template | None" = None


def explain(
    behaviour: options.Behaviour = "plain",
    model: options.Model = "demo",
    sets: options.Set = [],  # noqa: B006 - Typer copies it
    seed: options.Seed = None,
    json: options.Json = False,
    allow_unsupported: options.AllowUnsupported = False,
    engine: options.Engine = None,
    precision: options.Precision = None,
    server: options.Server = "auto",
) -> None:
    """Show every effective value and where it comes from."""
    from jeito.behaviour.load import load
    from jeito.behaviour.resolve import resolve
    from jeito.engines.base import Loading
    from jeito.engines.remote_open import is_remote
    from jeito.run.open import open_model
    from jeito.types import Receipt

    loaded = load(behaviour, sets)
    if is_remote(model) or server != "auto":
        opened = open_model(model, engine=engine, precision=precision, loading=Loading(server=server))
        opened.close()
        about = About(
            opened.defaults, opened.abilities, opened.context, {**opened.environment(), "context": opened.context}
        )
    else:
        about = _of_files(model, engine, precision)
    resolved = resolve(
        loaded,
        defaults=about.defaults,
        abilities=about.abilities,
        seed=seed,
        context=about.context,
        allow_unsupported=allow_unsupported,
    )
    placement, note = resolved.behaviour.placement, None
    if about.template is not None:
        placement, note = about.template.placement(placement)
    receipt = Receipt(
        values=resolved.values,
        unsupported=resolved.unsupported,
        placement=placement,
        template=about.template.name if about.template else None,
        notes=(note,) if note and resolved.behaviour.system else (),
    )
    facts = {**about.facts, "files": list(loaded.chain)}
    if json:
        show.emit({"behaviour": behaviour, "model": model, "facts": facts, **receipt.model_dump(mode="json")})
        return
    show.table(f"{model}", ("fact", "value"), [(key, _text(value)) for key, value in facts.items()])
    show.receipt(receipt, f"\n{behaviour} on {model}")


def _of_files(model: str, engine: str | None, precision: str | None) -> About:
    from jeito.decode.local import abilities
    from jeito.decode.template import Template
    from jeito.run.open import read_card

    card = read_card(model, engine=engine, precision=precision)
    template = Template(card.template, card.special)
    facts = {
        "engine": card.engine,
        "precision": card.precision,
        "context": card.context,
        "template": template.name,
        "system_role": template.has_system,
    }
    return About(card.defaults, abilities(card), card.context, facts, template)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

"""`jeito pairs`: training data from what a behaviour already gets right, or from conversations of your own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, progress, show, verdict
from jeito.errors import OK, InputError

if TYPE_CHECKING:
    from jeito.engines.base import Loading
    from jeito.tune.pairs import Collected


@options.loads_model
def pairs(
    behaviour: Annotated[str, typer.Argument(help="NAME or PATH.yaml, then +key=value as often as wanted.")] = "",
    model: options.Model = "demo",
    cases: Annotated[str, typer.Option("--cases", help="A family that ships, or FILE.yaml, FILE.jsonl.")] = "",
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="MODEL", help="A larger model for cases that no reply passed.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", "-n", min=1, max=1000, help="Replies to each case.")] = 4,
    bake: Annotated[
        bool, typer.Option("--bake", help="Leave the instruction and examples out: the adapter has to know them.")
    ] = False,
    share: Annotated[
        float, typer.Option("--held-out", min=0.0, max=0.9, help="Share of the cases that only measure.")
    ] = 0.25,
    chat: Annotated[
        Path | None, typer.Option("--from", metavar="FILE.jsonl", help="Conversations of your own instead.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="pairs/NAME in home if not given.")] = None,
    sets: options.Set = [],  # noqa: B006
    seed: options.Seed = 0,
    json: options.Json = False,
    *,
    loading: "Loading",
) -> int:
    """Keep the replies that pass, split by case; what is held out is no case that is learned from."""
    from jeito.home import home
    from jeito.tune.pairs import from_chat, save

    if (chat is None) == (not behaviour or not cases):
        raise InputError("pairs come from a behaviour and cases, or from a file", hint="jeito pairs NAME --cases train")
    if chat is not None:
        found = from_chat(chat, share=share, seed=seed or 0)
    else:
        found = _asked(behaviour, sets, model, cases, teacher, repeats, bake, share, seed or 0, loading)
    name = Path(behaviour.split("+")[0]).stem if behaviour else chat.stem if chat else ""
    folder = to or home() / "pairs" / name
    save(folder, found)
    if json:
        show.emit({"folder": str(folder), "card": found.card})
    else:
        _tell(found, folder)
    return OK


def _asked(
    behaviour: str, sets: list[str], model: str, cases: str, teacher: str | None, repeats: int, bake: bool,
    share: float, seed: int, loading: "Loading",
) -> "Collected":  # fmt: skip
    from jeito.behaviour.load import load
    from jeito.proof.cases import load_cases
    from jeito.proof.runs import Asked, Asking
    from jeito.run.open import open_model
    from jeito.trace.log import Log
    from jeito.tune.pairs import collect

    label, log = "+".join([behaviour, *sets]), Log()
    asked = Asked(label, label, load(behaviour, sets))
    asking = Asking(load_cases(cases), cases, repeats, seed)
    opened = []
    try:
        for one in filter(None, (model, teacher)):
            opened.append(open_model(one, loading=loading, notify=show.say))
        with progress.bar() as heard:
            return collect(
                asked, asking, opened, log, bake=bake, share=share, heard=heard,
                setting_of=lambda planned: verdict.setting_of(planned, log),
            )  # fmt: skip
    finally:
        for each in opened:
            each.close()


def _tell(found: "Collected", folder: Path) -> None:
    card = found.card
    print(
        f"{card.passed} of {card.replies} replies passed, {card.same} said what another had said: {card.train} to "
        f"learn from (of {card.train_cases} cases), {card.held_out} held out (of {card.held_out_cases})"
    )
    if card.refused:
        print("not kept: " + ", ".join(f"{count} {why}" for why, count in card.refused.items()))
    if card.without:
        print(f"no reply passed: {len(card.without)} cases, such as {card.without[0]}")
    print(f"{folder} is written; learn from it: jeito tune {card.behaviour or 'BEHAVIOUR'} --data {folder}")

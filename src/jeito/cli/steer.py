"""`jeito steer`: control vectors, made by contrast, and those that have a name here."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show
from jeito.errors import InputError

if TYPE_CHECKING:
    from jeito.engines.base import Loading

app = typer.Typer(help="List the control vectors that have a name here; make one.", rich_markup_mode=None)

Texts = Annotated[list[str], typer.Option(metavar="FILE|TEXT", help="One text a line, or a text; as often as wanted.")]


@app.callback(invoke_without_command=True)
def _list(context: typer.Context, json: options.Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from jeito.tune.steer import kept

    found = kept()
    if json:
        show.emit({"steering": found})
        return
    if not found:
        show.say("no control vector has a name here: jeito steer make NAME --positive … --negative …")
        return
    rows = [(one.name, one.base, one.layers, one.method, one.made[:16], one.why or "") for one in found]
    show.table("", ("name", "base", "layers", "method", "made", ""), rows)


@app.command("make")
@options.loads_model
def make(
    name: Annotated[str, typer.Argument(help="What a behaviour calls it: steering: [{vector: NAME}].")],
    positive: Texts,
    negative: Texts,
    model: options.Model = "demo@transformers",
    method: Annotated[str, typer.Option(help="mean: of the two sets; pca: of pairs.")] = "mean",
    layers: Annotated[str | None, typer.Option(metavar="FIRST-LAST", help="The middle half when not given.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of one of this name.")] = False,
    json: options.Json = False,
    engine: options.Engine = None,
    precision: options.Precision = None,
    *,
    loading: "Loading",
) -> None:
    """Find what leads from the negative texts' manner to the positive ones', and keep it under a name."""
    from jeito.engines.transformers_engine import TransformersEngine
    from jeito.home import home
    from jeito.run.open import in_process, open_model
    from jeito.tune import steer

    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise InputError(f"{name!r} is no name for a file", hint="letters, digits, - and _")
    if method not in ("mean", "pca"):
        raise InputError(f"there is no method {method!r}", hint="--method mean, or pca")
    file = home() / "steering" / f"{name}.gguf"
    if file.exists() and not replace:
        raise InputError(f"there is a control vector {name!r} already", hint="--replace")
    ones, others = _texts(positive), _texts(negative)
    opened = in_process(open_model(model, engine=engine, precision=precision, loading=loading, notify=show.say))
    inner = opened.decoder.engine
    if not isinstance(inner, TransformersEngine):
        opened.close()
        raise InputError(f"{model!r} shows no states of its layers: transformers does", hint="-m demo@transformers")
    found = steer.contrast(inner, ones, others, method="pca" if method == "pca" else "mean", layers=_range(layers))
    family = str(inner.model.config.model_type)
    steer.save(
        file, found, base=model, family=family, method="pca" if method == "pca" else "mean",
        texts=(len(ones), len(others)),
    )  # fmt: skip
    opened.close()
    told, chosen = found.told_apart, range(min(found.directions), max(found.directions) + 1)
    if json:
        show.emit({"name": name, "path": str(file), "layers": list(chosen), "told_apart": told})
        return
    print(f"{name} is kept: {len(ones)} texts against {len(others)}, layers {chosen.start}-{chosen.stop - 1}")
    if told:
        best = max(told, key=lambda layer: told[layer])
        print(
            f"texts that a direction was made without, told apart: {sum(told.values()) / len(told):.0%} on average "
            f"(50% is chance), {told[best]:.0%} in layer {best}"
        )
    print(f"use it: jeito ask … --set 'steering=[{{vector: {name}, scale: 0.5}}]'")


def _texts(given: list[str]) -> list[str]:
    found: list[str] = []
    for one in given:
        is_file = len(one) < 4096 and Path(one).is_file()
        if not is_file and re.fullmatch(r"\S+\.\w+", one):
            raise InputError(f"there is no file {one!r}", hint="a text has more than one word")
        try:
            lines = Path(one).read_text(encoding="utf-8").splitlines() if is_file else [one]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{one!r} cannot be read as text: {error}", hint="UTF-8, one text a line") from error
        found += [line.strip() for line in lines if line.strip()]
    return found


def _range(text: str | None) -> range | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not match:
        raise InputError(f"{text!r} are no layers", hint="--layers 8-20")
    return range(int(match[1]), int(match[2] or match[1]) + 1)

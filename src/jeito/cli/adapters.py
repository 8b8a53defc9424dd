"""`jeito adapters`: the adapters that have a name here; merged into their base where that is wanted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show
from jeito.errors import InputError

if TYPE_CHECKING:
    from jeito.engines.base import Loading
    from jeito.proof.parity import Parity

app = typer.Typer(help="List the adapters that have a name here; merge one into its base.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _list(context: typer.Context, json: options.Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from jeito.tune.adapters import kept

    found = kept()
    if json:
        show.emit({"adapters": found})
        return
    if not found:
        show.say("no adapter has a name here; a behaviour takes one by its path as well: adapter: [{path: FOLDER}]")
        return
    rows = [
        (one.name, one.base, one.rank, ", ".join(one.targets), one.made[:16], one.behaviour or "", one.why or "")
        for one in found
    ]
    show.table("", ("name", "base", "rank", "targets", "made", "behaviour", ""), rows)


@app.command("merge")
@options.loads_model
def merge(
    name: Annotated[str, typer.Argument(help="A name as `jeito adapters` lists it, or a folder.")],
    model: options.Model,
    to: Annotated[Path, typer.Option("--to", help="FILE.gguf for a GGUF, a new FOLDER for any other model.")],
    scale: Annotated[float, typer.Option(help="How strongly the adapter acts.")] = 1.0,
    json: options.Json = False,
    engine: options.Engine = None,
    precision: options.Precision = None,
    *,
    loading: "Loading",
) -> None:
    """Write the model with the adapter in its weights, then compare it with the two apart."""
    from jeito.engines.llamacpp import LlamaEngine
    from jeito.engines.transformers_engine import TransformersEngine
    from jeito.run.open import in_process, open_model
    from jeito.tune import adapters
    from jeito.types import Adapter

    path = adapters.find(name)
    if to.exists():
        raise InputError(f"{str(to)!r} is there already", hint="--to a new name")
    base = in_process(open_model(model, engine=engine, precision=precision, loading=loading, notify=show.say))
    inner, turned = base.decoder.engine, dict[str, str]()
    if (to.suffix == ".gguf") != isinstance(inner, LlamaEngine):
        base.close()
        raise InputError(f"{model!r} is not merged into {str(to)!r}", hint="a GGUF gives a GGUF: --to merged.gguf")
    tuning = inner.tune([Adapter(path=str(path), scale=scale)], [])
    if isinstance(inner, LlamaEngine):
        turned = adapters.merge_into_gguf(inner.path, path, scale, to)
    elif isinstance(inner, TransformersEngine):
        adapters.merge_into_folder(inner, tuning, to)
    show.say(f"{to} is written; comparing it with the base and the adapter apart …")
    merged = in_process(open_model(str(to), precision=precision, loading=loading, notify=show.say))
    found = adapters.verify(base, path, scale, merged)
    for opened in (base, merged):
        opened.close()
    if json:
        show.emit({"merged": str(to), "turned": turned, "parity": found})
    else:
        _tell(found, turned)


def _tell(found: "Parity", turned: dict[str, str]) -> None:
    kinds = ", ".join(sorted(set(turned.values())))
    if turned:
        show.say(f"note: {len(turned)} tensors became {kinds}: with fewer bits much of the adapter would be lost")
    if found.first is None or found.walk is None:
        print(f"could not be compared: {found.why}")
        return
    print(f"first token: KL {found.first.kl:.2g} nats, likeliest {'the same' if found.first.same_top else 'another'}")
    print(
        f"replies: {found.walk.flips} of {found.walk.tokens} tokens would have been drawn otherwise; mean KL "
        f"{found.walk.kl:.2g} nats; likeliest token the same at {found.walk.same_top:.1%}"
    )

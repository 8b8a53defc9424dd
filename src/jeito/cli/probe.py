"""`jeito probe`: what a server does with each knob, found by experiment; a model of ours is served and probed alike."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show
from jeito.errors import InputError

if TYPE_CHECKING:
    from jeito.decode.local import LocalModel
    from jeito.engines.base import Loading
    from jeito.preflight.probe import Probe


@options.loads_model
def probe(
    target: Annotated[str, typer.Argument(metavar="URL|MODEL", help="http://host:8000/v1[#NAME], or a local model.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Which of the server's models; its first.")
    ] = None,
    only: Annotated[list[str], typer.Option(metavar="KNOB", help="As often as wanted.")] = [],  # noqa: B006
    behaviour: Annotated[
        str | None, typer.Option("--behaviour", "-b", help="Exit 1 if what it needs is not honoured.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one reply of a few tokens.")] = 120.0,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as docs/probe.md has it.")] = False,
    json: options.Json = False,
    engine: options.Engine = None,
    precision: options.Precision = None,
    *,
    loading: "Loading",
) -> int:
    """Find out what a server does with each knob: experiments, not claims.

    What is found is kept, and receipts of runs on that server cite it. Exit code 1 if a behaviour needs more.
    """
    from urllib.parse import urlsplit

    from jeito.behaviour.load import load
    from jeito.engines.remote_open import address_of, is_remote
    from jeito.engines.verdicts import keep
    from jeito.home import remote_key
    from jeito.preflight.probe import needed, probe
    from jeito.run.open import parse

    wanted, untried = needed(load(behaviour).behaviour) if behaviour else ((), ())
    asked = parse(target)
    only = [*only, *wanted] if only else []
    is_elsewhere = is_remote(asked.target)
    address = nullcontext(address_of(asked.target)) if is_elsewhere else _opened(target, engine, precision, loading)
    with address as url:
        found = probe(
            url, model=model or (asked.within if is_elsewhere else None), kind=loading.server, only=only,
            key=remote_key(urlsplit(url).netloc), patience=timeout, notify=show.say,
        )  # fmt: skip
    if is_elsewhere:
        keep(found.address, found.model, found.version, found.tried)
    lacking = found.lacking(wanted)
    if json:
        show.emit({**found.model_dump(mode="json"), "behaviour": behaviour, "lacking": lacking})
    elif markdown:
        print("\n".join(_markdown(found)))
    else:
        _table(found)
    for knob, why in lacking.items():
        show.say(f"{behaviour} needs {knob}: {why}")
    if untried:
        show.say(f"{behaviour} needs what there is no experiment on: {', '.join(untried)}")
    return 1 if lacking else 0


def _table(found: "Probe") -> None:
    rows = [(one.knob, one.field, one.verdict, one.requests, one.evidence) for one in found.tried]
    show.table(_title(found), ("knob", "sent as", "verdict", "requests", "evidence"), rows)
    for note in found.notes:
        print(f"note: {note}")
    show.say(f"{found.requests} requests, {found.seconds:.0f} seconds; each row counts its own, not what many share")


def _markdown(found: "Probe") -> Iterator[str]:
    yield f"{_title(found)}, {found.day}:"
    yield ""
    yield "| knob | sent as | verdict | requests | evidence |"
    yield "| --- | --- | --- | --- | --- |"
    for one in found.tried:
        sent, evidence = (f"`{one.field}`" if one.field else ""), one.evidence.replace("|", "\\|").replace("\n", " ")
        yield f"| `{one.knob}` | {sent} | {one.verdict} | {one.requests} | {evidence} |"


def _title(found: "Probe") -> str:
    return f"{found.model} on {found.kind} {found.version or 'of no known version'}"


@contextmanager
def _opened(reference: str, engine: str | None, precision: str | None, loading: "Loading") -> Iterator[str]:
    from jeito.decode.local import LocalModel
    from jeito.run.open import open_model

    model = open_model(reference, engine=engine, precision=precision, loading=loading, notify=show.say)
    assert isinstance(model, LocalModel)  # a server is probed where it is
    try:
        with served(model) as address:
            yield address
    finally:
        model.close()


@contextmanager
def served(model: "LocalModel") -> Iterator[str]:
    """The address of a model of ours, served in this process: what is probed is what clients get."""
    try:
        from jeito.serve.app import Server
        from jeito.serve.catalogue import Catalogue
        from jeito.serve.door import Door
        from jeito.serve.keys import Keys
        from jeito.serve.server import Serving, bind
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}", hint="pip install 'jeito[serve]'") from error
    server, bound = Server(Catalogue([model]), keys=Keys(), log=None), bind("127.0.0.1", 0, has_keys=False)
    door = Door(server.metrics)
    serving = Serving(door, bound)
    try:
        door.open(server.app())
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
    finally:
        serving.stop()
        bound.close()

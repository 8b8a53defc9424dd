"""`jeito serve`: models and behaviours for others, behind OpenAI's API."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show
from jeito.errors import InputError

if TYPE_CHECKING:
    from jeito.engines.base import Loading


@options.loads_model
def serve(
    models: options.Models = ["demo"],  # noqa: B006 - Typer copies it
    behaviours: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Serve the behaviours of this folder, and no others.")
    ] = None,
    host: Annotated[str, typer.Option(help="Others than this machine need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8123,
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="Keys that clients must have, one a line.")] = None,
    lenient: Annotated[
        bool,
        typer.Option("--lenient", help="Leave out what cannot be honoured; the receipt says so."),
    ] = False,
    queue: Annotated[int, typer.Option(min=0, help="Requests that wait for a model; more are refused.")] = 64,
    body: Annotated[str, typer.Option(metavar="SIZE", help="Most that a request may hold.")] = "1MB",
    drain: Annotated[int, typer.Option(min=0, help="Seconds for replies to end in, once told to stop.")] = 30,
    no_log: options.NoLog = False,
    engine: options.Engine = None,
    precision: options.Precision = None,
    *,
    loading: "Loading",
) -> None:
    """Serve models and behaviours behind OpenAI's API, each behaviour a model id."""
    try:
        from jeito.serve.app import Server
        from jeito.serve.catalogue import Catalogue
        from jeito.serve.server import bind, serve
        from jeito.serve.server import keys as read_keys
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}", hint="pip install 'jeito[serve]'") from error
    from jeito.run.open import open_model
    from jeito.trace.log import Log

    found = read_keys(keys)
    most = options.size(body)
    bound = bind(host, port, has_keys=bool(found))
    opened = [open_model(one, engine=engine, precision=precision, loading=loading, notify=show.say) for one in models]
    try:
        catalogue = Catalogue(opened, behaviours)
        for line in catalogue.left_out:
            show.say(f"not served: {line}")
        log = None if no_log else Log()
        app = Server(catalogue, keys=found, log=log, lenient=lenient, queue=queue, body=most).app()
        where = f"http://{host}:{bound.getsockname()[1]}/v1"
        serve(app, bound, drain=drain, begun=lambda: show.say(f"{len(catalogue.served)} model ids on {where}"))
    finally:
        bound.close()
        for model in opened:
            model.close()

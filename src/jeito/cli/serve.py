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
    names: Annotated[list[str], typer.Option("--name", help="What a model is called here, one for each -m.")] = [],  # noqa: B006 - Typer copies it
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="KEY [behaviours=a,b] [rate=60/min], one a line.")
    ] = None,
    allow_host: Annotated[list[str], typer.Option(metavar="NAME", help="Another name of this server.")] = [],  # noqa: B006
    allow_origin: Annotated[
        list[str], typer.Option(metavar="ORIGIN", help="A site whose pages may call, or *; none may else.")
    ] = [],  # noqa: B006
    lenient: Annotated[
        bool,
        typer.Option("--lenient", help="Leave out what cannot be honoured; the receipt says so."),
    ] = False,
    queue: Annotated[int, typer.Option(min=0, help="Requests that wait for a model; more are refused.")] = 64,
    body: Annotated[str, typer.Option(metavar="SIZE", help="Most that a request may hold.")] = "1MB",
    deadline: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="SECONDS", help="Most that a reply may take, its waiting included."),
    ] = None,
    drain: Annotated[int, typer.Option(min=0, help="Seconds for replies to end in, once told to stop.")] = 30,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="A line for each request, without its text.")
    ] = False,
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
        from jeito.serve.door import Door, hosts
        from jeito.serve.keys import read_keys
        from jeito.serve.metrics import Metrics
        from jeito.serve.server import Serving, bind, told_to_stop
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}", hint="pip install 'jeito[serve]'") from error
    from jeito.run.open import Opened, open_apart
    from jeito.trace.log import Log

    found, metrics = read_keys(keys), Metrics()
    most = options.size(body)
    bound = bind(host, port, has_keys=bool(found))
    door = Door(metrics, hosts=hosts(host, allow_host, bool(found)), origins=allow_origin, is_noted=access_log)
    opened: list[Opened] = []
    serving = Serving(door, bound, drain=drain)
    try:
        for one in models:
            opened.append(open_apart(one, engine=engine, precision=precision, loading=loading, notify=show.say))
        catalogue = Catalogue(opened, behaviours, names, show.say)
        for line in catalogue.left_out:
            show.say(f"not served: {line}")
        log = None if no_log else Log()
        door.open(
            Server(
                catalogue, keys=found, log=log, lenient=lenient, queue=queue, body=most, deadline=deadline,
                metrics=metrics,
            ).app()
        )  # fmt: skip
        with told_to_stop(serving):
            show.say(f"{len(catalogue.served)} model ids on http://{host}:{bound.getsockname()[1]}/v1")
            serving.wait()
    finally:
        serving.stop()
        bound.close()
        for model in opened:
            model.close()

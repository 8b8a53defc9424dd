"""`jeito behaviours` and `jeito schema`: which behaviours there are, and what a file of one may hold."""

from jeito.cli import options, show


def behaviours(json: options.Json = False) -> None:
    """List the behaviours that have a name here."""
    from jeito.behaviour.load import names

    found = names()
    if json:
        show.emit({"behaviours": [listing._asdict() for listing in found]})
        return
    rows = [(one.name, one.where, f"broken: {one.error}" if one.error else one.description) for one in found]
    show.table("", ("name", "from", "what it is"), rows)


def schema() -> None:
    """Print the JSON schema of a behaviour's file, for editors."""
    from jeito.behaviour.load import schema as schema_of

    show.emit(schema_of())

"""`jeito proofs`: what has been proved, and whether it still stands."""

from jeito.cli import options, show


def proofs(json: options.Json = False) -> None:
    """List the proofs: proved, failed, undecided, or stale, where behaviour, model or cases changed since."""
    from jeito.proof.status import standings
    from jeito.trace.log import Log

    log = Log()
    found = list(standings(log))
    if json:
        show.emit({"proofs": found})
        return
    if not found:
        show.say(f"no proof is kept in {log.path}")
        return
    rows = [
        (one.id[:12], one.time[:19], one.behaviour, one.model, one.cases, one.status, one.claims, one.runs, one.why)
        for one in found
    ]
    show.table("", ("id", "time", "behaviour", "model", "cases", "status", "claims", "runs", "what changed"), rows)

"""Plans and proofs in the log: what was to be run, which run stands where, what it came to.

A plan is kept under its digest, a proof under its id. Both are texts here: what they say is another room's.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from jeito.errors import InputError
from jeito.trace.log import Log
from jeito.trace.rows import RECORDS, keep, record
from jeito.types import Trace

VERSION = 2
"""Of the log's tables: the first that has these."""
# Half-done: never ended, or given up. A run that failed has ended, and is data.
_WHOLE = "finish is not null and finish <> 'cancelled'"


class KeptPlan(NamedTuple):
    """A plan as it was written, with its cases and its behaviour, all as JSON."""

    plan: str
    cases: str
    behaviour: str
    time: str


class KeptProof(NamedTuple):
    """A proof as JSON, and when it was written."""

    proof: str
    time: str


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_plan(
    log: Log, digest: str, *, plan: str, cases: str, behaviour: str, behaviour_fingerprint: str, model: str,
    model_fingerprint: str | None,
) -> None:  # fmt: skip
    """Write a plan down; one that is there stays as it was first written."""
    with log.writing() as connection:
        blobs = keep(connection, cases), keep(connection, behaviour)
        connection.execute(
            "insert or ignore into plans values (?, ?, ?, ?, ?, ?, ?, ?)",
            (digest, _now(), behaviour_fingerprint, model_fingerprint, model, plan, *blobs),
        )


def find_plan(log: Log, prefix: str) -> KeptPlan | None:
    """The plan whose digest starts so; none: there is none. Raises InputError where there are several."""
    rows = log.rows(
        """select plan, cases.text, behaviours.text, time from plans
            join blobs cases on cases.digest = cases_blob join blobs behaviours on behaviours.digest = behaviour_blob
            where plans.digest >= :prefix and plans.digest < :prefix || 'g'""",
        {"prefix": prefix},
        since=VERSION,
    )
    if len(rows) > 1:
        raise InputError(f"{len(rows)} plans' digests start with {prefix!r}", hint="more of its letters")
    return KeptPlan(*rows[0]) if rows else None


def plans_of(log: Log, behaviour_fingerprint: str, model_fingerprint: str | None) -> list[str]:
    """The plans of a behaviour on a model, the newest first."""
    rows = log.rows(
        """select plan from plans where behaviour_fingerprint = :behaviour and model_fingerprint is :model
            order by time desc, digest""",
        {"behaviour": behaviour_fingerprint, "model": model_fingerprint},
        since=VERSION,
    )
    return [plan for (plan,) in rows]


def take_places(log: Log, plan: str, runs: Mapping[int, str]) -> None:
    """Say which run stands at which place of a plan, before they are begun; a whole run keeps its place."""
    with log.writing() as connection:
        connection.executemany(
            f"""insert into places values (?, ?, ?) on conflict do update set run = excluded.run
                where not exists (select 1 from runs where id = places.run and {_WHOLE})""",
            [(plan, place, run) for place, run in runs.items()],
        )


def places_held(log: Log, plan: str) -> set[int]:
    """The places of a plan whose runs are whole."""
    rows = log.rows(
        f"select place from places join runs on runs.id = run where plan = :plan and {_WHOLE}",
        {"plan": plan},
        since=VERSION,
    )
    return {place for (place,) in rows}


def run_at(log: Log, plan: str, place: int) -> Trace | None:
    """The whole run at a place of a plan; none: it is still to be run."""
    rows = log.rows(
        f"""{RECORDS} join places on runs.id = places.run
            where plan = :plan and place = :place and {_WHOLE}""",
        {"plan": plan, "place": place},
        since=VERSION,
    )
    return record(*rows[0]).trace if rows else None


def write_proof(
    log: Log, id: str, *, plan: str, behaviour_fingerprint: str, model_fingerprint: str | None, decision: str,
    proof: str,
) -> None:  # fmt: skip
    """Write a proof down, in the place of an earlier one of this id."""
    with log.writing() as connection:
        connection.execute(
            "insert or replace into proofs values (?, ?, ?, ?, ?, ?, ?)",
            (id, _now(), plan, behaviour_fingerprint, model_fingerprint, decision, proof),
        )


def proofs(
    log: Log, *, plan: str | None = None, behaviour: str | None = None, model: str | None = None, prefix: str = ""
) -> list[KeptProof]:
    """Proofs, the newest first: those of a plan, of a behaviour's or model's fingerprint, whose id starts so."""
    rows = log.rows(
        """select proof, time from proofs
            where (:plan is null or plan = :plan) and (:behaviour is null or behaviour_fingerprint = :behaviour)
            and (:model is null or model_fingerprint = :model)
            and id >= :prefix and id < :prefix || 'g'
            order by time desc, id""",
        {"plan": plan, "behaviour": behaviour, "model": model, "prefix": prefix},
        since=VERSION,
    )
    return [KeptProof(*row) for row in rows]


def fingerprint_of(log: Log, model: str) -> str | None:
    """What a model's fingerprint was when it last ran, by the name it is called; none: it never did."""
    rows = log.rows(
        "select model_fingerprint from runs where model = :model order by time desc, id desc limit 1", {"model": model}
    )
    return rows[0][0] if rows else None

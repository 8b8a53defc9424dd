"""A run as a row of SQLite: its tables, what goes in, what comes out. Knows nothing of files, locks or waiting."""

import sqlite3
from hashlib import sha256

from pydantic import ValidationError, field_validator
from pydantic_core import from_json

from jeito.errors import LogError
from jeito.types import Finish, Trace, Value

MARK = 0x6A65_6974  # SQLite's application_id, "jeit" in ASCII: tells a log from any other database
# `seed` is text: it can need 64 bits without a sign. `trace` is the whole run as JSON, less its prompt; it comes last,
# so that reading the columns before it does not touch the pages that its tokens fill.
_RUNS = (
    "create table blobs (digest text primary key, text text not null) without rowid",
    """create table runs (
        id text primary key, time text not null, behaviour text not null, behaviour_fingerprint text not null,
        behaviour_blob text not null references blobs, model text not null, model_fingerprint text,
        seed text not null, "case" text not null, finish text, exact_held integer not null, generated integer not null,
        seconds real not null, ask text not null, answer text not null, prompt_blob text references blobs,
        trace text not null)""",
    "create index runs_by_time on runs (time, id)",
    f"pragma application_id = {MARK}",
)
# A plan is written before its first run; its places say which run stands where. A proof is what its runs came to.
_PLANS = (
    """create table plans (
        digest text primary key, time text not null, behaviour_fingerprint text not null, model_fingerprint text,
        model text not null, plan text not null, cases_blob text not null references blobs,
        behaviour_blob text not null references blobs)""",
    """create table places (
        plan text not null references plans, place integer not null, run text not null, primary key (plan, place))
        without rowid""",
    """create table proofs (
        id text primary key, time text not null, plan text not null references plans,
        behaviour_fingerprint text not null, model_fingerprint text, decision text not null, proof text not null)""",
    "create index proofs_by_time on proofs (time)",
)
SCHEMAS = (_RUNS, _PLANS)
"""What each version of the tables added to those before it."""
SCHEMA = len(SCHEMAS)
RECORDS = """select runs.trace, prompts.text, behaviours.text from runs
    left join blobs prompts on prompts.digest = prompt_blob
    join blobs behaviours on behaviours.digest = behaviour_blob"""
SNIPPET = 80  # characters of the ask and of the answer that a table shows


class Record(Value):
    """A run and the behaviour it ran under, as canonical JSON: all that the log keeps of it."""

    trace: Trace
    behaviour: str

    @field_validator("behaviour")
    @classmethod
    def _is_json(cls, text: str) -> str:
        from_json(text)
        return text


class Summary(Value):
    """A run as a row of a table; `ask` and `answer` are the first words, on one line."""

    id: str
    time: str
    behaviour: str
    model: str
    seed: int
    finish: Finish | None
    generated: int
    seconds: float
    ask: str
    answer: str


class Use(Value):
    """How often a model ran, and when it last did (UTC, ISO 8601)."""

    model: str
    last: str
    runs: int


class NotOurs(Exception):
    """A database that this version must not touch."""


def version_of(connection: sqlite3.Connection) -> int:
    """Which version of the tables this log has, 0: nothing yet. Anything else is refused, with NotOurs."""
    ((mark,),) = connection.execute("pragma application_id")
    ((version,),) = connection.execute("pragma user_version")
    ((objects,),) = connection.execute("select count(*) from sqlite_schema")
    if (mark, version, objects) == (0, 0, 0):
        return 0
    if mark != MARK:
        raise NotOurs("is a database, but no log of jeito")
    if version > SCHEMA:
        raise NotOurs(f"was written by a newer jeito: its schema is {version}, this one knows {SCHEMA}")
    return int(version)


def renew(connection: sqlite3.Connection) -> None:
    """Give a log the tables that it lacks; those that it has stay as they are."""
    version = version_of(connection)
    for statements in SCHEMAS[version:]:
        for statement in statements:
            connection.execute(statement)
    if version < SCHEMA:
        connection.execute(f"pragma user_version = {SCHEMA}")


def insert(connection: sqlite3.Connection, record: Record) -> bool:
    """Write a run down, unless its id is there already; was it new?"""
    if connection.execute("select 1 from runs where id = ?", (record.trace.id,)).fetchone():
        return False
    columns = {**_columns(connection, record.trace), "behaviour_blob": keep(connection, record.behaviour)}
    names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join(f":{name}" for name in columns)
    connection.execute(f"insert into runs ({names}) values ({marks})", columns)
    return True


def complete(connection: sqlite3.Connection, trace: Trace) -> bool:
    """Write all that a run has become, if it was begun and has not ended; was there such a run?"""
    columns = _columns(connection, trace)
    settings = ", ".join(f'"{name}" = :{name}' for name in columns)
    changed = connection.execute(f"update runs set {settings} where id = :id and finish is null", columns)
    return bool(changed.rowcount)


def record(trace: str, prompt: str | None, behaviour: str) -> Record:
    """A row of RECORDS, read."""
    try:
        run = Trace.model_validate_json(trace)
    except ValidationError as error:
        raise LogError(
            f"a run was kept in a form that this jeito does not know: {complaint(error)}",
            hint="read it with the jeito that wrote it",
        ) from error
    return Record(trace=run.model_copy(update={"prompt": prompt}), behaviour=behaviour)


def complaint(error: ValidationError) -> str:
    """The first thing that is wrong, on one line, after the place where it is."""
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(str(part) for part in first["loc"]), first["msg"])))


def _columns(connection: sqlite3.Connection, trace: Trace) -> dict[str, object]:
    asks = [message.content for message in trace.request.messages if message.role == "user"]
    return {
        "id": trace.id,
        "time": trace.time,
        "behaviour": trace.behaviour,
        "behaviour_fingerprint": trace.behaviour_fingerprint,
        "model": trace.model,
        "model_fingerprint": trace.model_fingerprint,
        "seed": str(trace.seed),
        "case": trace.case,
        "finish": trace.finish,
        "exact_held": trace.receipt.exact.held,
        "generated": trace.usage.generated,
        "seconds": trace.seconds.total,
        "ask": _snippet(asks[-1]) if asks else "",
        "answer": _snippet(trace.answer),
        "prompt_blob": None if trace.prompt is None else keep(connection, trace.prompt),
        "trace": trace.model_dump_json(exclude={"prompt"}),
    }


def keep(connection: sqlite3.Connection, text: str) -> str:
    """Write a text down once; its digest."""
    digest = sha256(text.encode()).hexdigest()
    connection.execute("insert or ignore into blobs values (?, ?)", (digest, text))
    return digest


def _snippet(text: str) -> str:
    # Far more than a snippet needs is cut off first: an ask can be a book.
    words = " ".join(text[: 10 * SNIPPET].split())
    return words if len(words) <= SNIPPET else words[: SNIPPET - 1] + "…"

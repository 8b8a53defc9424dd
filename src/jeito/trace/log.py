"""What happened, kept: one row a run in SQLite; prompts and behaviours once, by digest. Knows nothing of models.

Each operation has a connection of its own, closed at its end: threads and processes need no care, and no transaction
outlives the call that began it. Killing a process loses no run that it wrote; a power cut may lose the last few.
"""

import os
import secrets
import shlex
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from jeito.errors import InputError, LogError, nearest
from jeito.home import home
from jeito.trace.rows import RECORDS, NotOurs, Record, Summary, Use, complete, insert, record, renew, version_of
from jeito.types import Finish, Trace

PAGE = 50  # runs held in memory while all of them are read
CANDIDATES = 10  # runs listed when a prefix means several
LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing that reads as 1 or 0

Ended = Finish | Literal["unfinished"]


class UnknownRun(LogError, InputError):
    """What was typed names no run, or several."""


def new_id() -> str:
    """A name for a run: 20 letters and digits that sort by time (milliseconds in the first 9), then 55 random bits."""
    number = time.time_ns() // 1_000_000 << 55 | secrets.randbits(55)
    return "".join(LETTERS[number >> shift & 31] for shift in range(95, -1, -5))


class Log:
    """The runs kept at `path`, which is made by the first write; reading a log that isn't there finds nothing.

    `patience` is how many seconds an operation waits for other writers. Every failure is a LogError, after which the
    log is as it was before the call.
    """

    def __init__(self, path: Path | None = None, *, patience: float = 10.0) -> None:
        self.path = path or home() / "log.db"
        self.patience = patience
        # One idle connection, from the first write on: when the last one is closed, SQLite moves all that is new from
        # the -wal file into the log and waits for the disk. It is closed before a fork, which its locks don't survive.
        self._idle: list[sqlite3.Connection] = []
        weakref.finalize(self, _close, self._idle)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=partial(_close, self._idle))

    def begin(self, trace: Trace, behaviour: str) -> None:
        """Write a run down before its first token, so that it is missed if its process dies.

        `behaviour` is the resolved behaviour as canonical JSON. A trace that has its finish already is written whole:
        so a run is saved whose beginning could not be.
        """
        if not self.add([Record(trace=trace, behaviour=behaviour)]):
            raise LogError(f"a run called {trace.id!r} is already in the log", hint=f"jeito log show {trace.id}")

    def finish(self, trace: Trace) -> None:
        """Complete a run that was begun; the first end stands."""
        with self.writing() as connection:
            if not complete(connection, trace):
                raise LogError(f"no run called {trace.id!r} waits for its end", hint=f"jeito log show {trace.id}")

    def add(self, records: list[Record]) -> int:
        """Write runs down whole, all or none; those already there stay as they are. How many were new?"""
        with self.writing() as connection:
            return sum(insert(connection, one) for one in records)

    def get(self, prefix: str) -> Trace:
        """The run of this id, or the only one whose id starts so."""
        return self._record(prefix).trace

    def behaviour_of(self, prefix: str) -> str:
        """The behaviour that a run ran under, resolved, as canonical JSON."""
        return self._record(prefix).behaviour

    def recent(
        self,
        n: int = 20,
        *,
        finish: Ended | None = None,
        behaviour: str | None = None,
        model: str | None = None,
        exact: bool | None = None,
    ) -> list[Trace]:
        """The newest runs first. `unfinished` is a finish too: still running, or lost with its process.

        A behaviour or model is meant by its name or by its fingerprint.
        """
        return [record(*row).trace for row in self._newest(RECORDS, n, finish, behaviour, model, exact)]

    def summaries(
        self,
        n: int = 20,
        *,
        finish: Ended | None = None,
        behaviour: str | None = None,
        model: str | None = None,
        exact: bool | None = None,
    ) -> list[Summary]:
        """The same runs as `recent`, without what is costly to read."""
        names = list(Summary.model_fields)
        rows = self._newest(f"select {', '.join(names)} from runs", n, finish, behaviour, model, exact)
        runs = [dict(zip(names, row, strict=True)) for row in rows]
        return [Summary.model_validate({**run, "seed": int(run["seed"])}) for run in runs]

    def uses(self) -> list[Use]:
        """Each model that ran, by the name it was called, the last used first."""
        rows = self.rows("select model, max(time), count(*) from runs group by model order by max(time) desc", {})
        return [Use(model=model, last=last, runs=runs) for model, last, runs in rows]

    def records(self) -> Iterator[Record]:
        """Every run with its behaviour, in order of id, a page at a time: runs may be written meanwhile."""
        last = ""
        while rows := self.rows(f"{RECORDS} where id > :last order by id limit {PAGE}", {"last": last}):
            for row in rows:
                one = record(*row)
                yield one
            last = one.trace.id

    def _record(self, prefix: str) -> Record:
        ids = self.rows(
            f"""select id from runs where id >= :prefix and id < :prefix || char(0x10ffff)
                order by id = :prefix desc, id desc limit {CANDIDATES + 1}""",
            {"prefix": prefix},
        )
        if not ids:
            raise UnknownRun(f"no run's id starts with {prefix!r}", hint="jeito log")
        if len(ids) > 1 and ids[0] != (prefix,):
            several = ", ".join(id for (id,) in ids[:CANDIDATES]) + (", …" if ids[CANDIDATES:] else "")
            raise UnknownRun(f"several runs' ids start with {prefix!r}", hint=f"one of {several}")
        (row,) = self.rows(f"{RECORDS} where id = :id", {"id": ids[0][0]})
        return record(*row)

    def _newest(
        self, what: str, n: int, finish: Ended | None, behaviour: str | None, model: str | None, exact: bool | None
    ) -> list[tuple[Any, ...]]:
        known = (*get_args(Finish), "unfinished")
        if finish is not None and finish not in known:
            raise InputError(f"no run ends with {finish!r}", hint=nearest(finish, known))
        conditions = {
            "ifnull(finish, 'unfinished') = :finish": finish,
            ":behaviour in (behaviour, behaviour_fingerprint)": behaviour,
            ":model in (model, model_fingerprint)": model,
            "exact_held = :exact": exact,
        }
        where = " and ".join(condition for condition, value in conditions.items() if value is not None) or "true"
        return self.rows(
            f"{what} where {where} order by time desc, id desc limit :n",
            {"n": n, "finish": finish, "behaviour": behaviour, "model": model, "exact": exact},
        )

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed when all went well, else undone by closing the connection.

        A log of an older jeito gets its new tables with the first write.
        """
        with self._failing("written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect("mode=rwc")) as connection:
                connection.execute("pragma synchronous = normal")
                connection.execute("begin immediate")
                renew(connection)
                yield connection
                connection.execute("commit")
                # It fails while another process is at work: then a later write does it.
                with suppress(sqlite3.Error):
                    connection.execute("pragma journal_mode = wal")
                    if not self._idle:
                        idle = self._connect("mode=rw")
                        self._idle.append(idle)
                        idle.execute("pragma user_version")  # it counts once it has read

    def rows(self, query: str, values: dict[str, object], *, since: int = 1) -> list[tuple[Any, ...]]:
        """What a query finds; nothing in a log older than `since`, the version of the tables that it reads."""
        with self._failing("read"):
            if not self.path.exists():
                return []
            try:
                return _select(self._connect("mode=rw"), query, values, since)
            except sqlite3.OperationalError as error:
                if _kind(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                    raise
            return _select(self._connect_readonly(), query, values, since)

    def _connect(self, how: str) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?{how}"
        return sqlite3.connect(address, uri=True, timeout=self.patience, isolation_level=None, check_same_thread=False)

    def _connect_readonly(self) -> sqlite3.Connection:
        """For a folder that cannot be written, where SQLite can't make the shared memory that WAL needs.

        `immutable` would overlook what a dead process left in the -wal file; an exclusive connection reads it with an
        index of its own (https://sqlite.org/wal.html#noshm). Neither locks: who cannot write here stops no writer.
        """
        wal = self.path.with_name(self.path.name + "-wal")
        if not (wal.exists() and wal.stat().st_size):
            return self._connect("mode=ro&immutable=1")
        connection = self._connect("mode=ro&vfs=unix-none")
        connection.execute("pragma locking_mode = exclusive")
        return connection

    @contextmanager
    def _failing(self, verb: str) -> Iterator[None]:
        try:
            yield
        except NotOurs as error:
            raise LogError(f"{str(self.path)!r} {error}", hint=self._move_away()) from error
        except (sqlite3.Error, OSError, ValueError) as error:
            raise LogError(f"the log {str(self.path)!r} cannot be {verb}: {error}", hint=self._remedy(error)) from error

    def _remedy(self, error: Exception) -> str:
        kind = _kind(error)
        if isinstance(error, ValueError):
            return "the log holds JSON: Unicode text and plain values"
        if kind in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return self._move_away()
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"another process held it for {self.patience:g} seconds: fuser {shlex.quote(str(self.path))}"
        if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return f"is there room? df -h {shlex.quote(str(self.path.parent))}"
        return "give it another place: export JEITO_HOME=FOLDER"

    def _move_away(self) -> str:
        # What is new stands in the -wal file; left behind, it would be read into the next log.
        files = [end for end in ("", "-wal") if Path(f"{self.path}{end}").exists()]
        moves = [shlex.join(["mv", f"{self.path}{end}", f"{self.path}.old{end}"]) for end in files]
        return "move it away: " + " && ".join(moves)


def _close(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()


def _select(connection: sqlite3.Connection, query: str, values: dict[str, object], since: int) -> list[tuple[Any, ...]]:
    with closing(connection):
        connection.execute("begin")  # what is checked is what is read; closing ends it
        return connection.execute(query, values).fetchall() if version_of(connection) >= since else []


def _kind(error: Exception) -> int:
    """SQLite's primary result code; 0 for an error that is not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 255

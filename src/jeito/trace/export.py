"""The log as JSONL, out and in: a run a line, with its behaviour. Knows nothing of SQLite."""

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from jeito.errors import InputError, LogError
from jeito.trace.log import Log
from jeito.trace.rows import Record, complaint


class Imported(NamedTuple):
    added: int
    known: int


def export_jsonl(log: Log, file: Path) -> int:
    """Write every run of the log, one a line: {"trace": …, "behaviour": its canonical JSON as a string}; how many."""
    records = log.records()
    first = next(records, None)  # a log that cannot be read leaves an earlier export alone
    count = 0
    try:
        with file.open("wb") as lines:
            while first:
                lines.write(first.model_dump_json().encode() + b"\n")
                count += 1
                first = next(records, None)
    except OSError as error:
        raise LogError(f"{str(file)!r} cannot be written: {error.strerror}", hint="jeito log export FILE") from error
    return count


def import_jsonl(log: Log, file: Path) -> Imported:
    """Add the runs of an export; those already there stay as they are. The file is read whole before the log is locked.

    A line that is no run raises InputError, and nothing of the file is imported.
    """
    records: list[Record] = []
    try:
        # Bytes end lines at \n alone; text would end them at U+2028 too, which JSON may hold as it is.
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    records.append(_record(line, f"{file}:{number}"))
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}", hint="jeito log import FILE") from error
    added = log.add(records)
    return Imported(added, len(records) - added)


def _record(line: bytes, place: str) -> Record:
    try:
        return Record.model_validate_json(line)
    except ValidationError as error:
        raise InputError(
            f"{place} is no run: {complaint(error)}",
            hint="nothing of this file was imported; correct the line or delete it",
        ) from error
